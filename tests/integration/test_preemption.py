"""SIGTERM, as schedulers send it: a checkpoint is written, the exit code says so, and resume equals never stopping."""

from __future__ import annotations

import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from tests.integration.commands import SMALL, run, start
from tests.integration.test_run_directory import only_run

from understudy.loading import load_policy
from understudy.runs.directory import RunDir, read_csv

WORDS = ("training_steps=1500", "log_interval=50", "eval_interval=500", "tracking_uri=none", "checkpoint_seconds=1000")


def terminate_when(process: subprocess.Popen[str], ready: Callable[[], bool]) -> str:
    """Send SIGTERM as soon as `ready()`, and return what the process said; it must have ended with 143."""
    while not ready():
        assert process.poll() is None, process.communicate()
        time.sleep(0.02)
    process.send_signal(signal.SIGTERM)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 143, f"exit {process.returncode}\n{out}\n{err}"
    return err


def steps(root: Path) -> int:
    logs = [path for path in root.rglob("train.csv") if path.stat().st_size]
    return max((int(rows[-1]["step"]) for rows in map(read_csv, logs) if rows), default=0)


@pytest.mark.parametrize("launcher", ["inline", pytest.param("ray", marks=pytest.mark.slow)])
def test_a_run_that_is_told_to_stop_saves_and_goes_on_to_the_same_end(hopper_data, tmp_path, launcher) -> None:
    run("train", *SMALL, *WORDS, "save_dir=undisturbed", cwd=tmp_path)
    extra = ("launcher=ray", "num_workers=2") if launcher == "ray" else ()
    process = start("train", *SMALL, *WORDS, "save_dir=stopped", *extra, cwd=tmp_path)
    said = terminate_when(process, lambda: steps(tmp_path / "stopped") >= 300)
    folder = only_run(tmp_path / "stopped")
    step = RunDir(folder).state()["step"]
    assert 300 <= step < 1500
    assert f"stopped by SIGTERM at step {step}; `understudy resume {folder}` goes on" in said
    assert len(said.strip().splitlines()) == 1
    assert RunDir(folder).state()["status"] == "interrupted"
    assert not (folder / ".stop").exists()

    run("resume", str(folder), cwd=tmp_path)
    one, two = (load_policy(only_run(tmp_path / name)).weights() for name in ("undisturbed", "stopped"))
    for name in one:
        torch.testing.assert_close(one[name], two[name], rtol=0 if not extra else 1e-3, atol=0 if not extra else 1e-4)
    if not extra:
        for file in ("train.csv", "eval.csv"):
            assert (only_run(tmp_path / "undisturbed") / file).read_bytes() == (folder / file).read_bytes()


@pytest.mark.slow
def test_a_sweep_that_is_told_to_stop_saves_its_trials_and_goes_on(hopper_data, tmp_path) -> None:
    words = ("sampler=grid", "scheduler=none", "num_trials=2", "max_concurrent=2", "lr=0.001,0.0001")
    shared = (*SMALL, *WORDS, *words, "training_steps=4000", "register_as=none")
    process = start("sweep", *shared, "save_dir=stopped", cwd=tmp_path)
    said = terminate_when(process, lambda: steps(tmp_path / "stopped") >= 200)
    sweep = next((tmp_path / "stopped").rglob("sweep.json")).parent
    assert f"`understudy resume {sweep}` goes on" in said
    states = [RunDir(folder).state() for folder in sorted((sweep / "trials").iterdir())]
    begun = [state for state in states if state["status"] == "interrupted"]
    assert begun, f"{states}\n{said}"
    assert all(state["step"] > 0 for state in begun)
    out = run("resume", str(sweep), cwd=tmp_path)
    assert "Traceback" not in out
    assert [RunDir(folder).state()["status"] for folder in sorted((sweep / "trials").iterdir())] == ["finished"] * 2
