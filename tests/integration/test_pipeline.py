"""Expert, demonstrations, learners: what is collected, and pipelines that are killed in each of their stages."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from tests.integration.commands import kill_when, start

from understudy.envs.sources.expert_buffer.rows import read_rows

LITTLE = ("hidden_dims=[16,16]", "batch_size=16", "start_training=100", "eval_episodes=1", "tracking_uri=none")
EXPERT = ("expert", "--env", "Pendulum-v1", "--frames", "200", *LITTLE)
PIPELINE = (
    *("compare", "--env", "Pendulum-v1", "--expert-frames", "300", "--ipmd-frames", "300", "--bc-epochs", "4"),
    *("seeds=[0,1]", "final_episodes=2", "expert_episodes=2", "checkpoint_seconds=0.02", "log_interval=50", *LITTLE),
)


def rows_of(folder: Path) -> dict[str, np.ndarray]:
    return read_rows(folder / "expert_buffer.pt")


def test_what_is_collected_follows_step_by_step_and_is_the_same_again(done, tmp_path) -> None:
    said = done(*EXPERT, "--seed", "3", "--episodes", "2", "--save-dir", "one")
    folder = tmp_path / "one" / "Pendulum-v1"
    assert "2 episodes, 400 transitions, deterministic actions" in said
    rows = rows_of(folder)
    inside = ~rows["done"][:-1]
    assert rows["done"].sum() == 2
    assert np.array_equal(rows["next_observations"][:-1][inside], rows["observations"][1:][inside])
    assert (rows["next_observations"] != rows["observations"]).any(axis=1).all()
    assert rows["truncated"].sum() == 2
    assert not rows["terminated"].any()
    metadata = torch.load(folder / "metadata.pt", weights_only=True)
    assert metadata["env_name"] == "Pendulum-v1"
    assert (metadata["total_frames"], metadata["num_transitions"], metadata["num_expert_episodes"]) == (200, 400, 2)
    assert metadata["expert_avg_reward"] == pytest.approx(rows["rewards"].sum() / 2, rel=1e-5)
    assert (metadata["seed"], metadata["expert_avg_length"], metadata["deterministic"]) == (3, 200.0, True)
    assert "Pendulum-v1" in (folder / "README.txt").read_text()

    assert "are there already" in done(*EXPERT, "--seed", "3", "--episodes", "2", "--save-dir", "one")
    run = metadata["run"]
    again = done("expert", "--run", run, "--episodes", "2", "--save-dir", "two")
    assert "trained already" in again
    for name, values in rows_of(tmp_path / "two" / "Pendulum-v1").items():
        assert np.array_equal(values, rows[name]), name
    done("expert", "--run", run, "--transitions", "500", "--sampled", "--save-dir", "three")
    drawn = rows_of(tmp_path / "three" / "Pendulum-v1")
    assert len(drawn["actions"]) == 600  # whole episodes
    assert np.array_equal(drawn["observations"][0], rows["observations"][0])
    assert not np.array_equal(drawn["actions"][:200], rows["actions"][:200])

    buffer = f"expert_data={folder / 'expert_buffer.pt'}"
    cells = done("compare", "algo=ipmd,bc", buffer, "frames=300", "epochs=2", "bc.policy=mse", "--cfg")
    assert "epochs=2 policy=mse algo=bc env_name=Pendulum-v1" in cells
    assert "frames=300 algo=ipmd env_name=Pendulum-v1" in cells
    swept = done("sweep", "algo=bc", "policy=mse", buffer, "epochs=2", "batch_size=20", "lr=1e-3,1e-4", "--cfg")
    assert "training_steps: 40" in swept
    assert done("sweep", "algo=bc", buffer, "epochs=2", "batch_size=16,32", "--cfg", code=2).count("\n") == 1


def matrix(root: Path) -> Path:
    return root / "comparison_results" / "Pendulum-v1"


def state(root: Path, method: str) -> dict:
    files = list(matrix(root).glob(f"cells/{method}-*/run.json"))
    return json.loads(files[0].read_text()) if files else {}


def moments(root: Path) -> list[Callable[[], bool]]:
    """Return when the pipeline is killed: in each stage once."""
    return [
        lambda: state(root, "sac").get("step", 0) > 150,
        lambda: state(root, "sac").get("status") == "finished",
        lambda: state(root, "ipmd").get("step", 0) > 150,
        lambda: state(root, "bc").get("step", 0) > 0,
        lambda: any(matrix(root).glob("evaluations/*.arrow")),
    ]


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_a_pipeline_killed_in_each_stage_ends_as_one_that_was_not_and_is_not_done_twice(done, tmp_path) -> None:
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    for folder in (whole, broken):
        folder.mkdir()
    done(*PIPELINE, "--save-dir", str(whole / "comparison_results"))
    words = (*PIPELINE, "--save-dir", str(broken / "comparison_results"))
    for number, moment in enumerate(moments(broken)):
        resumed = ("resume", str(matrix(broken))) if number % 2 else words
        kill_when(start(*resumed, cwd=tmp_path), moment)
    done(*words)
    texts = [matrix(root).joinpath("results.txt").read_text() for root in (whole, broken)]
    assert texts[0] == texts[1]
    for line in ("random", "expert", "sac", "ipmd", "bc"):
        assert f"\n{line} " in texts[0]
    for name in [path.relative_to(matrix(whole)) for path in matrix(whole).glob("cells/*/sd*/*.csv")]:
        mine, theirs = ((matrix(root) / name) for root in (broken, whole))
        if name.name != "timing.csv":
            method = name.parts[1].split("-")[0]
            seed, file = name.parts[-2:]
            mine = next(matrix(broken).glob(f"cells/{method}-*/{seed}/{file}"))
            assert mine.read_text() == theirs.read_text(), name
    one, other = (next(matrix(root).glob("demonstrations/*")) for root in (whole, broken))
    assert all(np.array_equal(values, rows_of(other)[name]) for name, values in rows_of(one).items())
    assert (matrix(broken) / "comparison.png").read_bytes().startswith(b"\x89PNG")

    before = {path: path.stat().st_mtime_ns for path in matrix(broken).rglob("final_model.pt")}
    again = done(*words)
    assert again.count("done already") == 4
    assert before == {path: path.stat().st_mtime_ns for path in matrix(broken).rglob("final_model.pt")}
    expert = next(matrix(broken).glob("cells/sac-*"))
    reused = done(*words[:-2], "--save-dir", str(tmp_path / "reused"), f"expert={expert}", "--cfg").splitlines()
    assert reused[0] == f"# expert: {expert}"
    assert ["algo=ipmd" in reused[1], "algo=bc" in reused[2]] == [True, True]
    assert not (tmp_path / "reused").exists()
