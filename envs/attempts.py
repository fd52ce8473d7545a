"""Play one episode with an expert: a pure function of the task and the attempt's number.

With noise, what is added moves the environment and the expert's own action is recorded (DART, Laskey et al. 2017,
arXiv 1703.09327): the data show how to come back from mistakes. `actions` are then labels to imitate, and what was
executed is in `executed_actions`.
"""

from __future__ import annotations

import functools
import json
import multiprocessing
import os
import signal
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from understudy.envs.deterministic import global_numpy_seed
from understudy.envs.reading import read_npz
from understudy.envs.source import Expert, source_for
from understudy.errors import DatasetError, UserError
from understudy.files import write_atomic
from understudy.randomness import numpy_generator, stream_key

SCRIPTED = "scripted"
SUCCESSES = 10
"""Solved steps after which an episode ends, where the environment does not end it: the data show how to stay there."""
PATIENCE = 3 * SUCCESSES
"""Steps after the first solved one in which there must be so many; an episode that ends unsolved has failed."""


@dataclass(frozen=True)
class Task:
    """What an attempt depends on beside its number; picklable and hashable."""

    env_name: str
    policy: str = SCRIPTED
    """`scripted`, or the folder of a policy with one member."""
    settings: str = ""
    """The environment's own settings as JSON; empty for the published ones."""
    seed: int = 0
    noise: float = 0.0
    """Standard deviation of what is added to the executed action, in the action's units."""


def play(task: Task, number: int) -> tuple[dict[str, np.ndarray], bool]:
    """Play attempt `number`; return its episode and whether the task was solved at its end."""
    env, expert = _actors(task.env_name, task.policy, task.settings)
    source = source_for(task.env_name)
    key = stream_key(task.seed, "expert", number)
    noise = numpy_generator(task.seed, "expert noise", number)
    low, high = env.action_space.low, env.action_space.high
    observation, info = env.reset(seed=key % 2**31)
    rows: list[dict[str, Any]] = []
    solved: list[bool] = []
    with global_numpy_seed(key):  # experts of other packages draw from the global np.random
        expert.reset(env, observation, info, numpy_generator(task.seed, "expert choices", number))
        for _ in range(source.max_episode_steps(task.env_name)):
            action = np.clip(expert.act(env, observation, info), low, high)
            executed = action
            row = {"observations": _stored(observation), "actions": action, **source.simulator_state(env)}
            if task.noise:
                executed = np.clip(action + noise.normal(0.0, task.noise, action.shape), low, high)
                row["executed_actions"] = executed
            observation, reward, terminated, truncated, info = env.step(executed)
            reward = source.stored_reward(task.env_name, float(reward))
            rows.append({**row, "rewards": reward, "terminals": bool(terminated)})
            solved.append(bool(info.get("success", False)))
            late = any(solved) and len(solved) - solved.index(True) > PATIENCE
            if terminated or truncated or late or sum(solved) >= SUCCESSES:
                break
    episode = {name: np.stack([np.asarray(row[name]) for row in rows]) for name in rows[0]}
    for name in ("actions", "executed_actions", "rewards"):
        if name in episode:
            episode[name] = episode[name].astype(np.float32)
    episode["final_observation"] = _stored(observation)
    return episode, solved[-1]


def play_and_keep(task: Task, folder: Path, keep_all: bool, number: int) -> bool:
    """Play an attempt unless its file is there, and write it; return whether it is one to keep."""
    file = attempt_file(folder, number)
    if (already := was_kept(folder, number)) is not None:
        return already
    episode, solved = play(task, number)
    kept = solved or keep_all
    arrays = episode if kept else {}
    write_atomic(file, lambda stream: np.savez(stream, allow_pickle=False, kept=kept, **arrays))
    return kept


def was_kept(folder: Path, number: int) -> bool | None:
    """Return whether a finished attempt was kept, None for one that is still to be made."""
    file = attempt_file(folder, number)
    if not file.exists():
        return None
    try:
        return bool(read_npz(file, ("kept",), headers=True)["kept"])
    except DatasetError:  # after a power cut, say: it is made again
        return None


def end_with_parent() -> None:
    """Let this worker process end when the process that started it is killed, and leave Ctrl-C to that one."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()

    def watch() -> None:
        if parent is not None:
            parent.join()
            os._exit(1)

    threading.Thread(target=watch, daemon=True, name="watch-parent").start()


def attempt_file(folder: Path, number: int) -> Path:
    """Return where an attempt is kept until all are made."""
    return folder / f"{number:06d}.npz"


def read_attempt(folder: Path, number: int) -> dict[str, np.ndarray]:
    """Return the episode of a kept attempt."""
    with np.load(attempt_file(folder, number), allow_pickle=False) as archive:
        return {name: archive[name] for name in archive.files if name != "kept"}


@functools.lru_cache(maxsize=1)
def _actors(env_name: str, policy: str, settings: str) -> tuple[Any, Expert]:
    source = source_for(env_name)
    env = source.make_env(env_name, settings=json.loads(settings) if settings else None)
    if policy == SCRIPTED:
        expert = source.expert(env_name)
        if expert is None:
            raise UserError(f"{env_name}: has no scripted expert")
        return env, expert
    from understudy.envs.policy_expert import PolicyExpert

    return env, PolicyExpert.load(Path(policy))


def _stored(observation: Any) -> np.ndarray:
    array = np.asarray(observation)
    return array.copy() if array.dtype == np.uint8 else array.astype(np.float32)
