"""What a machine gives a run: its torch device, and processes that share work."""

from __future__ import annotations

import multiprocessing
import signal
from collections.abc import Generator
from contextlib import contextmanager
from multiprocessing import resource_tracker
from typing import TYPE_CHECKING

from understudy.errors import SpecError, UnderstudyError

if TYPE_CHECKING:
    import torch


def resolve_device(device: str) -> torch.device:
    """Return the torch device; `auto` is CUDA where there is one. Raises SpecError for one that is not here."""
    import torch  # it takes seconds, and most commands need no device

    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        resolved = torch.device(device)
    except RuntimeError:
        resolved = None
    if resolved is None or resolved.type not in ("cpu", "cuda"):
        raise SpecError(f"device={device!r}: allowed are auto, cpu, cuda, cuda:N") from None
    if resolved.type == "cuda" and not torch.cuda.is_available():
        raise SpecError(f"device={device!r}: torch {torch.__version__} sees no CUDA device here; use device=cpu")
    if resolved.type == "cuda" and (resolved.index or 0) >= torch.cuda.device_count():
        raise SpecError(f"device={device!r}: there are {torch.cuda.device_count()} CUDA devices here, counted from 0")
    return resolved


def check_semaphores(alone: str) -> None:
    """Raise UnderstudyError where the system has no place for semaphores, which processes share work by.

    `alone` says how to do without; pools and loaders themselves leave a traceback behind.
    """
    try:
        multiprocessing.get_context("spawn").Lock()
    except OSError as error:
        raise UnderstudyError(
            f"no processes can be started that share work ({error.strerror or error}): they need a /dev/shm that can"
            f" be written to (a container's --shm-size=2g); {alone}"
        ) from error


@contextmanager
def deaf_to_ctrl_c() -> Generator[None]:
    """Let processes that are started meanwhile be out of Ctrl-C's reach from their first instruction on.

    It reaches every process of a terminal, and one that is still importing would end with a traceback. A process takes
    over which signals are blocked where it is started; here Ctrl-C waits for the block's end. The tracker of shared
    memory, whose start unblocks it, is there before.
    """
    resource_tracker.ensure_running()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
