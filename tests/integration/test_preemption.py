"""SIGTERM, as schedulers send it, and Ctrl-C: a checkpoint, an exit code that says so, resume equals never stopping."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from tests.integration.breaking import only
from tests.integration.commands import SMALL, Process, run, start

from understudy import checkpoints
from understudy.loading import load_policy
from understudy.runs.directory import RunDir, read_csv

WORDS = ("training_steps=900", "log_interval=25", "eval_interval=450", "tracking_uri=none", "checkpoint_seconds=1000")


def wait_until(ready: Callable[[], bool], process: Process) -> None:
    while not ready():
        assert process.poll() is None, process.communicate()
        time.sleep(0.02)


def terminate_when(process: Process, ready: Callable[[], bool]) -> str:
    """Send SIGTERM to the group as soon as `ready()`, and return what the process said; it must have ended with 143."""
    wait_until(ready, process)
    os.killpg(process.pid, signal.SIGTERM)
    out, err = process.communicate(timeout=600)
    assert process.returncode == 143, f"exit {process.returncode}\n{out}\n{err}"
    return err


def press_ctrl_c(process: Process) -> None:
    """Send SIGINT to every process of the group, as a terminal does."""
    os.killpg(process.pid, signal.SIGINT)


def press_ctrl_c_when(process: Process, ready: Callable[[], bool]) -> str:
    """Press Ctrl-C as soon as `ready()`, and return what the process said; it must have ended with 130."""
    wait_until(ready, process)
    press_ctrl_c(process)
    out, err = process.communicate(timeout=600)
    assert process.returncode == 130, f"exit {process.returncode}\n{out}\n{err}"
    return err


def steps(root: Path) -> int:
    logs = [path for path in root.rglob("train.csv") if path.stat().st_size]
    return max((int(rows[-1]["step"]) for rows in map(read_csv, logs) if rows), default=0)


@pytest.fixture(scope="module")
def whole(hopper_data, tmp_path_factory) -> Path:
    """Train one run that nothing happens to; return its folder."""
    root = tmp_path_factory.mktemp("whole")
    run("train", *SMALL, *WORDS, "save_dir=runs", cwd=root)
    return only(root)


def assert_stopped(folder: Path, said: str, how: str) -> None:
    """Check the line, the state and the folder of a run that a signal ended after a checkpoint."""
    state = RunDir(folder).state()
    line = f"understudy: {how} at step {state['step']}; `understudy resume {folder}` goes on"
    assert [text for text in said.splitlines() if text and "stopping after" not in text] == [line]
    assert state["status"] == "interrupted"
    assert 100 <= state["step"] < 900
    assert not (folder / ".stop").exists()


def test_a_run_that_is_told_to_stop_saves_and_goes_on_to_the_same_end(whole, tmp_path) -> None:
    process = start("train", *SMALL, *WORDS, "save_dir=stopped", cwd=tmp_path)
    said = terminate_when(process, lambda: steps(tmp_path / "stopped") >= 100)
    folder = only(tmp_path / "stopped")
    assert_stopped(folder, said, "stopped by SIGTERM")
    run("resume", str(folder), cwd=tmp_path)
    one, two = (load_policy(path).weights() for path in (whole, folder))
    assert all(torch.equal(one[name], two[name]) for name in one)
    for file in ("train.csv", "eval.csv"):
        assert (whole / file).read_bytes() == (folder / file).read_bytes()


@pytest.mark.slow
def test_ctrl_c_saves_names_the_run_and_resume_goes_on_to_the_same_end(whole, tmp_path) -> None:
    process = start("train", *SMALL, *WORDS, "loader_workers=1", "save_dir=stopped", cwd=tmp_path)
    said = press_ctrl_c_when(process, lambda: steps(tmp_path / "stopped") >= 100)
    folder = only(tmp_path / "stopped")
    assert_stopped(folder, said, "interrupted")
    run("resume", str(folder), cwd=tmp_path)
    for file in ("train.csv", "eval.csv"):
        assert (whole / file).read_bytes() == (folder / file).read_bytes()


@pytest.mark.slow
def test_ray_workers_are_told_to_stop_and_resumed_and_interrupted_and_resumed_to_the_same_end(whole, tmp_path) -> None:
    process = start("train", *SMALL, *WORDS, "save_dir=stopped", "launcher=ray", "num_workers=2", cwd=tmp_path)
    said = terminate_when(process, lambda: steps(tmp_path / "stopped") >= 100)
    folder = only(tmp_path / "stopped")
    assert_stopped(folder, said, "stopped by SIGTERM")
    before = RunDir(folder).state()["step"]
    process = start("resume", str(folder), cwd=tmp_path)
    said = press_ctrl_c_when(process, lambda: steps(folder) >= before + 50)
    assert_stopped(folder, said, "interrupted")
    run("resume", str(folder), cwd=tmp_path)
    one, two = (load_policy(path).weights() for path in (whole, folder))
    for name in one:
        torch.testing.assert_close(one[name], two[name], rtol=1e-3, atol=1e-4)


def write_rows(path: Path) -> None:
    """Write 6 episodes of 10 steps, 3 observation dims and 1 action dim, as TorchRL saves them."""
    rng = torch.Generator().manual_seed(0)
    done = torch.zeros(60, 1, dtype=torch.bool)
    done[9::10] = True
    states = torch.randn(6, 11, 3, generator=rng)
    after = {"observation": states[:, 1:].reshape(60, 3), "reward": torch.zeros(60, 1)}
    ends = {"done": done, "terminated": done, "truncated": torch.zeros_like(done)}
    actions = torch.rand(60, 1, generator=rng) * 2 - 1
    torch.save({"observation": states[:, :-1].reshape(60, 3), "action": actions, "next": {**after, **ends}}, path)


HANGING = """
import time
import gymnasium, numpy as np
from gymnasium import spaces

class Hanging(gymnasium.Env):
    observation_space, action_space = spaces.Box(-9, 9, (3,), np.float32), spaces.Box(-1, 1, (1,), np.float32)

    def reset(self, *, seed=None, options=None):
        self.steps = 0
        return np.zeros(3, np.float32), {}

    def step(self, action):
        self.steps += 1
        if self.steps == 5:
            open("hanging", "w").close()
            time.sleep(1000)
        return np.zeros(3, np.float32), 0.0, False, False, {}

gymnasium.register("Hanging-v0", entry_point="hanging:Hanging", max_episode_steps=10)
"""
"""An environment that never comes back from its fifth step."""


def test_a_second_ctrl_c_ends_a_run_at_once_and_keeps_what_is_written(tmp_path) -> None:
    (tmp_path / "hanging.py").write_text(HANGING)
    write_rows(tmp_path / "rows.pt")
    plugin = {"UNDERSTUDY_PLUGINS": "hanging", "PYTHONPATH": f"{tmp_path}:{os.environ.get('PYTHONPATH', '')}"}
    data = ("data_dir=datasets", "env_name=expert:Hanging-v0")
    run("data", "import", "expert_buffer", "rows.pt", "--name", "expert:Hanging-v0", "--data_dir", "datasets",
        cwd=tmp_path, **plugin)  # fmt: skip
    words = ("algo=bc", *data, "training_steps=20", "eval_interval=10", "log_interval=5", "checkpoint_seconds=0",
             "hidden_dims=[8]", "batch_size=4", "tracking_uri=none")  # fmt: skip
    process = start("train", *words, cwd=tmp_path, **plugin)
    wait_until((tmp_path / "hanging").exists, process)
    folder = only(tmp_path)
    press_ctrl_c(process)
    wait_until((folder / ".stop").exists, process)  # two that come within an instant are one
    press_ctrl_c(process)
    _, said = process.communicate(timeout=600)
    assert process.returncode == 130, said
    assert "Traceback" not in said
    assert f"`understudy resume {folder}` goes on from the last checkpoint" in said
    assert RunDir(folder).state()["status"] == "interrupted"
    assert [row["step"] for row in read_csv(folder / "train.csv")] == [5, 10]
    assert checkpoints.load_newest(folder / "resume")["step"] in (9, 10)


@pytest.mark.slow
def test_a_sweep_that_is_told_to_stop_saves_its_trials_and_goes_on(hopper_data, tmp_path) -> None:
    words = ("sampler=grid", "scheduler=none", "num_trials=2", "max_concurrent=2", "lr=0.001,0.0001")
    shared = (*SMALL, *WORDS, *words, "training_steps=2000", "register_as=none", "with_default=false")
    process = start("sweep", *shared, "save_dir=stopped", cwd=tmp_path)
    said = terminate_when(process, lambda: steps(tmp_path / "stopped") >= 200)
    sweep = only(tmp_path / "stopped", "sweep.json")
    assert f"`understudy resume {sweep}` goes on" in said
    states = [RunDir(folder).state() for folder in sorted((sweep / "trials").iterdir())]
    begun = [state for state in states if state.get("status") == "interrupted"]
    assert begun, f"{states}\n{said}"
    assert all(state["step"] > 0 for state in begun)
    out = run("resume", str(sweep), cwd=tmp_path)
    assert "Traceback" not in out
    assert [RunDir(folder).state()["status"] for folder in sorted((sweep / "trials").iterdir())] == ["finished"] * 2


SLOW = (
    HANGING.replace("import time", "import glob, os, time")
    .replace(
        "time.sleep(1000)",
        """while os.environ.get("SLOWLY") and not glob.glob("stopped/**/.stop", recursive=True):
                time.sleep(0.02)""",
    )
    .replace(
        "return np.zeros(3, np.float32), 0.0, False, False, {}",
        'time.sleep(0.02 if os.environ.get("SLOWLY") else 0)\n'
        "        return np.full(3, float(action[0]), np.float32), float(action[0]), False, False, {}",
    )
)


@pytest.mark.parametrize("processes", ["false", pytest.param("true", marks=pytest.mark.slow)])
def test_an_evaluation_is_stopped_between_its_steps_and_made_again_with_the_same_rows(tmp_path, processes) -> None:
    (tmp_path / "hanging.py").write_text(SLOW)
    write_rows(tmp_path / "rows.pt")
    plugin = {"UNDERSTUDY_PLUGINS": "hanging", "PYTHONPATH": f"{os.environ.get('PYTHONPATH', '')}:{tmp_path}"}
    run("data", "import", "expert_buffer", "rows.pt", "--name", "expert:Hanging-v0", "--data_dir", "datasets",
        cwd=tmp_path, **plugin)  # fmt: skip
    words = ("algo=bc", "data_dir=datasets", "env_name=expert:Hanging-v0", "training_steps=20", "eval_interval=10",
             "log_interval=5", "hidden_dims=[8]", "batch_size=4", "tracking_uri=none", "eval_episodes=200",
             "validation_fraction=0.4", f"eval_processes={processes}")  # fmt: skip
    run("train", *words, "save_dir=undisturbed", cwd=tmp_path, **plugin)
    (tmp_path / "hanging").unlink()
    process = start("train", *words, "save_dir=stopped", cwd=tmp_path, **plugin, SLOWLY="1")
    said = terminate_when(process, (tmp_path / "hanging").exists)  # its environments wait for the notice
    folder = only(tmp_path / "stopped")
    assert "stopped by SIGTERM at step 10" in said
    assert RunDir(folder).state()["step"] == 10
    assert not (folder / "eval.csv").exists() or not read_csv(folder / "eval.csv")
    run("resume", str(folder), cwd=tmp_path, **plugin)
    for file in ("train.csv", "eval.csv"):
        assert (only(tmp_path / "undisturbed") / file).read_bytes() == (folder / file).read_bytes()
    assert [row["step"] for row in read_csv(folder / "eval.csv")] == [10, 20]


def test_an_environment_without_a_limit_is_refused_before_training_and_a_limit_bounds_it(tmp_path) -> None:
    (tmp_path / "hanging.py").write_text(SLOW.replace(", max_episode_steps=10", ""))
    write_rows(tmp_path / "rows.pt")
    plugin = {"UNDERSTUDY_PLUGINS": "hanging", "PYTHONPATH": f"{os.environ.get('PYTHONPATH', '')}:{tmp_path}"}
    run("data", "import", "expert_buffer", "rows.pt", "--name", "expert:Hanging-v0", "--data_dir", "datasets",
        cwd=tmp_path, **plugin)  # fmt: skip
    words = ("algo=bc", "data_dir=datasets", "env_name=expert:Hanging-v0", "training_steps=4", "eval_episodes=2",
             "hidden_dims=[8]", "batch_size=4", "tracking_uri=none", "save_dir=runs")  # fmt: skip
    said = run("train", *words, cwd=tmp_path, code=2, **plugin)
    assert "sets no limit to the steps of an episode" in said
    assert "eval_max_steps=1000" in said
    assert len(said.strip().splitlines()) == 1
    assert not (tmp_path / "runs").exists()
    run("train", *words, "eval_max_steps=7", cwd=tmp_path, **plugin)
    assert [row["length"] for row in read_csv(only(tmp_path / "runs") / "eval.csv")] == [7]
