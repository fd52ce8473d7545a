"""Bring a SQLite store to the installed MLflow's schema, in one process at a time."""

from __future__ import annotations

import logging
import os
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock

from understudy.errors import TrackingError
from understudy.tracking.addresses import sqlite_address

log = logging.getLogger("understudy")


@contextmanager
def migrated(path: Path) -> Generator[None]:
    """Hold the store's lock file while the block creates it, after upgrading one that an older MLflow made.

    MLflow creates missing tables by itself, but two processes that do it at once break each other, and it refuses
    an older schema. The old file is kept beside as `mlflow.db.before-<revision>`.
    """
    with FileLock(path.with_name(path.name + ".lock")):
        held = revision(path)
        if held is not None and held != _newest_revision():
            _upgrade(path, held)
        yield


def revision(path: Path) -> str | None:
    """Return the schema revision of a store; None for a new, empty file."""
    connection = sqlite3.connect(path)
    try:
        row = connection.execute("SELECT version_num FROM alembic_version").fetchone()
    except sqlite3.OperationalError:  # no such table
        return None
    finally:
        connection.close()
    return row[0] if row else None


def _newest_revision() -> str:
    """Return the revision of the installed MLflow, read from its migration files."""
    import importlib.util

    from alembic.script import ScriptDirectory

    spec = importlib.util.find_spec("mlflow")
    if spec is None or not spec.submodule_search_locations:
        raise TrackingError("mlflow is not installed: install understudy's dependencies, or use tracking_uri=none")
    folder = Path(spec.submodule_search_locations[0]) / "store" / "db_migrations"
    return str(ScriptDirectory(str(folder)).get_current_head())


def _upgrade(path: Path, held: str) -> None:
    kept = path.with_name(f"{path.name}.before-{held}")
    shutil.copy2(path, kept)
    log.warning("upgrading %s to the installed MLflow's schema; the old file is kept as %s", path, kept.name)
    # In a process of its own: alembic configures logging for the whole process.
    command = [sys.executable, "-m", "mlflow", "db", "upgrade", sqlite_address(path)]
    environment = {**os.environ, "MLFLOW_DISABLE_TELEMETRY": "true"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    if done.returncode:
        shutil.copy2(kept, path)
        reason = next((line for line in reversed(done.stderr.splitlines()) if line.strip()), "no reason given")
        raise TrackingError(f"{path} has schema {held}, which this MLflow cannot upgrade ({reason.strip()[:200]})")
