"""How many processes to start, and worker processes that end when the one that started them does."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Generator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager

from understudy.devices import check_semaphores
from understudy.errors import UnderstudyError


def available_cpus() -> int:
    """Return the CPUs this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def end_with_parent() -> None:
    """Let this worker process end when the process that started it is killed, and leave Ctrl-C to that one."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()

    def watch() -> None:
        if parent is not None:
            parent.join()
            os._exit(1)

    threading.Thread(target=watch, daemon=True, name="watch-parent").start()


@contextmanager
def process_pool(
    workers: int, died: str, alone: str, initializer: Callable[[], None] = end_with_parent
) -> Generator[ProcessPoolExecutor]:
    """Give a pool of new processes: simulators and torch do not survive a fork.

    Raises UnderstudyError that says `died` when one of them dies, and where the system lets none be started: then it
    says how to do without (`alone`).
    """
    check_semaphores(alone)
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(workers, mp_context=context, initializer=initializer)
    try:
        yield pool
    except BrokenProcessPool as error:
        raise UnderstudyError(died) from error
    finally:
        pool.shutdown(cancel_futures=True)
