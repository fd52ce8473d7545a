"""Ports of this machine for a cluster that comes up, chosen by one process at a time."""

from __future__ import annotations

import os
import socket
import tempfile
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from understudy.errors import UnderstudyError

TURN_SECONDS = 600.0
"""How long another cluster that comes up is waited for: its head, its nodes and its monitors."""


def free_port(wanted: int) -> int:
    """Return the wanted port of this machine, or a free one where it is taken."""
    for port in (wanted, 0):
        with socket.socket() as server:
            try:
                server.bind(("", port))
                return server.getsockname()[1]
            except OSError:
                continue
    raise UnderstudyError("this machine has no free port")


@contextmanager
def one_at_a_time() -> Generator[None]:
    """Let one cluster of this user come up at a time on this machine while the block runs; UnderstudyError.

    A port that is free stays so until the head listens, seconds later: two that came up at once would take the same.
    """
    path = Path(tempfile.gettempdir(), f"understudy-{os.getuid()}.lock")
    lock = FileLock(path)
    try:
        lock.acquire(timeout=TURN_SECONDS)
    except Timeout:
        raise UnderstudyError(f"another cluster has been coming up for {TURN_SECONDS:g} s ({path})") from None
    except OSError as error:
        raise UnderstudyError(f"cannot write {path} ({error.strerror or error}): set TMPDIR") from None
    try:
        yield
    finally:
        lock.release()
