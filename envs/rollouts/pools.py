"""Run many environments, in this process or in worker processes, and step each through a whole chunk at a time.

A slot is one environment. A command resets it or gives it a chunk of actions; the outcome is what came of it.
Pools are kept for the life of the process, because an environment can take seconds to build.
"""

from __future__ import annotations

import atexit
import math
import multiprocessing
import os
import pickle
import signal
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from typing import Any, Protocol

import numpy as np

from understudy.envs.rollouts.collecting import Step, goal_of, stored
from understudy.errors import UnderstudyError, UserError
from understudy.observations import Arrays, each

KEPT_POOLS = 4


class WorkerDied(UnderstudyError):
    """A worker process of environments ended by itself: killed, out of memory, or crashed in compiled code."""


MakeEnv = Callable[..., Any]
"""Called as make_env(render=bool); returns a gymnasium environment."""


Poll = Callable[[], None]
"""Called between the steps of environments, and while other processes step them; what it raises ends the work."""
POLL_SECONDS = 0.1
"""Between two calls of a Poll while worker processes are at work."""
CLOSE_SECONDS = 2.0
"""That worker processes have to end by themselves."""


@dataclass(frozen=True)
class Command:
    """Reset `slot` with `seed`, or execute `actions` [H, A] in it; a frame is kept each `frame_skip` steps if not 0."""

    slot: int
    seed: int | None = None
    actions: np.ndarray | None = None
    frame_skip: int = 0
    recent: int = 1
    """The newest observations that are wanted back; fewer come when fewer actions were executed."""
    record: bool = False
    """Whether every step is wanted back."""


@dataclass
class Outcome:
    """What a command did: what was seen after it, and the sums over its steps."""

    observations: list[Arrays] = field(default_factory=list)
    """The newest ones, oldest first."""
    reward: float = 0.0
    steps: int = 0
    done: bool = False
    success: float | None = None
    frames: list[np.ndarray] = field(default_factory=list)
    recorded: list[Step] = field(default_factory=list)
    goal: Arrays | None = None
    """Of a reset: what the episode is to reach, where the environment tells it."""
    action_dim: int = 0
    """Numbers in one action (in the answer to a reset)."""

    @property
    def observation(self) -> Arrays:
        """The newest observation."""
        return self.observations[-1]


class Pool(Protocol):
    """Environments that commands address by slot number."""

    def run(self, commands: Sequence[Command], poll: Poll | None = None) -> list[Outcome]:
        """Carry the commands out and return their outcomes in the same order."""
        ...

    def close(self) -> None:
        """Close the environments."""
        ...


class LocalPool:
    """Environments in this process, made when a slot is first used."""

    def __init__(self, make_env: MakeEnv, render: bool) -> None:
        self._make_env, self._render = make_env, render
        self._slots: dict[int, Slot] = {}

    def run(self, commands: Sequence[Command], poll: Poll | None = None) -> list[Outcome]:
        """Carry the commands out one after another."""
        return [self._slot(command.slot).run(command, poll) for command in commands]

    def close(self) -> None:
        """Close the environments."""
        for slot in self._slots.values():
            slot.env.close()
        self._slots.clear()

    def _slot(self, number: int) -> Slot:
        if number not in self._slots:
            self._slots[number] = Slot(self._make_env(render=self._render))
        return self._slots[number]


class Slot:
    """One environment and the number of steps since its reset."""

    def __init__(self, env: Any) -> None:
        self.env = env
        self._steps = 0

    def run(self, command: Command, poll: Poll | None = None) -> Outcome:
        """Reset, or execute a chunk until its end or the episode's."""
        if command.actions is not None:
            return self._execute(command, command.actions, poll)
        observation, info = self.env.reset(seed=command.seed)
        self._steps = 0
        frames = [self.env.render()] if command.frame_skip else []
        size = int(np.prod(self.env.action_space.shape or ()))
        return Outcome([each(stored, observation)], frames=frames, goal=goal_of(info), action_dim=size)

    def _execute(self, command: Command, actions: np.ndarray, poll: Poll | None) -> Outcome:
        outcome = Outcome()
        seen: deque[Any] = deque(maxlen=command.recent)
        for action in actions:
            if poll is not None:
                poll()
            observation, reward, terminated, truncated, info = self.env.step(action)
            self._steps += 1
            outcome.steps += 1
            outcome.reward += float(reward)
            if "success" in info:
                outcome.success = max(float(info["success"]), outcome.success or 0.0)
            outcome.done = bool(terminated or truncated)
            seen.append(each(stored, observation))
            if command.record:
                outcome.recorded.append(Step(action, seen[-1], float(reward), bool(terminated), bool(truncated)))
            if command.frame_skip and (outcome.done or self._steps % command.frame_skip == 0):
                outcome.frames.append(self.env.render())
            if outcome.done:
                break
        outcome.observations = list(seen)
        return outcome


class ProcessPool:
    """Environments in worker processes; slot s lives in worker s modulo their number."""

    def __init__(self, make_env: MakeEnv, render: bool, workers: int, timeout: float | None = None) -> None:
        self._timeout = timeout
        context = multiprocessing.get_context("spawn")  # simulators and torch do not survive a fork
        try:
            pickle.dumps(make_env)
        except (pickle.PicklingError, AttributeError, TypeError) as error:
            raise UserError(f"processes need a picklable make_env, not {make_env!r} ({error})") from error
        self._name = getattr(make_env, "env_name", repr(make_env))
        self._connections: list[Connection] = []
        self._processes = []
        for number in range(workers):
            ours, theirs = context.Pipe()
            process = context.Process(
                target=serve, args=(theirs, make_env, render), daemon=True, name=f"understudy-env-{number}"
            )
            process.start()
            theirs.close()  # so that the worker's death closes the pipe
            self._connections.append(ours)
            self._processes.append(process)

    def run(self, commands: Sequence[Command], poll: Poll | None = None) -> list[Outcome]:
        """Carry the commands out, the workers at the same time."""
        shares: dict[int, list[int]] = {}
        for index, command in enumerate(commands):
            shares.setdefault(command.slot % len(self._processes), []).append(index)
        for worker, indices in shares.items():
            self._send(worker, [commands[index] for index in indices])
        outcomes: dict[int, Outcome] = {}
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

    def _receive(self, worker: int, poll: Poll | None) -> list[Outcome]:
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


def available_cpus() -> int:
    """Return the CPUs this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


atexit.register(close_pools)
