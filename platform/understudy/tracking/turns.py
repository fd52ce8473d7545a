"""Let the processes that write to one SQLite store take turns."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager, suppress

from filelock import FileLock, Timeout

from understudy.tracking.addresses import sqlite_path

TURN_SECONDS = 60.0
"""How long a process that holds the turn is waited for."""


@contextmanager
def our_turn(tracking_uri: str) -> Generator[None]:
    """Let one process at a time write to a SQLite store while the block runs; nothing for other stores.

    SQLite lets writers wait, but not in turn: of 64, some see "database is locked" after MLflow's 20 seconds. A process
    that holds the turn for TURN_SECONDS is not waited for any longer.
    """
    path = sqlite_path(tracking_uri)
    if path is None or not path.parent.is_dir():
        yield
        return
    lock = FileLock(path.with_name(f".{path.name}.turn"), poll_interval=0.01)
    with suppress(Timeout):
        lock.acquire(timeout=TURN_SECONDS)
    try:
        yield
    finally:
        if lock.is_locked:
            lock.release()
