"""Play one episode with an expert, then render its pictures: pure functions of the task and the attempt's number.

Scripted experts need no pictures, which take most of the time: they play without, and what the cameras saw of the
recorded simulator states is rendered afterwards (`Task.without_pictures`). Policies that see pictures play with them.

With noise, what is added moves the environment and the expert's own action is recorded (DART, Laskey et al. 2017,
arXiv 1703.09327): the data show how to come back from mistakes. `actions` are then labels to imitate, and what was
executed is in `executed_actions`.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from understudy.envs.experts.checked import CheckedEnv
from understudy.envs.files.reading import read_npz
from understudy.envs.rollouts.collecting import Recording, Step, final_columns, observation_columns
from understudy.envs.rollouts.forms import in_stored_form
from understudy.envs.simulators.deterministic import global_numpy_seed
from understudy.envs.simulators.own import is_reference
from understudy.envs.sources.names import SCRIPTED
from understudy.envs.sources.source import task_of
from understudy.envs.sources.task import Expert
from understudy.errors import DatasetError, UserError
from understudy.files import write_atomic
from understudy.randomness import numpy_generator, stream_key

LAST = "last/"
"""Prefix of the columns of the simulator's state after an attempt's last action, which the episode does not keep."""
SUCCESSES = 10
"""Solved steps after which an episode ends, where the environment does not end it: the data show how to stay there."""
PATIENCE = 3 * SUCCESSES
"""Steps after the first solved one in which there must be so many; an episode that ends unsolved has failed."""


@dataclass(frozen=True)
class AttemptSpec:
    """What an attempt depends on beside its number; picklable and hashable."""

    env_name: str
    policy: str = SCRIPTED
    """`scripted`, or the folder of a policy with one member."""
    settings: str = ""
    """The environment's own settings as JSON; empty for the published ones."""
    seed: int = 0
    noise: float = 0.0
    """Standard deviation of what is added to the executed action, in the action's units."""

    def reset_seed(self, number: int) -> int:
        """Return the environment's seed in attempt `number`."""
        return stream_key(self.seed, "expert", number) % 2**31

    def without_pictures(self) -> tuple[str, str] | None:
        """Return name and settings of the environment that a scripted expert plays; None without pictures to render."""
        settings = json.loads(self.settings) if self.settings else None
        found = task_of(self.env_name).without_pictures(settings)
        if found is None or self.policy != SCRIPTED:
            return None
        return found[0], json.dumps(found[1], sort_keys=True) if found[1] else ""


def play(attempt: AttemptSpec, number: int) -> tuple[dict[str, np.ndarray], bool]:
    """Play attempt `number`; return its episode and whether the task was solved at its end.

    Where pictures are rendered afterwards, the episode has none yet, but the simulator's state after the last action.
    """
    played = attempt.without_pictures()
    env_name, settings = played or (attempt.env_name, attempt.settings)
    env, expert = _actors(env_name, attempt.policy, settings)
    task = task_of(attempt.env_name)
    key = stream_key(attempt.seed, "expert", number)
    noise = numpy_generator(attempt.seed, "expert noise", number)
    low, high = env.action_space.low, env.action_space.high
    observation, info = env.reset(seed=attempt.reset_seed(number))
    recording = Recording(observation, stored_reward=task.stored_reward)
    solved: list[bool] = []
    with global_numpy_seed(key):  # experts of other packages draw from the global np.random
        expert.reset(env, observation, info, numpy_generator(attempt.seed, "expert choices", number))
        for _ in range(task.max_episode_steps):
            action = np.clip(expert.act(env, observation, info), low, high)
            executed, extra = action, dict(task.simulator_state(env))
            if attempt.noise:
                executed = np.clip(action + noise.normal(0.0, attempt.noise, action.shape), low, high)
                extra["executed_actions"] = executed
            observation, reward, terminated, truncated, info = env.step(executed)
            step = Step(action, observation, float(reward), bool(terminated), bool(truncated))
            recording.add(step, extra)
            solved.append(bool(info.get("success", False)))
            late = any(solved) and len(solved) - solved.index(True) > PATIENCE
            if step.ends or late or sum(solved) >= SUCCESSES:
                break
    episode = recording.columns()
    if played is not None:
        episode |= {LAST + name: np.asarray(value) for name, value in task.simulator_state(env).items()}
    return episode, solved[-1]


def render(attempt: AttemptSpec, number: int, episode: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return the columns of an attempt's pictures, rendered from the simulator states in its episode."""
    env = _pictured(attempt.env_name, attempt.settings)
    task = task_of(attempt.env_name)
    last = {name.removeprefix(LAST): value for name, value in episode.items() if name.startswith(LAST)}
    env.reset(seed=attempt.reset_seed(number))  # some tasks draw their model with the episode
    states = [{name: episode[name][step] for name in last} for step in range(len(episode["actions"]))]
    seen = [observation_columns(task.observed(env, state)) for state in (*states, last)]
    return {name: np.stack([row[name] for row in seen[:-1]]) for name in seen[0]} | final_columns(seen[-1])


def play_and_keep(attempt: AttemptSpec, folder: Path, keep_all: bool, number: int) -> bool:
    """Play an attempt unless its file is there, and write it; return whether it is one to keep."""
    if (already := was_kept(folder, number)) is not None:
        return already
    episode, solved = play(attempt, number)
    kept = solved or keep_all
    _write(attempt_file(folder, number), {"kept": np.asarray(kept), **(episode if kept else {})})
    return kept


def render_and_keep(attempt: AttemptSpec, folder: Path, number: int) -> None:
    """Render a kept attempt's pictures unless their file is there, and write it."""
    file = pictures_file(folder, number)
    if not _is_whole(file, ()):
        _write(file, render(attempt, number, _arrays(attempt_file(folder, number))))


def was_kept(folder: Path, number: int) -> bool | None:
    """Return whether a finished attempt was kept, None for one that is still to be made."""
    file = attempt_file(folder, number)
    return bool(read_npz(file, ("kept",), headers=True)["kept"]) if _is_whole(file, ("kept",)) else None


def _is_whole(file: Path, required: tuple[str, ...]) -> bool:
    """Return whether a file is there and whole; after a power cut, say, it may not be, and is made again."""
    with suppress(DatasetError):
        read_npz(file, required, headers=True)
        return True
    return False


def attempt_file(folder: Path, number: int) -> Path:
    """Return where an attempt is kept until all are made."""
    return folder / f"{number:06d}.npz"


def pictures_file(folder: Path, number: int) -> Path:
    """Return where an attempt's pictures are kept, where they are rendered after it was played."""
    return folder / f"{number:06d}.pictures.npz"


def read_attempt(folder: Path, number: int) -> dict[str, np.ndarray]:
    """Return the episode of a kept attempt, with its pictures."""
    pictures = pictures_file(folder, number)
    episode = {**_arrays(attempt_file(folder, number)), **(_arrays(pictures) if pictures.exists() else {})}
    return {name: array for name, array in episode.items() if name != "kept" and not name.startswith(LAST)}


def _write(file: Path, arrays: Mapping[str, np.ndarray]) -> None:
    write_atomic(file, lambda stream: np.savez(stream, allow_pickle=False, **arrays))


def _arrays(file: Path) -> dict[str, np.ndarray]:
    with np.load(file, allow_pickle=False) as archive:
        return {name: archive[name] for name in archive.files}


@functools.lru_cache(maxsize=1)
def _actors(env_name: str, policy: str, settings: str) -> tuple[Any, Expert]:
    task = task_of(env_name)
    env = in_stored_form(task.make_env(settings=json.loads(settings) if settings else None), env_name)
    if policy == SCRIPTED:
        expert = task.expert()
        if expert is None:
            raise UserError(f"{env_name}: has no scripted expert")
        return (CheckedEnv(env, env_name) if is_reference(env_name) else env), expert
    from understudy.envs.experts.policy_expert import PolicyExpert

    return env, PolicyExpert.load(Path(policy))


@functools.lru_cache(maxsize=1)
def _pictured(env_name: str, settings: str) -> Any:
    env = task_of(env_name).make_env(settings=json.loads(settings) if settings else None)
    return in_stored_form(env, env_name)
