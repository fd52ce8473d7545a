"""What a policy sees beyond one observation: the last few of them, and a goal. The environment's side of `windows.py`.

Observations are joined along the last axis, oldest first, then the goal: [n * O + G] for states, [h, w, n * C + G]
for pictures. Before an episode's start the first observation is repeated.
"""

from __future__ import annotations

from collections import deque
from typing import Any

import gymnasium
import numpy as np

from understudy.errors import DatasetError


class History(gymnasium.Wrapper):
    """Give the last `length` observations instead of one."""

    def __init__(self, env: gymnasium.Env, length: int) -> None:
        super().__init__(env)
        self._seen: deque[np.ndarray] = deque(maxlen=length)
        self.observation_space = _joined(env.observation_space, *[env.observation_space] * (length - 1))

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Reset; the first observation fills the history."""
        observation, info = self.env.reset(seed=seed, options=options)
        self._seen.extend([np.array(observation)] * (self._seen.maxlen or 1))
        return np.concatenate(self._seen, axis=-1), info

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        """Step; the oldest observation is forgotten."""
        observation, reward, terminated, truncated, info = self.env.step(action)
        self._seen.append(np.array(observation))
        return np.concatenate(self._seen, axis=-1), reward, terminated, truncated, info


class WithGoal(gymnasium.Wrapper):
    """Append the episode's goal, which `reset` tells in `info["goal"]`, to every observation."""

    def __init__(self, env: gymnasium.Env) -> None:
        super().__init__(env)
        _, info = env.reset(seed=0)
        if "goal" not in info:
            raise DatasetError(f"{env.spec.id if env.spec else env}: tells no goal; use goal_relabelling=none")
        self._goal = np.asarray(info["goal"])
        self.observation_space = _joined(env.observation_space, _like(self._goal))

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Reset and keep the new episode's goal."""
        observation, info = self.env.reset(seed=seed, options=options)
        self._goal = np.asarray(info["goal"])
        return self._join(observation), info

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        """Step; the goal stays."""
        observation, reward, terminated, truncated, info = self.env.step(action)
        return self._join(observation), reward, terminated, truncated, info

    def _join(self, observation: Any) -> np.ndarray:
        observation = np.asarray(observation)
        return np.concatenate([observation, self._goal.astype(observation.dtype)], axis=-1)


def _joined(*spaces: Any) -> gymnasium.spaces.Box:
    low, high = (np.concatenate([getattr(space, side) for space in spaces], axis=-1) for side in ("low", "high"))
    return gymnasium.spaces.Box(low, high, dtype=spaces[0].dtype)


def _like(goal: np.ndarray) -> gymnasium.spaces.Box:
    if goal.dtype == np.uint8:
        return gymnasium.spaces.Box(0, 255, goal.shape, np.uint8)
    return gymnasium.spaces.Box(-np.inf, np.inf, goal.shape, np.float32)
