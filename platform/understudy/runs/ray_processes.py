"""Whether the Ray that work stands on still lives, and the end of a process whose Ray may not answer any more.

A Ray of our own dies with a signal to everything in a container or a batch job, or by itself. Its driver then waits for
it for minutes and is ended by it with an exit code of Ray's. So work on Ray is done in a thread of its own, while the
main thread looks at Ray's processes and takes signals. Imports no ray: what is asked here must answer without it.
"""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import sys
import threading
import time
from collections.abc import Callable, Generator, Iterable
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil

from understudy.errors import RayLost
from understudy.files import typed
from understudy.runs.stop import Notice, stopped

NAMES = ("gcs_server", "raylet")
LOOK_SECONDS = 0.2
NOTICE_SECONDS = 2.0
"""How long after the death of a Ray the signal that killed it may reach us too."""
GCS_SECONDS = 45.0
"""How long the GCS of a cluster that we joined may refuse connections: one that is started again does for some time."""
END_SECONDS = 5.0

_own: dict[str, psutil.Process] = {}
_waiting: list[threading.Thread] = []
"""The threads whose work on Ray did not come to its end, or was not waited for."""
_joined: list[_Head] = []


class _Head:
    """The GCS of a cluster that this process joined."""

    def __init__(self, address: str) -> None:
        host, _, port = address.rpartition(":")
        self._place = host.strip("[]"), int(port)
        self._answered = self._asked = time.monotonic()

    def lost(self, patience: float) -> bool:
        """Ask from time to time whether it takes connections; return whether it has not for `patience` seconds."""
        now = time.monotonic()
        if now - self._asked >= patience / 10:
            self._asked = now
            with contextlib.suppress(OSError):
                socket.create_connection(self._place, timeout=patience / 10).close()
                self._answered = time.monotonic()
        return now - self._answered > patience


def watch(address: str) -> None:
    """Note which Ray this process is connected to: its own, by the processes of it, or the one with that GCS."""
    _own.clear()
    _joined.clear()
    _own.update({child.name(): child for child in psutil.Process().children() if child.name() in NAMES})
    if not _own:
        _joined.append(_Head(address))


def lost(folder: Path) -> str | None:
    """Return which part of Ray is gone, None while all is there.

    The GCS of a cluster that we joined may be started again, but not when the work in `folder` was told to stop.
    """
    for name, process in _own.items():
        try:
            if not process.is_running() or process.status() == psutil.STATUS_ZOMBIE:
                return name
        except psutil.NoSuchProcess:
            return name
    patience = NOTICE_SECONDS if stopped(folder) else GCS_SECONDS
    return "GCS" if any(head.lost(patience) for head in _joined) else None


def do_watched(work: Callable[[], Any], folder: Path) -> None:
    """Do `work` on Ray in another thread, raising what it raises; signals interrupt the wait, which ends the process.

    RayLost where Ray dies meanwhile, in a few seconds; Stopped where it died of a signal that was sent to us too.
    """
    raised: list[BaseException] = []

    def do() -> None:
        try:
            work()
        except BaseException as error:  # noqa: BLE001  (raised in the thread that waits)
            raised.append(error)

    thread = threading.Thread(target=do, name="understudy-ray", daemon=True)
    _waiting.append(thread)
    thread.start()
    while thread.is_alive() and lost(folder) is None:
        thread.join(LOOK_SECONDS)
    if thread.is_alive() or raised:
        check(folder)
    _waiting.remove(thread)
    if raised:
        raise raised[0]


def check(folder: Path) -> None:
    """Raise RayLost where part of Ray is gone, Stopped where it died of a signal that was sent to us too."""
    died = lost(folder)
    if died is None:
        return
    if threading.current_thread() not in _waiting:
        _waiting.append(threading.current_thread())
    deadline = time.monotonic() + NOTICE_SECONDS
    while time.monotonic() < deadline:
        Notice(folder).check()
        time.sleep(LOOK_SECONDS)
    raise RayLost(f"Ray's {died} died; `understudy resume {typed(folder)}` goes on") from None


def leave(code: int) -> None:
    """End this process now where it left work on Ray behind; its own Ray's processes end first.

    The interpreter's own end would wait for a Ray that is gone, or race with the threads that still use it.
    """
    if not _waiting:
        return
    logging.shutdown()
    with contextlib.suppress(OSError, ValueError):  # whoever read it may have gone
        sys.stdout.flush()
        sys.stderr.flush()
    _end(_own.values())
    os._exit(code)


@contextmanager
def ended_unless_whole() -> Generator[None]:
    """End what the block started of Ray where it raises."""
    before = set(psutil.Process().children())
    try:
        yield
    except BaseException:
        _end(set(psutil.Process().children()) - before)
        raise


def _end(processes: Iterable[psutil.Process]) -> None:
    """End processes and all below them: what resumes must find none of them."""
    ours: list[psutil.Process] = []
    for process in processes:
        with contextlib.suppress(psutil.Error):
            ours += [process, *process.children(recursive=True)]
    for process in ours:
        with contextlib.suppress(psutil.Error):
            process.terminate()
    _, alive = psutil.wait_procs(ours, timeout=END_SECONDS / 2)
    for process in alive:
        with contextlib.suppress(psutil.Error):
            process.kill()
    psutil.wait_procs(alive, timeout=END_SECONDS / 2)
