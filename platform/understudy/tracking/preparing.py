"""Make a store ready: something answers there, and a SQLite one has the installed MLflow's schema."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock

from understudy.errors import UnderstudyError
from understudy.files import check_room, storage_errors
from understudy.tracking.addresses import OFF, absolute_address, check_reachable, sqlite_path
from understudy.tracking.client import IMPATIENT, STORE_BYTES, client, environment, tracking_errors, untyped
from understudy.tracking.fresh import fill, revision
from understudy.tracking.upgrading import migrations, tables, upgrade


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


def ready(tracking_uri: str) -> None:
    """Raise TrackingError where a store cannot be asked; a SQLite one gets the installed MLflow's schema first."""
    (check_reachable if sqlite_path(tracking_uri) is None else prepare)(tracking_uri)


@contextmanager
def _begun(path: Path) -> Generator[None]:
    """Remove an empty store where the block fails; StorageError where it failed because the disk is full."""
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
    an older schema.
    """
    lock = FileLock(path.with_name(path.name + ".lock"))
    with storage_errors(path):
        lock.acquire()
    try:
        held, newest = revision(path), str(migrations().get_current_head())
        new = held is None and not tables(path)
        if new:
            fill(path, newest)
        elif held != newest:
            upgrade(path, held, newest)
        try:
            yield
        except UnderstudyError:
            if new and revision(path) != newest:  # half of its tables are worse than none
                path.unlink(missing_ok=True)
            raise
    finally:
        lock.release()
