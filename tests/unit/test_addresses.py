"""Addresses of databases keep every character of their path, and say what they cannot be."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest
from optuna.trial import TrialState

from understudy import tracking
from understudy.cli.output import console
from understudy.errors import UserError
from understudy.spec.compose import flat_values, parse, split_sweeps
from understudy.spec.keys import build_run
from understudy.sweeping.options import STORAGE_VARIABLE
from understudy.sweeping.study import RECORD, Study, check_storage
from understudy.sweeping.sweep_spec import SweepSpec, build_sweep
from understudy.tracking.addresses import absolute_address, check_reachable, sqlite_address, sqlite_path
from understudy.tracking.artifacts import log_artifacts
from understudy.tracking.recording import start_run

ODD = "what? %41 50% #1 'q' \"d\" {b} [x] &=;,+@ :n ~ü $HOME \\"


def sweep(*words: str) -> SweepSpec:
    plain, sweeps = split_sweeps(parse(("env_name=hopper-medium-v2", "lr=interval(1e-5,1e-3)", "num_trials=3", *words)))
    return build_sweep(flat_values(plain), sweeps)


@pytest.mark.parametrize("name", [*ODD.split(" "), ODD, "file:x?uri=true", "a b"])
def test_the_address_of_a_file_leads_back_to_it_whatever_its_path_holds(tmp_path: Path, name: str) -> None:
    import sqlalchemy

    path = tmp_path / name / "x.db"
    path.parent.mkdir()
    address = sqlite_address(path)
    assert sqlite_path(address) == path
    assert absolute_address(address) == address
    with sqlalchemy.create_engine(address).begin() as connection:
        connection.execute(sqlalchemy.text("create table here (number int)"))
    assert path.is_file()
    assert [item.name for item in tmp_path.iterdir()] == [name]


def test_the_address_of_a_usual_path_is_the_one_that_it_always_was() -> None:
    assert sqlite_address("/data/my runs/mlflow.db") == "sqlite:////data/my runs/mlflow.db"
    assert build_run({"save_dir": "/data/runs"}).placement.tracking() == "sqlite:////data/runs/mlflow.db"


def test_a_store_and_a_study_in_a_folder_of_odd_characters_keep_what_is_there(tmp_path: Path, monkeypatch) -> None:
    folder = tmp_path / ODD
    folder.mkdir()
    monkeypatch.chdir(folder)  # mlflow writes the current folder into a new store
    uri = build_run({"save_dir": "runs"}).placement.tracking()
    tracking.prepare(uri)
    run = start_run(uri, "fbc", "one", tags={"a": "b"})
    (folder / "note.txt").write_text("kept")
    log_artifacts(uri, run.run_id, folder / "note.txt")
    assert [row["name"] for row in tracking.list_runs(uri)] == ["one"]
    assert tracking.run_details(uri, run.run_id)["artifacts"] == ["note.txt"]
    with sqlite3.connect(folder / "runs" / "mlflow.db") as connection:
        assert connection.execute("select name from runs").fetchall() == [("one",)]

    for sweep_folder in (folder / "s1", folder / "s2"):
        sweep_folder.mkdir()
        number, _ = Study(sweep_folder, sweep()).ask()
        Study(sweep_folder, sweep()).finish(number, TrialState.COMPLETE, 0.5)
        assert [trial.number for trial in Study(sweep_folder, sweep()).trials()] == [0]
        assert (sweep_folder / "study.db").is_file()
    assert [item.name for item in tmp_path.iterdir()] == [ODD]


def test_a_relative_study_storage_is_the_same_file_from_every_folder(tmp_path: Path, monkeypatch) -> None:
    folder, other = tmp_path / "sweep", tmp_path / "other"
    folder.mkdir()
    other.mkdir()
    monkeypatch.chdir(tmp_path)
    spec = sweep("study_storage=sqlite:///shared.db")
    Study(folder, spec).ask()
    assert str(tmp_path / "shared.db") in (folder / RECORD).read_text()
    monkeypatch.chdir(other)
    with pytest.raises(UserError, match="set UNDERSTUDY_STUDY_STORAGE"):
        Study(folder, spec)
    monkeypatch.setenv(STORAGE_VARIABLE, f"sqlite:///{tmp_path}/shared.db")
    assert len(Study(folder, sweep()).trials()) == 1
    assert not (other / "shared.db").exists()


def test_options_of_an_address_are_kept_and_are_no_part_of_its_path() -> None:
    assert sqlite_path("sqlite:////x/y.db?timeout=30") == Path("/x/y.db")
    assert absolute_address("sqlite:////x/y.db?timeout=30") == "sqlite:////x/y.db?timeout=30"
    assert sqlite_path("sqlite:///file:/x/what%253F/y.db?mode=ro&uri=true") == Path("/x/what?/y.db")
    assert sqlite_path("postgresql://host/db?sslmode=require") is None


def test_an_address_that_a_question_mark_cuts_short_is_refused_with_the_right_one(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"write sqlite:///what%3F/a%3Fb.db") as refused:
        check_reachable("sqlite:///what?/a?b.db")
    advised = str(refused.value).rsplit("write ", 1)[1]
    assert sqlite_path(advised) == Path.cwd() / "what?" / "a?b.db"
    with pytest.raises(UserError, match="is no address of a database"):
        sqlite_path("sqlite://host:port/x.db")


@pytest.mark.parametrize("address", ["sqlite://", "sqlite:///:memory:", "sqlite+pysqlite://"])
def test_a_database_in_memory_is_refused_for_what_is_to_last(address: str) -> None:
    with pytest.raises(UserError, match="ends with the process"):
        check_reachable(address)
    with pytest.raises(UserError, match="ends with the process"):
        check_storage(sweep(f"study_storage='{address}'"))


def test_a_path_with_brackets_is_printed_whole(capsys: pytest.CaptureFixture[str]) -> None:
    console.print("run directory: /data/[x]/[bold]/runs", soft_wrap=True)
    assert "/data/[x]/[bold]/runs" in capsys.readouterr().out
