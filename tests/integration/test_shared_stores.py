"""Stores that many share: one SQLite file for 64 processes, PostgreSQL for studies and runs, any fsspec storage."""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
import subprocess
import sys
from pathlib import Path

import optuna
import pytest
from tests.integration.breaking import (
    RUN,
    assert_each_metric_once,
    assert_little_was_repeated,
    assert_same,
    checkpoints,
    ended,
    only,
    step_of,
    store_of,
    wait_for,
)
from tests.integration.commands import SMALL, kill_when, run, start
from tests.integration.postgres import PASSWORD, postgres

import understudy
from understudy import tracking

pytestmark = pytest.mark.faults
CHILD = {**os.environ, "PYTHONPATH": str(Path(understudy.__file__).parents[1]), "OMP_NUM_THREADS": "1"}
"""The environment of a child process that finds the package, installed or not."""

WRITERS = """
import multiprocessing, sys, time
from pathlib import Path

def write(uri, folder, number, rows, gate):
    from understudy import tracking
    path = Path(folder) / f"w{number:02d}"
    path.mkdir()
    sources = tracking.metric_sources(path, (0,))
    gate.wait()
    tracked = tracking.track(uri, path, experiment="many", name=path.name, sources=sources, params={"n": number})
    for part in range(3):
        with open(path / "train.csv", "a") as file:
            file.write("step,a,b,c,d\\n" if part == 0 else "")
            file.writelines(f"{step},1,2,3,{number}\\n" for step in range(part * rows, (part + 1) * rows))
        tracked.flush(0.1)
    sys.exit(0 if tracked.close("FINISHED", timeout=600) else 1)

if __name__ == "__main__":
    uri, folder, count, rows = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
    # A server that has imported mlflow forks them: 64 processes, without 64 times the seconds that the import takes.
    context = multiprocessing.get_context("forkserver")
    preloaded = ["mlflow", "mlflow.store.tracking.sqlalchemy_store", "understudy.tracking.recording"]
    context.set_forkserver_preload(preloaded)
    gate = context.Barrier(count + 1)
    args = [(uri, folder, number, rows, gate) for number in range(count)]
    processes = [context.Process(target=write, args=words) for words in args]
    for process in processes:
        process.start()
    gate.wait()
    started = time.monotonic()
    for process in processes:
        process.join()
    print(round(time.monotonic() - started, 1), {process.exitcode for process in processes})
"""


@pytest.mark.slow
def test_sixty_four_processes_that_log_at_once_to_one_sqlite_store_lose_nothing_and_see_no_lock(tmp_path: Path) -> None:
    uri = tracking.default_tracking_uri(tmp_path)
    tracking.prepare(uri)
    script = tmp_path / "writers.py"
    script.write_text(WRITERS)
    (tmp_path / "runs").mkdir()
    command = [sys.executable, str(script), uri, str(tmp_path / "runs"), "64", "20"]
    done = subprocess.run(command, env=CHILD, capture_output=True, text=True, timeout=600, check=False)
    print(done.stdout)
    assert done.stderr == ""  # a store that is locked is said there
    assert done.stdout.split()[1:] == ["{0}"]
    with sqlite3.connect(tmp_path / "mlflow.db") as connection:
        runs = connection.execute("select status, count(*) from runs group by status").fetchall()
        held = connection.execute("select count(*), count(distinct run_uuid || key || step) from metrics").fetchone()
    assert runs == [("FINISHED", 64)]
    assert held == (64 * 4 * 60, 64 * 4 * 60)


@pytest.mark.postgres
@pytest.mark.slow
def test_a_sweeps_study_and_runs_are_in_postgresql_and_a_killed_sweep_goes_on_there(
    hopper_data: Path, tmp_path: Path
) -> None:
    sweep = (
        *("sweep", *SMALL, "lr=interval(1e-4,1e-2)", "num_trials=3", "scheduler=none", "max_concurrent=1"),
        *("training_steps=400", "eval_interval=200", "checkpoint_seconds=0.2", "register_as=none", "save_dir=runs"),
    )
    with postgres("study", "mlflow") as address:
        secret = {"UNDERSTUDY_STUDY_STORAGE": f"{address}/study", "MLFLOW_TRACKING_URI": f"{address}/mlflow"}
        said = run(*sweep, f"study_storage={address}/study", cwd=tmp_path, code=2)
        assert "set UNDERSTUDY_STUDY_STORAGE in the environment" in said
        assert PASSWORD not in said
        process = start(*sweep, cwd=tmp_path, **secret)
        kill_when(process, lambda: any(tmp_path.rglob("trials/0001/resume/step_*.pt")))
        folder = only(tmp_path, "sweep.json")
        assert not (folder / "study.db").exists()
        said = run("resume", str(folder), cwd=tmp_path, code=2, MLFLOW_TRACKING_URI=secret["MLFLOW_TRACKING_URI"])
        assert "set UNDERSTUDY_STUDY_STORAGE to that address (now: not set)" in said
        ended(start("resume", str(folder), cwd=tmp_path, **secret))

        name = json.loads((folder / "study.json").read_text())["study_name"]
        study = optuna.load_study(study_name=name, storage=f"{address}/study")  # as optuna-dashboard does
        assert [trial.state.name for trial in study.trials] == ["COMPLETE"] * 3
        assert study.best_trial.params.keys() == {"lr"}
        shown = {row["status"] for row in tracking.list_runs(f"{address}/mlflow", "bc_training")}
        assert shown == {"FINISHED"}
    assert not [file for file in tmp_path.rglob("*") if file.is_file() and PASSWORD.encode() in file.read_bytes()]


def copy_of(root: Path) -> Path:
    """Return the folder that a run's copy is in."""
    return only(root / "storage")


@pytest.mark.slow
@pytest.mark.parametrize("damaged", [False, True])
def test_a_run_whose_folder_is_lost_goes_on_from_its_copy_in_a_storage(
    undisturbed: Path, tmp_path: Path, damaged: bool
) -> None:
    place = (tmp_path / "storage").as_uri()
    tracked = f"tracking_uri=sqlite:///{tmp_path}/elsewhere/mlflow.db"
    process = start(*RUN, "save_dir=runs", tracked, f"checkpoint_storage={place}", cwd=tmp_path)
    kill_when(process, lambda: step_of(tmp_path / "runs") >= 1200 and len(checkpoints(tmp_path / "storage")) >= 2)
    local, copy = only(tmp_path / "runs"), copy_of(tmp_path)
    reached, held = step_of(local), checkpoints(copy)
    shutil.rmtree(tmp_path / "runs")
    if damaged:
        newest = held[-1]
        newest.write_bytes(newest.read_bytes()[:-100])
    said = ended(start("resume", copy.as_uri(), "--save_dir=runs", cwd=tmp_path))
    assert ("falling back to the one before" in said) == damaged
    assert_little_was_repeated(local, held[-2] if damaged else held[-1], reached)
    assert_same(local, undisturbed)
    assert_each_metric_once(tmp_path / "elsewhere" / "mlflow.db", store_of(undisturbed))
    assert_same(copy, undisturbed)  # the finished run is there too, its rolling checkpoints are not
    assert not [path for path in copy.rglob(".*") if path.is_file()]


@pytest.mark.slow
def test_a_storage_that_is_away_for_a_while_stops_nothing_and_is_said_once(undisturbed: Path, tmp_path: Path) -> None:
    storage = tmp_path / "storage"
    storage.write_text("no folder: nothing can be made in it")
    process = start(*RUN, "save_dir=runs", f"checkpoint_storage={storage.as_uri()}", cwd=tmp_path)
    wait_for(process, lambda: step_of(tmp_path / "runs") >= 1000)
    storage.unlink()
    said = ended(process)
    assert said.count("the next checkpoint tries again") == 1
    assert_same(only(tmp_path / "runs"), undisturbed)
    assert_same(copy_of(tmp_path), undisturbed)


def test_a_storage_that_cannot_be_written_to_from_here_is_refused_before_anything_starts(
    hopper_data: Path, tmp_path: Path
) -> None:
    said = run("train", *SMALL, "checkpoint_storage=s4://bucket/x", "save_dir=runs", cwd=tmp_path, code=2)
    assert len(said.splitlines()) == 1
    assert "s4://bucket/x" in said
    assert not (tmp_path / "runs").exists()
    said = run("train", *SMALL, "checkpoint_storage=ftp://ada:pa55@host/x", cwd=tmp_path, code=2)
    assert "holds a password" in said
    assert "pa55" not in said


def test_another_run_of_the_same_name_keeps_its_place_in_the_storage(hopper_data: Path, tmp_path: Path) -> None:
    from understudy.runs.directory import RunDir
    from understudy.runs.mirror import attach
    from understudy.spec.keys import build_run

    storage = tmp_path / "storage"
    runs = []
    for machine, lr in (("one", 1e-3), ("two", 1e-4)):
        values = {"save_dir": str(tmp_path / machine), "lr": lr, "checkpoint_storage": storage.as_uri()}
        spec = build_run(values)
        place = RunDir.at(tmp_path / machine / "bc_training" / "sd000_20260101_000000", spec)
        attach(place, spec)
        runs.append(place.state()["storage"])
        copy = storage / "bc_training" / "sd000_20260101_000000"
        copy.mkdir(parents=True, exist_ok=True)
        (copy / "flags.json").write_text(place.flags.read_text()) if machine == "one" else None
    assert runs[1].startswith(f"{runs[0]}-")


@pytest.mark.parametrize(("here", "there", "wanted"), [([10], [20, 30], 30), ([20, 30], [10], 30), ([], [10], 10)])
def test_a_run_is_brought_from_a_storage_that_has_more_of_it(
    tmp_path: Path, here: list[int], there: list[int], wanted: int
) -> None:
    from understudy import checkpoints
    from understudy.runs.directory import RunDir
    from understudy.runs.mirror import bring
    from understudy.spec.keys import build_run

    place = tmp_path / "storage" / "p" / "sd000_1"
    spec = build_run({"save_dir": str(tmp_path / "runs"), "checkpoint_storage": (tmp_path / "storage").as_uri()})
    for folder, steps in ((place, there), (tmp_path / "runs" / "p" / "sd000_1", here)):
        run = RunDir.at(folder, spec)
        run.update_state(storage=place.as_uri(), status="running")
        run.resume.mkdir()
        for step in steps:
            (run.resume / f"step_{step}.pt").write_text(str(step))
    brought = RunDir(bring(place.as_uri(), tmp_path / "runs"))
    assert brought.path == tmp_path / "runs" / "p" / "sd000_1"
    assert checkpoints.rolling_steps(brought.resume)[0] == wanted


def test_a_sweeps_own_files_are_copied_beside_its_trials_copies(tmp_path: Path) -> None:
    from understudy.runs.mirror import copy_sweep
    from understudy.spec.keys import build_run

    spec = build_run({"save_dir": str(tmp_path / "runs"), "checkpoint_storage": (tmp_path / "storage").as_uri()})
    sweep = tmp_path / "runs" / "p" / "sweep_1"
    for name in ("sweep.json", "best/model.pt", "trials/0000/train.csv", ".lock", ".ray/x"):
        (sweep / name).parent.mkdir(parents=True, exist_ok=True)
        (sweep / name).write_text(name)
    copy_sweep(sweep, spec)
    copied = {path.relative_to(tmp_path / "storage").as_posix() for path in (tmp_path / "storage").rglob("*.*")}
    assert copied == {"p/sweep_1/sweep.json", "p/sweep_1/best/model.pt"}
