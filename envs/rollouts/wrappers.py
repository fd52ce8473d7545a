"""What a policy sees beyond one observation: the last few of them, and a goal. The environment's side of `views.py`.

An observation is an array, or a dict of a `state` and a picture for each camera. A state's history and goal are joined
along the last axis, oldest first; a picture's history is a sequence, and its goal a part of its own. Before an
episode's start the first observation is repeated.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces

from understudy.errors import DatasetError, did_you_mean
from understudy.observations import GOAL, PIXELS, STATE, is_picture


class Chosen(gymnasium.ObservationWrapper):
    """Show only some cameras, and the state or not; a single part is shown as it is, unless a goal will join it."""

    def __init__(self, env: gymnasium.Env, cameras: Sequence[str] | None, use_proprio: bool, with_goal: bool) -> None:
        super().__init__(env)
        known = [name for name in _parts(env.observation_space) if is_picture(name)]
        for camera in cameras or []:
            if camera not in known:
                raise DatasetError(f"{_name(env)} has no camera {camera!r}{did_you_mean(camera, known)}")
        wanted = known if cameras is None else list(cameras)
        state = STATE in _parts(env.observation_space) and (use_proprio or not wanted)
        self._names = [*([STATE] if state else []), *wanted]
        self._alone = len(self._names) == 1 and not (with_goal and wanted)
        self.observation_space = self._choose(env.observation_space)

    def observation(self, observation: Any) -> Any:
        """Return the parts that are shown."""
        return self._choose(observation)

    def _choose(self, whole: Any) -> Any:
        parts = {name: whole[name] for name in self._names}
        if self._alone:
            return parts[self._names[0]]
        return spaces.Dict(parts) if isinstance(whole, spaces.Dict) else parts


class History(gymnasium.Wrapper):
    """Give the last `length` observations instead of one."""

    def __init__(self, env: gymnasium.Env, length: int) -> None:
        super().__init__(env)
        self._seen: deque[Any] = deque(maxlen=length)
        self.observation_space = _space(self._join([env.observation_space] * length, _low), self._high())

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Reset; the first observation fills the history."""
        observation, info = self.env.reset(seed=seed, options=options)
        self._seen.extend([_copied(observation)] * (self._seen.maxlen or 1))
        return self._join(list(self._seen), np.asarray), info

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        """Step; the oldest observation is forgotten."""
        observation, reward, terminated, truncated, info = self.env.step(action)
        self._seen.append(_copied(observation))
        return self._join(list(self._seen), np.asarray), reward, terminated, truncated, info

    def _high(self) -> Any:
        return self._join([self.env.observation_space] * (self._seen.maxlen or 1), _high)

    def _join(self, seen: Sequence[Any], side: Any) -> Any:
        if not _has_parts(seen[0]):
            return join_history([side(one) for one in seen])
        return {name: join_history([side(one[name]) for one in seen]) for name in _parts(seen[0])}


class WithGoal(gymnasium.Wrapper):
    """Add the episode's goal, which `reset` tells in `info["goal"]`, to every observation."""

    def __init__(self, env: gymnasium.Env) -> None:
        super().__init__(env)
        _, info = env.reset(seed=0)
        if "goal" not in info:
            raise DatasetError(f"{_name(env)}: tells no goal; use goal_relabelling=none")
        self._goal = info["goal"]
        goal = {name: _like(part) for name, part in _parts(self._goal).items()}
        low = join_goal(_of(env.observation_space, _low), {name: _low(space) for name, space in goal.items()})
        high = join_goal(_of(env.observation_space, _high), {name: _high(space) for name, space in goal.items()})
        self.observation_space = _space(low, high)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Reset and keep the new episode's goal."""
        observation, info = self.env.reset(seed=seed, options=options)
        self._goal = _parts(info["goal"])
        return join_goal(observation, self._goal), info

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        """Step; the goal stays."""
        observation, reward, terminated, truncated, info = self.env.step(action)
        return join_goal(observation, self._goal), reward, terminated, truncated, info


def join_history(seen: Sequence[np.ndarray]) -> np.ndarray:
    """Return observations, oldest first, as one: pictures as a sequence [n, H, W, C], states along the last axis."""
    if seen[0].ndim >= 3 and len(seen) > 1:
        return np.stack(seen)
    return np.concatenate(seen, axis=-1)


def join_goal(observation: Any, goal: Any) -> Any:
    """Return an observation with its goal: joined to a state, as parts `goal/<camera>` beside pictures."""
    parts, goals = _parts(observation), _parts(goal)
    pictures = [name for name in parts if is_picture(name)]
    missing = [name for name in pictures or [STATE] if name not in goals]
    if missing:
        raise DatasetError(f"the environment tells no goal of {missing[0]!r}; use goal_relabelling=none")
    if not pictures:
        state = np.asarray(observation)
        return np.concatenate([state, np.asarray(goals[STATE]).astype(state.dtype)], axis=-1)
    return parts | {GOAL + name: goals[name] for name in pictures}


def _has_parts(observation: Any) -> bool:
    return isinstance(observation, Mapping)  # spaces.Dict is one too


def _parts(observation: Any) -> dict[str, Any]:
    """Return the named parts of an observation, a space or a goal."""
    if _has_parts(observation):
        return dict(observation.items())
    return {PIXELS if len(observation.shape) >= 3 else STATE: observation}


def _of(space: Any, side: Any) -> Any:
    return {name: side(part) for name, part in space.items()} if _has_parts(space) else side(space)


def _low(space: Any) -> np.ndarray:
    return space.low


def _high(space: Any) -> np.ndarray:
    return space.high


def _space(low: Any, high: Any) -> spaces.Space:
    if _has_parts(low):
        return spaces.Dict({name: spaces.Box(low[name], high[name], dtype=low[name].dtype) for name in low})
    return spaces.Box(low, high, dtype=low.dtype)


def _like(goal: np.ndarray) -> spaces.Box:
    if goal.dtype == np.uint8:
        return spaces.Box(0, 255, goal.shape, np.uint8)
    return spaces.Box(-np.inf, np.inf, goal.shape, np.float32)


def _copied(observation: Any) -> Any:
    """Return a copy: environments may write the next observation into the same array."""
    if _has_parts(observation):
        return {name: np.array(part) for name, part in observation.items()}
    return np.array(observation)


def _name(env: gymnasium.Env) -> str:
    return str(env.spec.id if env.spec else env)
