"""Stop in good order when a scheduler says so: SIGTERM makes a run write its checkpoint and end, to be resumed.

The notice is a file, so that it reaches loops in other processes (Ray workers, trials): `.stop` in the run's
folder, or in its sweep's. Whoever handles the signal makes it and takes it away again.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from understudy.errors import Preempted

STOP = ".stop"
LOOK_SECONDS = 0.2
STOP_WAIT = "RAY_JOB_STOP_WAIT_TIME_S"
"""Ray's variable: the seconds between SIGTERM and SIGKILL for a job. Heads and batch scripts of ours set it higher."""
RAY_JOB = "RAY_JOB_CONFIG_JSON_ENV_VAR"
"""What Ray sets in the driver of a submitted job."""


class Notice:
    """Whether a run has been told to stop; asking costs next to nothing."""

    def __init__(self, run: Path) -> None:
        self._files = [run / STOP]
        if run.parent.name == "trials":
            self._files.append(run.parent.parent / STOP)
        self._next = 0.0

    def given(self) -> bool:
        """Look for the notice, at most every LOOK_SECONDS."""
        now = time.monotonic()
        if now < self._next:
            return False
        self._next = now + LOOK_SECONDS
        return any(file.exists() for file in self._files)


def grace_seconds() -> float:
    """Return how long the driver of a sweep may wait for its trials' checkpoints, half a second before SIGKILL.

    Without word from the cluster: 3 s in a Ray job (Ray's own default), else the 30 s of Kubernetes and Slurm.
    """
    return float(os.environ.get(STOP_WAIT, "3" if RAY_JOB in os.environ else "30")) - 0.5


def stopped(folder: Path) -> bool:
    """Say whether the run or sweep in `folder` has been told to stop."""
    return (folder / STOP).exists()


@contextmanager
def on_sigterm(folder: Path, ended: Callable[[], bool] | None = None) -> Iterator[None]:
    """Turn SIGTERM inside the block into a notice in `folder`.

    With `ended` the block itself cannot end in good order: the handler waits until `ended()`, or grace_seconds(), and
    raises Preempted in the main thread. Does nothing in other threads, which get no signals.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    preempted = Preempted(f"stopped by SIGTERM; `understudy resume {folder}` goes on")
    interrupted = False

    def handle(_signal: int, _frame: object) -> None:
        nonlocal interrupted
        (folder / STOP).touch()
        if ended is None or interrupted:
            return
        interrupted = True
        deadline = time.monotonic() + grace_seconds()
        while not ended() and time.monotonic() < deadline:
            time.sleep(0.05)
        raise preempted

    before = signal.signal(signal.SIGTERM, handle)
    (folder / STOP).unlink(missing_ok=True)
    try:
        yield
    except BaseException:
        if interrupted:  # compiled code, such as Ray's, makes another error of what a signal handler raises
            raise preempted from None
        raise
    finally:
        signal.signal(signal.SIGTERM, before)
        (folder / STOP).unlink(missing_ok=True)
