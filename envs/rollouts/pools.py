"""Run many environments, in this process or in worker processes, and step each through a whole chunk at a time.

Pools are kept for the life of the process, because an environment can take seconds to build.
"""

from __future__ import annotations

import atexit
import math
import multiprocessing
import pickle
import signal
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection
from typing import Any, Protocol

from understudy.devices import deaf_to_ctrl_c
from understudy.envs.files.processes import available_cpus
from understudy.envs.rollouts.slots import Command, CommandResult, Poll, Slot, one_line
from understudy.errors import UnderstudyError, UserError

KEPT_POOLS = 4


class WorkerDied(UnderstudyError):
    """A worker process of environments ended by itself: killed, out of memory, or crashed in compiled code."""


MakeEnv = Callable[..., Any]
"""Called as make_env(render=bool); returns a gymnasium environment."""


POLL_SECONDS = 0.1
"""Seconds between two calls of a Poll, while worker processes are at work."""
CLOSE_SECONDS = 2.0
"""Seconds that worker processes have to end by themselves, before they are killed."""


class Pool(Protocol):
    """Environments that commands address by slot number."""

    def run(self, commands: Sequence[Command], poll: Poll | None = None) -> list[CommandResult]:
        """Carry the commands out and return their outcomes in the same order."""
        ...

    def close(self) -> None:
        """Close the environments."""
        ...


class LocalPool:
    """Environments in this process, made when a slot is first used."""

    def __init__(self, make_env: MakeEnv, render: bool) -> None:
        self._make_env, self._render = make_env, render
        self._name = _name(make_env)
        self._slots: dict[int, Slot] = {}

    def run(self, commands: Sequence[Command], poll: Poll | None = None) -> list[CommandResult]:
        """Carry the commands out one after another."""
        return [self._slot(command.slot).run(command, poll) for command in commands]

    def close(self) -> None:
        """Close the environments."""
        for slot in self._slots.values():
            slot.env.close()
        self._slots.clear()

    def _slot(self, number: int) -> Slot:
        if number not in self._slots:
            self._slots[number] = Slot(self._made(), self._name)
        return self._slots[number]

    def _made(self) -> Any:
        try:
            return self._make_env(render=self._render)
        except UnderstudyError:
            raise
        except Exception as error:
            raise UserError(f"environment {self._name} cannot be made: {one_line(error)}") from error


class ProcessPool:
    """Environments in worker processes; slot s lives in worker s modulo their number."""

    def __init__(self, make_env: MakeEnv, render: bool, workers: int, timeout: float | None = None) -> None:
        self._timeout = timeout
        context = multiprocessing.get_context("spawn")  # simulators and torch do not survive a fork
        try:
            pickle.dumps(make_env)
        except (pickle.PicklingError, AttributeError, TypeError) as error:
            raise UserError(f"processes need a picklable make_env, not {make_env!r} ({error})") from error
        self._name = _name(make_env)
        self._connections: list[Connection] = []
        self._processes = []
        for number in range(workers):
            ours, theirs = context.Pipe()
            process = context.Process(
                target=serve, args=(theirs, make_env, render), daemon=True, name=f"understudy-env-{number}"
            )
            with deaf_to_ctrl_c():
                process.start()
            theirs.close()  # so that the worker's death closes the pipe
            self._connections.append(ours)
            self._processes.append(process)

    def run(self, commands: Sequence[Command], poll: Poll | None = None) -> list[CommandResult]:
        """Carry the commands out, the workers at the same time."""
        shares: dict[int, list[int]] = {}
        for index, command in enumerate(commands):
            shares.setdefault(command.slot % len(self._processes), []).append(index)
        for worker, indices in shares.items():
            self._send(worker, [commands[index] for index in indices])
        outcomes: dict[int, CommandResult] = {}
        for worker, indices in shares.items():
            outcomes.update(zip(indices, self._receive(worker, poll), strict=True))
        return [outcomes[index] for index in range(len(commands))]

    def close(self) -> None:
        """End the workers: ask, then kill (one that hangs in compiled code hears nothing else)."""
        for connection in self._connections:
            connection.close()
        deadline = time.monotonic() + CLOSE_SECONDS
        for process in self._processes:
            process.join(timeout=max(0.0, deadline - time.monotonic()))
            if process.is_alive():
                process.kill()
                process.join()

    def _send(self, worker: int, commands: list[Command]) -> None:
        try:
            self._connections[worker].send(commands)
        except OSError as error:
            raise self._death(worker) from error

    def _receive(self, worker: int, poll: Poll | None) -> list[CommandResult]:
        deadline = math.inf if self._timeout is None else time.monotonic() + self._timeout
        try:
            while not self._connections[worker].poll(min(POLL_SECONDS, max(0.0, deadline - time.monotonic()))):
                if time.monotonic() >= deadline:
                    raise self._hang(worker)
                if poll is not None:
                    poll()
            answer = self._connections[worker].recv()
        except (EOFError, OSError) as error:
            raise self._death(worker) from error
        if isinstance(answer, UnderstudyError):
            raise answer
        if isinstance(answer, str):
            raise UnderstudyError(f"environment {self._name} failed in worker process {worker}: {answer}")
        return answer

    def _hang(self, worker: int) -> UnderstudyError:
        silent = f"worker process {worker} (pid {self._processes[worker].pid}) gave no answer in {self._timeout:g} s"
        return UnderstudyError(f"environment {self._name} hangs: {silent}; it is killed (eval_timeout says how long)")

    def _death(self, worker: int) -> WorkerDied:
        process = self._processes[worker]
        process.join(timeout=5)
        died = f"worker process {worker} (pid {process.pid}) died with exit code {process.exitcode}"
        return WorkerDied(f"environment {self._name}: {died}")


def serve(connection: Connection, make_env: MakeEnv, render: bool) -> None:
    """Answer commands until the other end closes; an exception is sent back as one line of text."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches every process of a terminal: the parent decides
    pool = LocalPool(make_env, render)
    try:
        while True:
            commands = connection.recv()
            try:
                answer: Any = pool.run(commands)
            except UnderstudyError as error:
                answer = error
            except Exception as error:  # noqa: BLE001  (whatever a simulator raises is for the parent)
                answer = f"{type(error).__name__}: {error}".splitlines()[0]
            connection.send(answer)
    except (EOFError, OSError):
        return  # the parent is gone or stopping
    finally:
        pool.close()


_pools: OrderedDict[tuple[Any, ...], Pool] = OrderedDict()


def pool_for(
    make_env: MakeEnv, *, render: bool, processes: bool | int, slots: int, timeout: float | None = None
) -> Pool:
    """Return the kept pool of these environments, or a new one; the least recently used beyond four are closed.

    `timeout` is the longest that one worker process may take for its environments' chunks, in seconds.
    """
    workers = available_cpus() if processes is True else int(processes)
    workers = min(workers, slots)
    key = (make_env, render, workers, timeout)
    if key not in _pools:
        _pools[key] = ProcessPool(make_env, render, workers, timeout) if workers else LocalPool(make_env, render)
    _pools.move_to_end(key)
    while len(_pools) > KEPT_POOLS:
        _pools.popitem(last=False)[1].close()
    return _pools[key]


def discard_pool(pool: Pool) -> None:
    """Close a pool that failed, so that the next evaluation starts afresh."""
    for key in [key for key, kept in _pools.items() if kept is pool]:
        del _pools[key]
    pool.close()


def close_pools() -> None:
    """Close every kept pool."""
    while _pools:
        _pools.popitem()[1].close()


def _name(make_env: MakeEnv) -> str:
    return str(getattr(make_env, "env_name", repr(make_env)))


atexit.register(close_pools)
