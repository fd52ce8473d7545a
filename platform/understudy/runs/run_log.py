"""A run's log.txt: what was warned of while it trained and, where it did not end well, why, with the traceback.

A run that nothing happened to has none. It is written beside the other messages, never in their place, and a disk that
takes no more of it is no further error: the run says that itself.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
import traceback
from collections.abc import Generator
from pathlib import Path

from understudy.runs.turns import THREAD
from understudy.secrecy import without_secrets

LOG = "log.txt"
FRAMES = 20
"""Frames of a traceback that are kept, the innermost."""


def note(folder: Path, text: str) -> None:
    """Append lines to a run's log, each with the time; passwords in addresses are left out."""
    now = time.strftime("%Y-%m-%d %H:%M:%S")
    lines = "".join(f"{now} {line}\n" for line in without_secrets(text).splitlines())
    with contextlib.suppress(OSError), open(folder / LOG, "a", encoding="utf-8", errors="backslashreplace") as file:
        file.write(lines)


def note_error(folder: Path, error: BaseException) -> None:
    """Append an error with its traceback."""
    note(folder, "".join(traceback.format_exception(type(error), error, error.__traceback__, limit=-FRAMES)))


class _Handler(logging.Handler):
    """Gives a run's log what the package logs."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self._folder, self._thread = folder, threading.current_thread().name

    def emit(self, record: logging.LogRecord) -> None:
        """Append one message, if it is of no other training that takes turns with this one."""
        if str(record.threadName).startswith(THREAD) and record.threadName != self._thread:
            return
        note(self._folder, f"{record.levelname.lower()}: {record.getMessage()}")


@contextlib.contextmanager
def kept(folder: Path) -> Generator[None]:
    """Keep what the package logs in this process, while the block runs, in a run's log too."""
    logger, handler = logging.getLogger("understudy"), _Handler(folder)
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)
