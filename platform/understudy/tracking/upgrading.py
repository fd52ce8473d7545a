"""Give a SQLite store the installed MLflow's tables: MLflow's own migrations leave half of them where they are killed.

They run on a copy, which becomes the store's content in one transaction: whoever dies here leaves the old store or the
new one. A store that somebody else left half-made, and that holds nothing, is made anew.
"""

from __future__ import annotations

import logging
import os
import re
import shlex
import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

from understudy.errors import StoreAway, TrackingError
from understudy.files import storage_errors
from understudy.tracking.addresses import sqlite_address
from understudy.tracking.fresh import fill

if TYPE_CHECKING:
    from alembic.script import ScriptDirectory

log = logging.getLogger("understudy")
BUSY_SECONDS = 60.0
"""How long another process may hold a store that is to be copied."""
_BORN_WITH = {"alembic_version": 1, "experiments": 1, "workspaces": 1}
"""Rows that a new store has."""


def migrations() -> ScriptDirectory:
    """Return the installed MLflow's migrations, without importing it; TrackingError where there is no MLflow."""
    import importlib.util

    from alembic.script import ScriptDirectory

    spec = importlib.util.find_spec("mlflow")
    if spec is None or not spec.submodule_search_locations:
        raise TrackingError("mlflow is not installed: install understudy's dependencies, or use tracking_uri=none")
    return ScriptDirectory(str(Path(spec.submodule_search_locations[0]) / "store" / "db_migrations"))


def tables(path: Path) -> list[str]:
    """Return the names of a database's tables."""
    with closing(sqlite3.connect(path, timeout=20.0)) as store:
        return [str(row[0]) for row in store.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]


def upgrade(path: Path, held: str | None, newest: str) -> None:
    """Bring a store from the revision `held` to `newest`; the old file is kept beside as NAME.before-<revision>.

    TrackingError, with the store as it was, where it is none of this MLflow's or cannot be upgraded.
    """
    _check_mlflows(path, held)
    try:
        with storage_errors(path):
            _upgrade(path, held, newest)
    except sqlite3.Error as error:
        raise TrackingError(f"the tracking store {path} cannot be upgraded: {error}") from None


def _upgrade(path: Path, held: str | None, newest: str) -> None:
    kept = path.with_name(f"{path.name}.before-{held}" if held else f"{path.name}.before")
    beside = path.with_name(f"{path.name}.upgrading")
    _remove(beside)
    with closing(sqlite3.connect(path, timeout=20.0)) as store:
        try:
            _copy(store, beside)
            os.replace(beside, kept)
            _copy(store, beside)
            before = _changes(store)
            reason = _migrated(beside)
            if _changes(store) != before:
                raise TrackingError(f"the tracking store {path} was written to as it was upgraded: try again")
            if not reason:
                log.warning("upgraded %s to the installed MLflow's schema; the old file is %s", path, kept.name)
                with closing(sqlite3.connect(beside)) as newer:
                    _copy(newer, path)
                return
            if _holds_something(store):
                raise TrackingError(_half_upgraded(path, held, reason))
        finally:
            _remove(beside)
    log.warning("%s was left half-made, with nothing in it: it is made anew; the old file is %s", path, kept.name)
    with closing(sqlite3.connect(":memory:")) as nothing:
        _copy(nothing, path)
    fill(path, newest)


def _half_upgraded(path: Path, held: str | None, reason: str) -> str:
    place = shlex.quote(str(path))
    return (
        f"the tracking store {path} was left half-upgraded, or is damaged (schema {held}, {reason}): put your copy of"
        f" it back; or `mv {place} {shlex.quote(f'{path}.old')}`, and `understudy sync` sends your runs to a new one"
    )


def _check_mlflows(path: Path, held: str | None) -> None:
    """Raise TrackingError for a database of something else, and for one of an MLflow that is newer."""
    if held is not None:
        if held not in {script.revision for script in migrations().walk_revisions()}:
            raise TrackingError(
                f"{path} has the schema {held!r}, which the installed MLflow does not know: a newer MLflow made it, or"
                " another program; install that MLflow, or give another tracking_uri (sqlite:////another/place.db)"
            )
        return
    import importlib

    from mlflow.store.db.base_sql_model import Base
    from mlflow.store.tracking.dbmodels.initial_models import Base as FirstBase

    importlib.import_module("mlflow.store.db.utils")  # which registers all tables
    known = {*Base.metadata.tables, *FirstBase.metadata.tables, "alembic_version"}
    others = [name for name in tables(path) if name not in known and not name.startswith(("_alembic_tmp_", "sqlite_"))]
    if others:
        raise TrackingError(
            f"{path} is a database of something else (it has a table {others[0]!r}): give another tracking_uri"
            " (sqlite:////another/place.db)"
        )


def _migrated(path: Path) -> str:
    """Run MLflow's migrations on a store; return why they failed, "" where they did not.

    In a process of its own: alembic configures logging for the whole process.
    """
    command = [sys.executable, "-m", "mlflow", "db", "upgrade", sqlite_address(path)]
    environment = {**os.environ, "MLFLOW_DISABLE_TELEMETRY": "true"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    if not done.returncode:
        return ""
    lines = [line.strip() for line in reversed(done.stderr.splitlines()) if line.strip()]
    raised = (re.fullmatch(r"[\w.]*(?:Error|Exception): (.+)", line) for line in lines)
    said = next((match[1] for match in raised if match), lines[0] if lines else "no reason given")
    return said.replace(str(path), path.name)[:200]


def _holds_something(store: sqlite3.Connection) -> bool:
    """Return whether there is more in a store than MLflow writes into a new one."""
    names = [str(row[0]) for row in store.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
    held = {name: store.execute(f'SELECT count(*) FROM "{name}"').fetchone()[0] for name in names}
    return any(count > _BORN_WITH.get(name, 0) for name, count in held.items())


def _changes(store: sqlite3.Connection) -> int:
    """Return a number that is another one once any other connection has written to the store."""
    return store.execute("PRAGMA data_version").fetchone()[0]


def _copy(source: sqlite3.Connection, path: Path) -> None:
    """Make a file hold what a database does, in one transaction; StoreAway where another process keeps it locked."""
    deadline = time.monotonic() + BUSY_SECONDS

    def wait(status: int, _remaining: int, _total: int) -> None:
        if status in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED) and time.monotonic() > deadline:
            raise StoreAway(f"the tracking store {path} is busy: another process has held it for {BUSY_SECONDS:.0f} s")

    with closing(sqlite3.connect(path, timeout=20.0)) as target:
        source.backup(target, progress=wait)


def _remove(path: Path) -> None:
    """Remove a database's file and its journal, where they are."""
    for name in (path.name, f"{path.name}-journal"):
        path.with_name(name).unlink(missing_ok=True)
