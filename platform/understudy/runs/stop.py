"""Stop in good order: SIGTERM (a scheduler) or Ctrl-C makes a run write its checkpoint and end, to be resumed.

The notice is a file, so that it reaches loops in other processes (Ray workers, trials): `.stop` in the run's
folder, or in its sweep's, with the signal's name in it. Whoever handles the signal makes it and takes it away again.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path

from understudy.errors import Interrupted, Preempted, Stopped
from understudy.files import typed

STOP = ".stop"
LOOK_SECONDS = 0.2
STOP_WAIT = "RAY_JOB_STOP_WAIT_TIME_S"
"""Ray's variable: the seconds between SIGTERM and SIGKILL for a job. Heads and batch scripts of ours set it higher."""
RAY_JOB = "RAY_JOB_CONFIG_JSON_ENV_VAR"
"""What Ray sets in the driver of a submitted job."""


class Notice:
    """The notice that tells a run to stop; looking for it costs next to nothing."""

    def __init__(self, run: Path) -> None:
        self._run = run
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
        return self.pending

    @property
    def pending(self) -> bool:
        """Whether the notice is there, whenever it was last looked for."""
        return any(file.exists() for file in self._files)

    def error(self, step: int | None = None) -> Stopped:
        """Return what a loop raises that has been told to stop and has written its checkpoint of `step`."""
        name = next((file.read_text() for file in self._files if file.exists()), signal.SIGTERM.name)
        return stopped_by(name, self._run, "" if step is None else f" at step {step}")

    def poll(self) -> None:
        """Raise Stopped where the notice is given: between the steps of an evaluation, at most every LOOK_SECONDS."""
        if self.given():
            raise self.error()

    def check(self) -> None:
        """Raise Stopped where the notice is given, whenever it was last looked for: between two stages."""
        if self.pending:
            raise self.error()


def stopped_by(name: str, folder: Path, where: str = "") -> Stopped:
    """Return the error that the signal `name` ends the run or sweep in `folder` with; its exit code is the signal's."""
    return _stopped(name, f"{where}; `understudy resume {typed(folder)}` goes on")


def stopped_at_start(name: str) -> Stopped:
    """Return what the signal `name` ends this process with while what it stands on is started."""
    return stopped_by(name, _open[-1]) if _open else _stopped(name, "; nothing was begun")


def _stopped(name: str, ending: str) -> Stopped:
    if name == signal.SIGINT.name:
        return Interrupted(f"interrupted{ending}")
    return Preempted(f"stopped by {name}{ending}")


def grace_seconds() -> float:
    """Return how long the driver of a sweep may wait for its trials' checkpoints, half a second before SIGKILL.

    Without word from the cluster: 3 s in a Ray job (Ray's own default), else the 30 s of Kubernetes and Slurm.
    """
    return float(os.environ.get(STOP_WAIT, "3" if RAY_JOB in os.environ else "30")) - 0.5


def stopped(folder: Path) -> bool:
    """Return whether the run or sweep in `folder` has been told to stop."""
    return (folder / STOP).exists()


_open: list[Path] = []
"""The folders of the blocks of `on_signals` that this process is in."""


@contextmanager
def on_signals(folder: Path, ended: Callable[[], bool] | None = None) -> Generator[None]:
    """Turn SIGTERM or Ctrl-C inside the block into a notice in `folder`; a second Ctrl-C ends the block at once.

    With `ended` the block cannot stop by itself: the handler waits until `ended()` is true, at most grace_seconds(),
    and raises Stopped in the main thread. A second Ctrl-C is a KeyboardInterrupt inside the block, and becomes an
    Interrupted that names `folder` outside of it. A block inside a block of the same folder leaves the outer one's
    notice alone, and raises Stopped at once if that is given already. Does nothing in other threads, which get no
    signals.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    told: Stopped | None = None
    within = folder in _open

    def handle(number: int, _frame: object) -> None:
        nonlocal told
        if told is not None:
            if number == signal.SIGINT:
                raise KeyboardInterrupt
            return
        name = signal.Signals(number).name
        told = stopped_by(name, folder)
        (folder / STOP).write_text(name)
        if number == signal.SIGINT:
            # Not by print or logging: the signal may have come in the middle of a write to the same stream.
            os.write(2, b"\nstopping after a checkpoint (Ctrl-C again: at once)\n")
        if ended is None:
            return
        deadline = time.monotonic() + grace_seconds()
        while not ended() and time.monotonic() < deadline:
            time.sleep(0.05)
        raise told

    if within:
        Notice(folder).check()
    else:
        (folder / STOP).unlink(missing_ok=True)
    before = {number: signal.signal(number, handle) for number in (signal.SIGTERM, signal.SIGINT)}
    _open.append(folder)
    try:
        yield
    except KeyboardInterrupt:
        ending = f"ended at once; `understudy resume {typed(folder)}` goes on from the last checkpoint"
        raise Interrupted(ending) from None
    except BaseException:
        if told and ended:  # compiled code, such as Ray's, makes another error of what a signal handler raises
            raise told from None
        raise
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        _open.remove(folder)
        if not within:
            (folder / STOP).unlink(missing_ok=True)


@contextmanager
def noted_signals(then: str) -> Generator[Callable[[], None]]:
    """Note SIGTERM and Ctrl-C inside the block, whose work is short and best ended; a second Ctrl-C ends it at once.

    What it yields raises, between two stages, the Stopped of a signal that has come, which says what to do `then`.
    """
    told: list[str] = []

    def handle(number: int, _frame: object) -> None:
        if told and number == signal.SIGINT:
            raise KeyboardInterrupt
        told.append(signal.Signals(number).name)

    def poll() -> None:
        if told:
            raise _stopped(told[0], f"; {then}")

    before = {number: signal.signal(number, handle) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield poll
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def noted_at_start() -> Generator[Callable[[], None]]:
    """Note SIGTERM and Ctrl-C while what work stands on is started; what it yields raises the Stopped of one that came.

    Compiled code that starts it, such as Ray's, may lose what a handler raises. Inside on_signals, that notes them.
    """
    if _open or threading.current_thread() is not threading.main_thread():
        yield check_signals
        return
    with noted_signals("nothing was begun") as poll:
        yield poll


def check_signals() -> None:
    """Raise Stopped where a signal has come in one of the blocks of on_signals that this process is in."""
    for folder in _open:
        Notice(folder).check()


@contextmanager
def kept_handlers() -> Generator[None]:
    """Put back, after the block, the handlers of signals that the block replaced by others, such as Ray's."""
    numbers = (signal.SIGTERM, signal.SIGINT)
    before = {number: signal.getsignal(number) for number in numbers}
    try:
        yield
    finally:
        if threading.current_thread() is threading.main_thread():
            for number, handler in before.items():
                signal.signal(number, handler)
