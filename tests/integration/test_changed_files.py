"""What a run goes on from was changed meanwhile: dataset, csv files, somebody else's model or copy."""

from __future__ import annotations

import json
import os
import shutil
import signal
import sqlite3
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from tests.integration.breaking import only
from tests.integration.commands import SMALL
from tests.integration.commands import run as command

import understudy
from understudy.runs import stop
from understudy.runs.directory import read_csv
from understudy.trainables.loops.hooks import Log

TRAINED = (*SMALL, "eval_episodes=0", "training_steps=40", "log_interval=10", "tracking_uri=none", "save_dir=runs")


@pytest.fixture
def stopped(hopper_data: Path, say: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """Train until SIGTERM comes at step 20 and return the run's directory, with a checkpoint of that step."""

    def train(*words: str) -> Path:
        log = Log.__call__

        def terminated(hook: Log, metrics: dict | None = None) -> None:
            log(hook, metrics)
            if hook._training.step == 20:
                os.kill(os.getpid(), signal.SIGTERM)

        with monkeypatch.context() as patch:
            patch.setattr(stop, "LOOK_SECONDS", 0.0)
            patch.setattr(Log, "__call__", terminated)
            said = say("train", *TRAINED, *words)
        assert said.code == 143, said.err
        return only(tmp_path / "runs")

    return train


def steps(run: Path) -> list[int]:
    return [int(row["step"]) for row in read_csv(run / "train.csv")]


@pytest.mark.parametrize("name", ["flags.json", "run.json", "train.csv", "timing.csv", "final_model.pt"])
def test_no_damaged_run_is_registered_whichever_of_its_files_it_is(
    hopper_data: Path, say: Callable, tmp_path: Path, name: str
) -> None:
    assert say("train", *TRAINED).code == 0
    run = only(tmp_path / "runs")
    held = (run / name).read_bytes()
    for content in (held[: len(held) // 2], held.replace(b"1", b"7"), None):
        (run / name).write_bytes(content or b"")
        if content is None:
            (run / name).unlink()
        said = say("models", "register", str(run), "--tracking_uri", "sqlite:///models.db")
        assert said.code == 2, said.err
        assert str(run) in said.err
        assert len(said.err.splitlines()) == 1
        assert not (tmp_path / "models.db").exists()


@pytest.mark.parametrize("change", ["gone", "cut", "other"])
def test_a_run_whose_rows_were_changed_is_refused_and_goes_on_only_where_that_is_accepted(
    stopped: Callable[..., Path], say: Callable, change: str
) -> None:
    run = stopped()
    file = run / "train.csv"
    held = file.read_bytes()
    if change == "gone":
        file.unlink()
    elif change == "cut":
        file.write_bytes(held[: held.rfind(b"\n20,") + 1])
    else:
        file.write_bytes(held.replace(b"\n10,", b"\n11,"))
    said = say("resume", str(run))
    assert said.code == 2
    assert "train.csv no longer begin with the rows of the last checkpoint" in said.err
    assert f"understudy resume {run} --accept-lost-rows" in said.err
    kept = file.read_bytes() if file.exists() else None

    file.write_bytes(held)  # its copy is put back: nothing was lost
    whole = run.with_name("whole")
    shutil.copytree(run, whole)
    assert say("resume", str(whole)).code == 0
    assert steps(whole) == [10, 20, 30, 40]

    file.unlink() if kept is None else file.write_bytes(kept)
    assert say("resume", str(run), "--accept-lost-rows").code == 0
    assert steps(run)[-2:] == [30, 40]
    assert json.loads((run / "run.json").read_text())["lost_rows"] == ["train.csv"]


@pytest.mark.parametrize("added", ["20,again", "words", ",,", "5,earlier"])
def test_rows_that_are_there_twice_or_are_none_are_gone_when_a_run_goes_on(
    stopped: Callable[..., Path], say: Callable, added: str
) -> None:
    run = stopped()
    whole = run.with_name("whole")
    shutil.copytree(run, whole)
    assert say("resume", str(whole)).code == 0
    with open(run / "train.csv", "a") as file:
        file.write(f"{added}\n")
    assert say("resume", str(run)).code == 0
    assert (run / "train.csv").read_bytes() == (whole / "train.csv").read_bytes()


CHANGES: dict[str, tuple[str, Callable[[bytes], bytes | None]]] = {
    "a row twice": ("train.csv", lambda held: held + held.splitlines(keepends=True)[-1]),
    "gone": ("train.csv", lambda held: None),
    "cut": ("timing.csv", lambda held: held[:-1]),
    "another key": ("flags.json", lambda held: held.replace(b'"batch_size": 1', b'"batch_size": 2')),
    "another metric": ("run.json", lambda held: held.replace(b'"actor_loss": ', b'"actor_loss": 1')),
}


def test_a_finished_run_whose_files_were_changed_is_refused_and_taken_as_it_is_only_where_that_is_accepted(
    stopped: Callable[..., Path], say: Callable
) -> None:
    run = stopped()
    assert say("resume", str(run)).code == 0
    for change, (name, made) in CHANGES.items():
        mine = run.with_name(change.replace(" ", "_"))
        shutil.copytree(run, mine)
        file = mine / name
        changed = made(file.read_bytes())
        file.unlink() if changed is None else file.write_bytes(changed)
        for words in ((), ("--add-steps", "10")):
            said = say("resume", str(mine), *words)
            assert said.code == 2, change
            assert f"{mine}: {name} is not what the run ended with: put its copy back" in said.err
            assert (f"understudy resume {mine} --accept-lost-rows" in said.err) == (name != "flags.json")
            assert (file.read_bytes() if file.exists() else None) == changed
        if name != "flags.json":
            assert say("resume", str(mine), "--accept-lost-rows").code == 0
            assert json.loads((mine / "run.json").read_text())["lost_rows"] == [name]
            assert say("resume", str(mine)).code == 0
            (mine / "timing.csv").write_text("step\n")  # what was accepted once is not for later
            assert say("resume", str(mine)).code == 2
    assert say("resume", str(run), "--add-steps", "10").code == 0
    assert steps(run) == [10, 20, 30, 40, 50]
    assert say("resume", str(run)).code == 0


def write(name: str, seed: int, data_dir: Path) -> None:
    rows = np.random.default_rng(seed).normal(size=(40, 3)).astype(np.float32)
    understudy.write_dataset(name, [{"observations": rows, "actions": np.tanh(rows[:, :2])}], data_dir=str(data_dir))


@pytest.mark.parametrize("finished", [False, True])
def test_a_run_goes_on_with_another_dataset_only_where_that_is_accepted(
    stopped: Callable[..., Path], say: Callable, tmp_path: Path, finished: bool
) -> None:
    data, more = tmp_path / "data", ("--add-steps", "10") if finished else ()
    write("own", 0, data)
    run = stopped("env_name=own", f"data_dir={data}")
    if finished:
        assert say("resume", str(run)).code == 0
    before = json.loads((run / "run.json").read_text())["dataset_hash"]
    shutil.rmtree(data / "own")
    write("own", 1, data)
    rows = (run / "train.csv").read_bytes()
    for _ in range(2):  # refused as often as it is tried
        said = say("resume", str(run), *more)
        assert said.code == 2
        assert f"another dataset (hash {before[:12]})" in said.err
        assert f"understudy resume {run} --accept-new-data" in said.err
        assert (run / "train.csv").read_bytes() == rows
        more = ()
    assert say("resume", str(run), "--accept-new-data").code == 0
    state = json.loads((run / "run.json").read_text())
    assert state["earlier_datasets"] == [before]
    assert state["dataset_hash"] not in ("", None, before)
    assert steps(run)[-1] == (50 if finished else 40)


def test_a_run_that_had_no_checkpoint_yet_does_not_begin_again_with_another_dataset(
    stopped: Callable[..., Path], say: Callable, tmp_path: Path
) -> None:
    data = tmp_path / "data"
    write("own", 0, data)
    run = stopped("env_name=own", f"data_dir={data}")
    shutil.rmtree(run / "resume")
    shutil.rmtree(data / "own")
    write("own", 1, data)
    said = say("resume", str(run))
    assert said.code == 2
    assert "it trained on another dataset" in said.err


def test_what_is_accepted_is_for_runs(say: Callable, tmp_path: Path) -> None:
    (tmp_path / "sweep_1").mkdir()
    (tmp_path / "sweep_1" / "sweep.json").write_text("{}")
    said = say("resume", "sweep_1", "--accept-new-data")
    assert said.code == 2
    assert "is no run: --accept-new-data and --accept-lost-rows are for one run" in said.err


def test_a_forked_file_does_not_say_where_the_fork_runs(
    stopped: Callable[..., Path], say: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = stopped(f"checkpoint_storage={tmp_path / 'storage'}")
    assert say("resume", str(run)).code == 0
    (tmp_path / "elsewhere").mkdir()
    shutil.copy(run / "final_model.pt", tmp_path / "elsewhere" / "theirs.pt")
    shutil.rmtree(tmp_path / "runs")
    shutil.rmtree(tmp_path / "storage")
    monkeypatch.chdir(tmp_path / "elsewhere")
    said = say("train", "--fork", "theirs.pt", "training_steps=60", "eval_episodes=0")
    assert said.code == 0, said.err
    assert not (tmp_path / "runs").exists()
    assert not (tmp_path / "storage").exists()
    made = only(tmp_path)
    assert made.is_relative_to(Path.cwd() / "runs")


def test_a_copy_from_a_storage_comes_below_the_callers_save_dir_only(
    stopped: Callable[..., Path], say: Callable, tmp_path: Path
) -> None:
    stopped(f"checkpoint_storage={tmp_path / 'storage'}")
    (copy,) = [file.parent for file in (tmp_path / "storage").rglob("flags.json")]
    shutil.rmtree(tmp_path / "runs")
    flags = json.loads((copy / "flags.json").read_text())
    (copy / "flags.json").write_text(json.dumps({**flags, "save_dir": str(tmp_path / "theirs")}))
    said = say("resume", copy.as_uri(), "--save_dir", "mine")
    assert said.code == 0, said.err
    assert not (tmp_path / "theirs").exists()
    assert steps(only(tmp_path / "mine")) == [10, 20, 30, 40]

    shutil.rmtree(tmp_path / "mine")
    state = json.loads((copy / "run.json").read_text())
    (copy / "run.json").write_text(json.dumps({**state, "storage": "../../../../theirs"}))
    said = say("resume", copy.as_uri(), "--save_dir", "mine")
    assert said.code == 2
    assert "which is no folder of a run" in said.err
    assert not (tmp_path / "mine").exists()


def test_a_moved_run_goes_on_where_it_lies(stopped: Callable[..., Path], say: Callable, tmp_path: Path) -> None:
    run = stopped()
    shutil.move(run, tmp_path / "moved")
    shutil.rmtree(tmp_path / "runs")
    assert say("resume", str(tmp_path / "moved")).code == 0
    assert steps(tmp_path / "moved") == [10, 20, 30, 40]
    assert not (tmp_path / "runs").exists()


def test_what_a_store_lost_is_sent_again(hopper_data: Path, tmp_path: Path) -> None:
    words = (*SMALL, "eval_episodes=0", "training_steps=40", "log_interval=10", "save_dir=runs")
    command("train", *words, cwd=tmp_path)
    assert "nothing to send" in command("sync", "runs", cwd=tmp_path)
    before = metrics(tmp_path)
    assert len(before) > 8
    for file in (tmp_path / "runs").glob("mlflow.db*"):
        file.unlink()
    shutil.rmtree(tmp_path / "runs" / "mlartifacts")
    assert "FINISHED" in command("sync", "runs", cwd=tmp_path)
    assert metrics(tmp_path) == before
    assert list((tmp_path / "runs" / "mlartifacts").rglob("final_model.pt"))
    assert "nothing to send" in command("sync", "runs", cwd=tmp_path)


def metrics(root: Path) -> list[tuple[str, int, float]]:
    with sqlite3.connect(root / "runs" / "mlflow.db") as connection:
        return sorted(connection.execute("select key, step, value from metrics").fetchall())


@pytest.mark.slow
def test_a_sweep_whose_study_is_gone_or_another_is_refused_and_goes_on_once_it_is_back(
    undisturbed_sweep: Path, tmp_path: Path
) -> None:
    sweep = tmp_path / "sweep_1"
    shutil.copytree(undisturbed_sweep, sweep)
    held = (sweep / "study.db").read_bytes()
    summary = (sweep / "summary.csv").read_bytes()
    (sweep / "study.db").unlink()
    said = command("resume", "sweep_1", cwd=tmp_path, code=2)
    assert "trial 0 is not in it; put the study's copy back" in said

    (sweep / "study.db").write_bytes(held)
    flags = sweep / "trials" / "0001" / "flags.json"
    was = flags.read_text()
    flags.write_text(json.dumps({**json.loads(was), "lr": 0.5}))
    said = command("resume", "sweep_1", cwd=tmp_path, code=2)
    assert "trial 1 is trained with lr=0.5, not " in said

    flags.write_text(was)
    command("resume", "sweep_1", cwd=tmp_path)
    assert (sweep / "summary.csv").read_bytes() == summary


def twice(held: bytes) -> bytes:
    """Return a csv file with its last row twice."""
    return held + held.splitlines(keepends=True)[-1]


@pytest.mark.slow
def test_a_finished_sweep_whose_files_were_changed_is_refused_and_what_the_line_says_helps(
    undisturbed_sweep: Path, tmp_path: Path
) -> None:
    sweep = tmp_path / "sweep_1"
    shutil.copytree(undisturbed_sweep, sweep)
    trial = sweep / "trials" / "0001"
    changes: list[tuple[Path, Callable[[bytes], bytes], str]] = [
        (trial / "sd000" / "eval.csv", twice, "trials/0001: sd000/eval.csv is not what the run ended with"),
        (
            trial / "episodes.arrow",
            lambda held: held[:-8],
            "trials/0001: episodes.arrow is not what the run ended with",
        ),
        (trial / "run.json", lambda held: held.replace(b'"finished"', b'"running"'), "and the study that it finished"),
        (sweep / "sweep.json", lambda held: held.replace(b'"final_episodes": 2', b'"final_episodes": 3'), "sweep.json"),
        (sweep / "best.json", lambda held: held.replace(b'"seed": ', b'"seed": 1'), "delete it, and resume evaluates"),
        (sweep / "best_eval.csv", twice, "delete best_eval.csv and best.json, and resume evaluates it again"),
    ]
    for file, change, line in changes:
        held = file.read_bytes()
        assert change(held) != held, file
        file.write_bytes(change(held))
        assert line in command("resume", "sweep_1", cwd=tmp_path, code=2)
        file.write_bytes(held)
    rows = trial / "sd000" / "eval.csv"
    rows.write_bytes(twice(rows.read_bytes()))
    command("resume", str(trial), "--accept-lost-rows", cwd=tmp_path)
    command("resume", "sweep_1", cwd=tmp_path)

    best, row = json.loads((sweep / "best.json").read_text()), (sweep / "best_eval.csv").read_bytes()
    (sweep / "best_eval.csv").unlink()
    (sweep / "best.json").unlink()
    command("resume", "sweep_1", cwd=tmp_path)
    again = json.loads((sweep / "best.json").read_text())
    assert [again[key] for key in ("trial", "metrics", "seed_metrics")] == [
        best[key] for key in ("trial", "metrics", "seed_metrics")
    ]
    assert (sweep / "best_eval.csv").read_bytes() == row
