"""A signal after a sweep's trials, or in a matrix: one line that names it, no choice, the same end once resumed."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.integration.commands import start
from tests.integration.test_preemption import write_rows

from understudy import models
from understudy.cli import compare
from understudy.errors import Preempted
from understudy.matrix import comparison
from understudy.matrix.cells import MatrixDir
from understudy.runs.directory import RunDir
from understudy.runs.episodes import FILE, read_episodes

PLUGIN = """
import os
import gymnasium, numpy as np
from gymnasium import spaces

class Signals(gymnasium.Env):
    observation_space, action_space = spaces.Box(-9, 9, (3,), np.float32), spaces.Box(-1, 1, (1,), np.float32)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.state = self.np_random.normal(size=3).astype(np.float32)
        return self.state, {}

    def step(self, action):
        with open(os.environ["STEPS"], "ab") as file:
            file.write(b".")
            if file.tell() == int(os.environ.get("AT", 0)):
                os.kill(os.getpid(), int(os.environ["SIGNAL"]))
        if os.path.getsize(os.environ["STEPS"]) >= int(os.environ.get("AT", 1 << 30)):
            __import__("time").sleep(0.05)  # a loop looks for the notice five times a second
        self.state = (0.9 * self.state + 0.1 * float(action[0])).astype(np.float32)
        return self.state, float(self.state.sum()), False, False, {}

gymnasium.register("Signals-v0", entry_point="signalling:Signals", max_episode_steps=10)
"""
"""An environment that counts its steps in a file, in whichever process they are made; one sends itself a signal."""
DATA = ("data_dir=datasets", "env_name=expert:Signals-v0", "hidden_dims=[8]", "batch_size=4", "training_steps=4")
EPISODES = 6
WORDS = (*DATA, "algo=bc", "eval_interval=0", "eval_episodes=2", "eval_envs=1", "save_dir=runs")


@pytest.fixture
def command(tmp_path: Path) -> Callable[..., str]:
    """Run a command with that environment, in a folder that has its data; return what it said."""
    (tmp_path / "signalling.py").write_text(PLUGIN)
    write_rows(tmp_path / "rows.pt")
    plugin = {"UNDERSTUDY_PLUGINS": "signalling", "PYTHONPATH": f"{tmp_path}:{os.environ.get('PYTHONPATH', '')}"}

    def run(*words: str, code: int = 0, sent: int = signal.SIGTERM, at: int = 0) -> str:
        (tmp_path / "steps").write_bytes(b"")
        more = {"AT": str(at), "SIGNAL": str(int(sent))} if at else {}
        process = start(*words, cwd=tmp_path, STEPS=str(tmp_path / "steps"), **more, **plugin)
        out, err = process.communicate(timeout=600)
        assert process.returncode == code, f"exit {process.returncode}, not {code}:\n{out}\n{err}"
        return err if code else out + err

    run("data", "import", "expert_buffer", "rows.pt", "--name", "expert:Signals-v0", "--data_dir", "datasets")
    return run


def counted(tmp_path: Path) -> int:
    return (tmp_path / "steps").stat().st_size


@pytest.mark.slow
def test_a_signal_in_each_stage_after_the_trials_ends_a_sweep_in_a_line_and_resume_ends_as_if_never_stopped(
    tmp_path, command
) -> None:
    one = (f"final_episodes={EPISODES}", "num_trials=1", "lr=1e-3,1e-4", "scheduler=none", "with_default=false")
    command("sweep", *WORDS, *one, "register_as=whole")
    whole = next((tmp_path / "runs").rglob("sweep_*/sweep.json")).parent
    played = EPISODES * 10 + 1  # one step tries the environment
    before = counted(tmp_path) - 3 * played  # confirmed, the registered seed's, loaded back
    assert before > 0

    (tmp_path / "runs").rename(tmp_path / "undisturbed")
    whole = tmp_path / "undisturbed" / whole.relative_to(tmp_path / "runs")
    said = command("sweep", *WORDS, *one, "register_as=stopped", code=143, at=before + 5)
    sweep = next((tmp_path / "runs").rglob("sweep_*/sweep.json")).parent
    assert said.splitlines()[-1] == f"understudy: stopped by SIGTERM; `understudy resume {sweep}` goes on"
    assert "Traceback" not in said
    assert counted(tmp_path) < before + played, "the confirmation went on"
    assert RunDir(sweep).state()["status"] == "interrupted"
    assert not (sweep / "best.json").exists()

    said = command("resume", str(sweep), code=130, sent=signal.SIGINT, at=played + 5)
    assert said.splitlines()[-1] == f"understudy: interrupted; `understudy resume {sweep}` goes on"
    assert counted(tmp_path) < 2 * played, "the registered seed's evaluation went on"
    assert not (sweep / "best.json").exists()
    uri = RunDir(sweep / "trials" / "0000").spec().placement.tracking()
    assert [model["name"] for model in models.list_models(uri)] == []

    said = command("resume", str(sweep), code=143, at=played + 5)  # the confirmation is not played again
    assert "stopped by SIGTERM" in said
    assert counted(tmp_path) < 2 * played, "the evaluation of the model that was loaded back went on"
    assert json.loads((sweep / "best.json").read_text())["model"] is None

    command("resume", str(sweep))
    assert counted(tmp_path) == played, "more was played than the last evaluation"
    assert RunDir(sweep).state()["status"] == "finished"
    assert not (sweep / ".stop").exists()
    assert read_episodes(sweep / FILE).equals(read_episodes(whole / FILE))
    assert (sweep / "best_eval.csv").read_bytes() == (whole / "best_eval.csv").read_bytes()
    found, expected = (json.loads((folder / "best.json").read_text()) for folder in (sweep, whole))
    assert found.pop("model") == "models:/stopped/1"
    assert expected.pop("model") == "models:/whole/1"
    for record in (found, expected):
        del record["folder"], record["why"], record["hash"]
    assert found == expected


@pytest.mark.slow
def test_a_signal_in_a_matrix_names_the_matrix_and_its_comparison_is_made_once_it_goes_on(
    tmp_path, command, monkeypatch
) -> None:
    words = [word for word in WORDS if not word.startswith("algo=")]
    said = command("compare", *words, "algo=bc,flow_bc", "tracking_uri=none", code=143, at=5)
    matrix = next((tmp_path / "runs").rglob("matrix.json")).parent
    (line,) = [line for line in said.splitlines() if line.startswith("understudy:")]
    assert f"`understudy resume {matrix}`" in line
    command("resume", str(matrix))
    before = (matrix / "comparison.csv").read_bytes()
    (matrix / "comparison.csv").unlink()

    result_of = comparison.result_of

    def terminated(*given: object) -> object:
        os.kill(os.getpid(), signal.SIGTERM)
        return result_of(*given)  # pyright: ignore[reportArgumentType]

    with monkeypatch.context() as patched:
        patched.setattr(comparison, "result_of", terminated)
        with pytest.raises(Preempted, match=f"stopped by SIGTERM; `understudy resume {matrix}` goes on"):
            compare.drive_matrix(MatrixDir(matrix))
    assert signal.getsignal(signal.SIGTERM) is not None
    assert not (matrix / ".stop").exists()
    assert not (matrix / "comparison.csv").exists()
    compare.drive_matrix(MatrixDir(matrix))
    assert (matrix / "comparison.csv").read_bytes() == before
