"""Make a store ready: something answers there, and a SQLite one has the installed MLflow's schema."""

from __future__ import annotations

import logging
import os
import shutil
import subprocess
import sys
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock

from understudy.errors import TrackingError, UnderstudyError
from understudy.files import check_room, storage_errors
from understudy.tracking.addresses import OFF, absolute_address, check_reachable, sqlite_address, sqlite_path
from understudy.tracking.client import IMPATIENT, client, environment, tracking_errors, untyped
from understudy.tracking.fresh import fill, revision

log = logging.getLogger("understudy")
STORE_BYTES = 1 << 20
"""What a new store needs."""


def prepare(tracking_uri: str) -> None:
    """Create or migrate the store, once, before any worker starts; TrackingError within seconds if it is unfit."""
    if tracking_uri == OFF:
        return
    tracking_uri = absolute_address(tracking_uri)
    path = sqlite_path(tracking_uri)
    if path is None:
        check_reachable(tracking_uri)
        with tracking_errors(tracking_uri):
            store = untyped(client(tracking_uri))  # sets our defaults: within the block they would end with it
            with environment(**IMPATIENT):
                store.search_experiments(max_results=1)
        return
    with _begun(path):
        check_reachable(tracking_uri)
        with _migrated(path), tracking_errors(tracking_uri):
            untyped(client(tracking_uri)).search_experiments(max_results=1)


@contextmanager
def _begun(path: Path) -> Generator[None]:
    """Leave no empty store where the block fails; StorageError where it does because the disk is full."""
    try:
        yield
    except UnderstudyError:
        if path.is_file() and not path.stat().st_size:
            path.unlink()
        check_room(path.parent, STORE_BYTES, f"the tracking store {path.name}")
        raise


@contextmanager
def _migrated(path: Path) -> Generator[None]:
    """Hold the store's lock file while the block opens it, after making its tables or upgrading an older MLflow's.

    MLflow creates missing tables by itself, but two processes that do it at once break each other, and it refuses
    an older schema. The old file is kept beside as `mlflow.db.before-<revision>`.
    """
    lock = FileLock(path.with_name(path.name + ".lock"))
    with storage_errors(path):
        lock.acquire()
    try:
        held, newest = revision(path), _newest_revision()
        if held is None:
            fill(path, newest)
        elif held != newest:
            _upgrade(path, held)
        try:
            yield
        except UnderstudyError:
            if held is None and revision(path) != newest:  # half of its tables are worse than none
                path.unlink(missing_ok=True)
            raise
    finally:
        lock.release()


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
