"""A run whose store cannot take it, for a reason that stays, ends with its results and with exit code 1."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest
from tests.integration.breaking import only
from tests.integration.commands import SMALL
from tests.integration.test_bad_input import refused

from understudy.runs.directory import TRACKING_ERROR, RunDir
from understudy.tracking import list_runs, recording

WORDS = ("train", *SMALL, "training_steps=6", "log_interval=3", "eval_episodes=0", "save_dir=runs")


def deny(*_words: object, **_settings: object) -> None:
    raise PermissionError(errno.EACCES, "Permission denied")


def test_a_run_that_could_not_be_tracked_ends_with_its_models_and_exit_code_one(
    hopper_data: Path, say, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recording, "_send_batch", deny)
    said = say(*WORDS)
    run = RunDir(only(tmp_path / "runs"))
    assert said.code == 1
    assert "PermissionError: [Errno 13] Permission denied" in said.err.splitlines()[-1]
    assert f"`understudy sync {run.path}` sends the rest once that is mended" in said.err.splitlines()[-1]
    assert "away" not in said.err
    assert "final_model.pt" in said.out
    state = run.state()
    assert (state["status"], state["shipped"]) == ("finished", False)
    assert "Permission denied" in state[TRACKING_ERROR]
    said = say("sync", str(run.path))
    assert said.code == 1
    assert "Permission denied" in said.err.splitlines()[-1]

    monkeypatch.undo()
    monkeypatch.chdir(tmp_path)
    assert say("sync", str(run.path)).code == 0
    assert (run.state()["shipped"], run.state()[TRACKING_ERROR]) == (True, None)
    (row,) = list_runs(run.spec().placement.tracking())
    assert row["status"] == "FINISHED"
    assert "train/actor_loss" in row["metrics"]


def test_a_store_that_is_unfit_is_said_before_the_training(hopper_data: Path, say, tmp_path: Path) -> None:
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "mlflow.db").write_text("these are notes\n" * 100)
    refused(say(*WORDS), "cannot be written")
    assert [path.name for path in (tmp_path / "runs").iterdir()] == ["mlflow.db"]
