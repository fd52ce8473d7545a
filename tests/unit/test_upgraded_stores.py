"""A SQLite store whose tables are not the installed MLflow's: an older one, a half-made one, one of something else."""

from __future__ import annotations

import shutil
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from understudy.errors import TrackingError
from understudy.models import list_models
from understudy.tracking import default_tracking_uri, list_runs, prepare
from understudy.tracking.fresh import revision
from understudy.tracking.upgrading import migrations, tables, upgrade

DIES = """
import os, sys
from sqlalchemy import Engine, event

renamed = 0

@event.listens_for(Engine, "before_cursor_execute")
def die(connection, cursor, statement, *rest):
    global renamed
    renamed += "RENAME TO" in statement
    if renamed == int(sys.argv[2]):
        os.kill(os.getpid(), 9)

import mlflow
mlflow.MlflowClient(sys.argv[1], sys.argv[1]).search_experiments()
"""
"""Has MLflow make a store, and die as it has dropped a table and not yet put the new one in its place."""


@pytest.fixture(scope="module")
def half_made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store that MLflow was killed in making."""
    path = tmp_path_factory.mktemp("half") / "mlflow.db"
    died = subprocess.run([sys.executable, "-c", DIES, f"sqlite:///{path}", "3"], capture_output=True, check=False)
    assert died.returncode == -signal.SIGKILL, died.stderr.decode()[-2000:]
    assert any(name.startswith("_alembic_tmp_") for name in tables(path))
    return path


def execute(path: Path, *statements: str) -> None:
    with closing(sqlite3.connect(path)) as store:
        for statement in statements:
            store.execute(statement)
        store.commit()


def newest() -> str:
    return str(migrations().get_current_head())


@pytest.mark.slow
@pytest.mark.parametrize("ask", [prepare, list_runs, list_models], ids=lambda ask: ask.__name__)
def test_a_store_that_mlflow_was_killed_in_making_is_made_anew_and_kept_beside(
    ask: Callable[[str], object], half_made: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = Path(shutil.copy(half_made, tmp_path))
    execute(path, "DROP TABLE runs")  # which `list_runs` reads without MLflow, where it is there
    was, half = revision(path), sorted(tables(path))
    assert not ask(default_tracking_uri(tmp_path))
    assert revision(path) == newest()
    kept = tmp_path / f"mlflow.db.before-{was}"
    assert sorted(tables(kept)) == half
    assert f"{path} was left half-made, with nothing in it: it is made anew; the old file is {kept.name}" in caplog.text
    assert sorted(item.name for item in tmp_path.iterdir()) == ["mlflow.db", kept.name, "mlflow.db.lock"]


@pytest.mark.slow
def test_a_half_upgraded_store_that_holds_runs_is_left_as_it_is_with_a_line_that_says_what_to_do(
    half_made: Path, tmp_path: Path
) -> None:
    path = Path(shutil.copy(half_made, tmp_path))
    execute(path, "INSERT INTO runs (run_uuid, lifecycle_stage) VALUES ('mine', 'active')")
    before = path.read_bytes()
    with pytest.raises(TrackingError, match=r"left half-upgraded.*`mv .*mlflow\.db .*mlflow\.db\.old`, and `under"):
        prepare(default_tracking_uri(tmp_path))
    assert path.read_bytes() == before


@pytest.mark.slow
def test_an_older_store_is_upgraded_with_what_it_holds_and_kept_beside(tmp_path: Path) -> None:
    path, old = tmp_path / "mlflow.db", next(iter(migrations().walk_revisions())).down_revision
    downgrade = ["import sys", "from alembic import command", "from mlflow.store.db.utils import _get_alembic_config"]
    prepare(default_tracking_uri(tmp_path))
    execute(path, "INSERT INTO runs (run_uuid, lifecycle_stage, experiment_id) VALUES ('mine', 'active', 0)")
    words = "; ".join([*downgrade, "command.downgrade(_get_alembic_config(sys.argv[1]), '-1')"])
    subprocess.run([sys.executable, "-c", words, f"sqlite:///{path}"], check=True, capture_output=True)
    assert revision(path) == old
    prepare(default_tracking_uri(tmp_path))
    assert revision(path) == newest()
    assert revision(tmp_path / f"mlflow.db.before-{old}") == old
    with closing(sqlite3.connect(path)) as store:
        assert store.execute("SELECT run_uuid FROM runs").fetchall() == [("mine",)]


@pytest.mark.parametrize(
    ("statements", "said"),
    [
        (["CREATE TABLE songs (a)"], r"is a database of something else \(it has a table 'songs'\)"),
        (
            ["CREATE TABLE alembic_version (version_num)", "INSERT INTO alembic_version VALUES ('v9')"],
            "has the schema 'v9', which the installed MLflow does not know",
        ),
    ],
    ids=["another program's", "a newer MLflow's"],
)
def test_a_database_of_something_else_is_refused_and_nothing_is_written_to_it(
    statements: list[str], said: str, tmp_path: Path
) -> None:
    path = tmp_path / "mlflow.db"
    execute(path, *statements)
    before = path.read_bytes()
    with pytest.raises(TrackingError, match=said):
        prepare(default_tracking_uri(tmp_path))
    assert path.read_bytes() == before
    assert sorted(item.name for item in tmp_path.iterdir()) == ["mlflow.db", "mlflow.db.lock"]


def test_a_store_that_is_written_to_meanwhile_is_not_replaced(
    half_made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = Path(shutil.copy(half_made, tmp_path))

    def written_to(beside: Path) -> str:
        execute(path, "INSERT INTO runs (run_uuid, lifecycle_stage) VALUES ('mine', 'active')")
        return "it failed"

    monkeypatch.setattr("understudy.tracking.upgrading._migrated", written_to)
    with pytest.raises(TrackingError, match="was written to as it was upgraded: try again"):
        upgrade(path, revision(path), newest())
    with closing(sqlite3.connect(path)) as store:
        assert store.execute("SELECT run_uuid FROM runs").fetchall() == [("mine",)]
