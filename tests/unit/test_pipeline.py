"""A pipeline: its words, the score between chance and expert, and what is refused before anything is done."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from tests.unit.command_line import Said, understudy

from understudy.cli.pipeline import plan
from understudy.envs.store.inspection import has_unit_actions
from understudy.errors import SpecError, UserError
from understudy.matrix.cells import cells_of
from understudy.matrix.comparison import compare
from understudy.matrix.normalised import normalised
from understudy.matrix.outcomes import SCORE, results_of
from understudy.matrix.picture import draw
from understudy.matrix.pipeline import is_pipeline, read_words
from understudy.registry import sources
from understudy.spec.compose import to_overrides

SEED_004 = ("--env", "Pendulum-v1", "--expert-frames", "50000", "--ipmd-frames", "50000", "--bc-epochs", "50")


def scores(seed: int = 0, *, random: float = -1200.0, learner: float = -300.0) -> dict[str, np.ndarray]:
    """Return what methods might reach on 50 states that they share; seed 1 of sac is the expert."""
    rng = np.random.default_rng(seed)
    states = rng.normal(0, 60, 50)

    def of(mean: float, seeds: int, spread: float) -> np.ndarray:
        return mean + states + rng.normal(0, spread, (seeds, 1)) + rng.normal(0, 30, (seeds, 50))

    sac = of(-150, 3, 5)
    return {"random": of(random, 1, 0), "expert": sac[[1]], "sac": sac, "bc": of(learner, 3, 40)}


# ---- the score ----


def test_the_normalised_score_is_the_ratio_and_its_interval_covers_it() -> None:
    found = scores()
    score = normalised(found["bc"], found["random"], found["expert"])
    means = {name: values.mean() for name, values in found.items()}
    ratio = (means["bc"] - means["random"]) / (means["expert"] - means["random"])
    assert score is not None
    assert score.mean == pytest.approx(ratio)
    assert score.low < ratio < score.high < 1
    assert (score.n_seeds, score.n_episodes) == (3, 50)


def test_the_normalised_score_is_0_for_chance_1_for_the_expert_and_the_same_in_other_units() -> None:
    found = scores()
    for name, value in (("random", 0.0), ("expert", 1.0)):
        score = normalised(found[name], found["random"], found["expert"])
        assert score is not None
        assert score.mean == pytest.approx(value)
    one = normalised(found["bc"], found["random"], found["expert"])
    other = normalised(*(5 * found[name] + 7000 for name in ("bc", "random", "expert")))
    assert one is not None
    assert other is not None
    assert (other.mean, other.low, other.high) == pytest.approx((one.mean, one.low, one.high))


def test_the_interval_of_the_score_covers_the_true_one_about_as_often_as_it_says() -> None:
    true = (-300 + 1200) / (-150 + 1200)
    inside = 0
    for seed in range(200):
        found = scores(seed)
        rng = np.random.default_rng([seed, 1])  # an expert of its own: not one of many seeds
        found["expert"] = -150 + (found["random"] + 1200) * 0 + rng.normal(0, 30, (1, 50))
        score = normalised(found["bc"], found["random"], found["expert"])
        assert score is not None
        inside += score.low <= true <= score.high
    assert 175 <= inside <= 200


def test_there_is_no_score_where_the_expert_cannot_be_told_from_chance() -> None:
    found = scores(random=-150.0)
    assert normalised(found["bc"], found["random"], found["expert"]) is None
    assert all(SCORE not in item.metrics for item in results_of("Pendulum-v1", found))


def test_the_expert_is_compared_with_all_but_the_method_that_it_is_a_seed_of(tmp_path: Path) -> None:
    results = results_of("Pendulum-v1", scores())
    pairs = [(pair["first"], pair["second"]) for pair in compare(results)["pairs"]]
    assert ("expert", "sac") not in pairs
    assert ("expert", "bc") in pairs
    assert ("random", "bc") in pairs
    draw(tmp_path / "comparison.png", results, {"seed": 1, "num_transitions": 10_000})
    assert (tmp_path / "comparison.png").read_bytes().startswith(b"\x89PNG")


# ---- words ----


def test_the_seeds_own_command_is_a_pipeline_of_three_runs_and_three_seeds(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert is_pipeline(SEED_004)
    words = read_words([*SEED_004, "--device", "cpu", "--no-wandb"])
    cells, demonstrations, specs = plan(words)
    assert [cell.method for cell in cells] == ["sac", "ipmd", "bc"]
    assert [spec.training_steps for spec in specs[:2]] == [50_000, 50_000]
    assert "epochs=50" in cells[2].words
    assert all(spec.all_seeds == (0, 1, 2) and spec.placement.device == "cpu" for spec in specs)
    assert specs[2].flat()["policy"] == "mse"
    buffer = tmp_path / "comparison_results" / "Pendulum-v1" / demonstrations
    assert {spec.data.expert_data for spec in specs[1:]} == {str(buffer)}


def test_a_stage_is_named_by_what_it_depends_on(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)

    def stages(*words: str) -> tuple[list[str], str]:
        cells, demonstrations, _ = plan(read_words([*SEED_004, *words]))
        return [cell.folder for cell in cells], demonstrations

    (sac, ipmd, bc), shown = stages()
    assert stages("bc.lr=1e-3")[0][:2] == [sac, ipmd]
    assert stages("bc.lr=1e-3")[0][2] != bc
    others, fewer = stages("expert_episodes=10")
    assert others[0] == sac
    assert fewer != shown
    assert set(others[1:]).isdisjoint({ipmd, bc})
    assert set(stages("sac.lr=1e-3")[0]).isdisjoint({sac, ipmd, bc})
    assert stages("eval_interval=7", "final_episodes=3") == ([sac, ipmd, bc], shown)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("algo=bc",), "a pipeline trains sac, ipmd, bc"),
        (("frames=10",), "expert_frames=, ipmd_frames= and bc_epochs="),
        (("lr=1e-3,1e-4",), "lr has several values"),
        (("bd.lr=1e-3",), "'bd' is none of the methods here; allowed: bc, ipmd, sac"),
        (("ipmd.seed=1",), "seed is the same for all methods"),
        (("expert_episodes=0",), "expert_episodes=0: must be greater than or equal to 1"),
        (("expert_frames=100",), "training_steps=100 leaves no update"),
        (("env=Pendulumm-v1",), "did you mean 'Pendulum-v1'?"),
        (("env=CartPole-v1",), "its actions are Discrete(2)"),
        (("expert_run=nowhere",), "no such run"),
        (("lrr=1",), "did you mean 'lr'?"),
    ],
)
def test_what_a_pipeline_cannot_do_is_one_line_and_nothing_is_written(
    words, said, tmp_path, monkeypatch, capsys
) -> None:
    monkeypatch.chdir(tmp_path)
    given = [word for word in words if not word.startswith("env=")]
    env = next((word for word in words if word.startswith("env=")), "env=Pendulum-v1")
    kept = [] if any(word.startswith("expert_frames") for word in words) else ["expert_frames=2000"]
    printed = understudy(monkeypatch, capsys, "compare", env, *kept, "ipmd_frames=2000", *given)
    refused(printed, said)
    assert not list(tmp_path.rglob("*.json"))


def refused(printed: Said, said: str) -> None:
    assert printed.code == 2, printed.out + printed.err
    lines = [line for line in printed.err.splitlines() if line.startswith("understudy: ")]
    assert len(lines) == 1
    assert said in lines[0], lines[0]


def test_keys_of_one_method_go_to_its_cells_alone_and_over_what_all_are_given() -> None:
    cells = cells_of(("algo=bc,flow_bc", "env_name=a", "lr=1e-3", "bc.lr=1e-4", "bc.policy=mse", "epochs=3"), "compare")
    assert cells[0].words == ("epochs=3", "lr=1e-4", "policy=mse", "algo=bc", "env_name=a")
    assert cells[1].words == ("lr=1e-3", "epochs=3", "algo=flow_bc", "env_name=a")
    cells = cells_of(("algo=ipmd,bc", "env_name=a", "frames=5000", "epochs=3"), "compare")
    assert cells[0].words[0] == "frames=5000"
    assert cells[1].words[0] == "epochs=3"
    with pytest.raises(SpecError, match="none of bc takes it"):
        cells_of(("algo=bc,flow_bc", "env_name=a", "bc.flow_steps=5"), "compare")


def test_a_flag_that_keeps_wandb_off_is_taken_and_changes_nothing() -> None:
    assert to_overrides(["--frames", "10", "--no-wandb", "--lr=1e-3"]) == ["frames=10", "lr=1e-3"]


# ---- expert buffers ----


def write_buffer(folder: Path, *, observations: int = 3, actions: int = 1, env_name: str = "Pendulum-v1") -> Path:
    """Write an expert buffer of 2 episodes of 20 steps."""
    rng = np.random.default_rng(0)
    episodes = [
        {
            "observations": rng.normal(size=(20, observations)).astype(np.float32),
            "actions": rng.uniform(-2, 2, (20, actions)).astype(np.float32),
            "rewards": rng.normal(size=20).astype(np.float32),
            "terminals": np.zeros(20, bool),
            "final_observation": rng.normal(size=observations).astype(np.float32),
        }
        for _ in range(2)
    ]
    sources.get("expert_buffer").write(folder, episodes, env_name, {})
    return folder / "expert_buffer.pt"


ONLINE = ("algo=ipmd", "frames=300", "start_training=100", "hidden_dims=[8]", "eval_episodes=1", "tracking_uri=none")
OFFLINE = ("algo=bc", "policy=mse", "epochs=3", "hidden_dims=[8]", "eval_episodes=1", "tracking_uri=none")


@pytest.mark.parametrize("words", [ONLINE, OFFLINE])
@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"observations": 4}, "the data have observations (4,) and 1 action dims, the environment (3,) and 1"),
        ({"actions": 2}, "the data have observations (3,) and 2 action dims, the environment (3,) and 1"),
        ({"env_name": "Pendulumm-v1"}, "did you mean 'Pendulum-v1'?"),
        ({"env_name": "CartPole-v1"}, "its actions are Discrete(2)"),
    ],
)
def test_a_buffer_of_another_environment_is_one_line_and_nothing_is_written(
    words, changes, said, tmp_path, monkeypatch, capsys
) -> None:
    monkeypatch.chdir(tmp_path)
    buffer = write_buffer(tmp_path / "data", **changes)
    refused(understudy(monkeypatch, capsys, "train", *words, f"expert_data={buffer}"), said)
    assert not list(tmp_path.rglob("flags.json"))


@pytest.mark.parametrize("words", [ONLINE, OFFLINE])
def test_a_buffer_whose_next_observations_repeat_is_refused(words, tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    buffer = write_buffer(tmp_path / "data")
    rows = torch.load(buffer, weights_only=False)
    rows["next", "observation"] = rows["observation"].clone()
    torch.save(rows, buffer)
    said = "each next observation is the observation itself"
    printed = understudy(monkeypatch, capsys, "train", *words, f"expert_data={buffer}")
    refused(printed, said)
    assert "collect it again with `understudy expert --env Pendulum-v1`" in printed.err


@pytest.mark.parametrize(("name", "unit"), [("Pendulum-v1", False), ("hopper-medium-v2", True), ("my-own", True)])
def test_actions_are_clipped_to_1_only_where_the_environment_spans_that(name, unit) -> None:
    assert has_unit_actions(name) is unit


@pytest.mark.parametrize(
    ("content", "said"),
    [(b"PK\x03\x04 not a zip", "not a readable file of torch.save"), (b"", "not a readable file of torch.save")],
)
def test_a_damaged_buffer_is_one_line(content, said, tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    buffer = write_buffer(tmp_path / "data")
    buffer.write_bytes(content)
    refused(understudy(monkeypatch, capsys, "train", *OFFLINE, f"expert_data={buffer}"), said)


class Foreign:
    def __reduce__(self):
        return (print, ("code of a stranger was run",))


def test_a_foreign_pickle_is_refused_and_not_run(tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    buffer = write_buffer(tmp_path / "data")
    torch.save({"observation": Foreign()}, buffer)
    printed = understudy(monkeypatch, capsys, "train", *OFFLINE, f"expert_data={buffer}")
    refused(printed, "only tensors are read")
    assert "stranger" not in printed.out


@pytest.mark.parametrize("words", [ONLINE, OFFLINE])
def test_a_missing_buffer_is_one_line_with_the_command_that_makes_it(words, tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    printed = understudy(monkeypatch, capsys, "train", *words, "expert_data=expert_data/Pendulum-v1/expert_buffer.pt")
    refused(printed, "make it with `understudy expert --env Pendulum-v1`")


def test_epochs_are_passes_over_the_data_and_are_said_as_steps(tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    buffer = write_buffer(tmp_path / "data")
    printed = understudy(
        monkeypatch, capsys, "train", *OFFLINE, "--batch-size", "16", f"--expert-data={buffer}", "--cfg"
    )
    assert printed.code == 0, printed.err
    assert printed.yaml["training_steps"] == 8  # 3 x 40 / 16, rounded up
    assert printed.yaml["env_name"] == "Pendulum-v1"
    assert "epochs=3: 3 passes over 40 samples are training_steps=8 of 16" in printed.err
    for words, said in (
        (("training_steps=5",), "epochs=3 and training_steps=5 both say how long"),
        (("epochs=0",), "epochs=0: must be a number above 0"),
    ):
        given = [word for word in OFFLINE if not word.startswith("epochs") or not words[0].startswith("epochs")]
        refused(understudy(monkeypatch, capsys, "train", *given, *words, f"expert_data={buffer}"), said)
    refused(
        understudy(monkeypatch, capsys, "train", *ONLINE, "epochs=3", f"expert_data={buffer}"), "epochs=3 and frames"
    )


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--episodes", "0"), "--episodes=0: must be greater than or equal to 1; see `understudy expert --help`"),
        (("--episodes", "x"), "--episodes=x: must be a valid integer"),
        (("--frames", "100"), "training_steps=100 leaves no update"),
        (("--env", "Pendulumm-v1"), "did you mean 'Pendulum-v1'?"),
        (("--env", "CartPole-v1"), "its actions are Discrete(2)"),
        (("--run", "nowhere"), "no such run"),
    ],
)
def test_what_is_no_expert_is_one_line_and_nothing_is_written(words, said, tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    refused(understudy(monkeypatch, capsys, "expert", *words), said)
    assert not list(tmp_path.rglob("*.json"))


def test_an_expert_of_another_run_is_not_written_over(tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    write_buffer(tmp_path / "expert_data" / "Pendulum-v1")
    refused(understudy(monkeypatch, capsys, "expert", "--env", "Pendulum-v1"), "--overwrite replaces them")


def test_numbers_of_demonstrations_that_show_nothing_are_refused() -> None:
    from understudy.runs.demonstrating import Wanted

    with pytest.raises(UserError, match="transitions=-1"):
        Wanted(transitions=-1).check()
