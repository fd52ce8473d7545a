"""Make a simulator's episodes a pure function of the reset's seed and the actions.

OGBench's environments are not: their reset takes two to forty unseeded random steps for the goal picture, picks
tasks with the global `np.random`, and leaves solver warm starts and contact forces of those steps behind.

Goal-conditioned ones are given the task `seed % tasks + 1`, and their goal becomes a function of the seed too.
"""

from __future__ import annotations

import copy
import functools
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import gymnasium
import numpy as np

GOAL_ACTIONS = "_goal_actions"


class SeededManipulation(gymnasium.Wrapper):
    """Reset an OGBench arm environment to a state that holds nothing of the unseeded goal phase."""

    def __init__(self, env: gymnasium.Env) -> None:
        super().__init__(env)
        self._seed = 0
        with quiet_boxes():  # OGBench builds both spaces anew at each look
            self.action_space, self.observation_space = env.action_space, env.observation_space
            arm: Any = env.unwrapped
            arm.__dict__[GOAL_ACTIONS], arm.__class__ = arm.action_space, _with_kept_actions(type(arm))

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Reset with a seed (counting on from the last one without it)."""
        import mujoco

        self._seed = self._seed + 1 if seed is None else int(seed)
        arm: Any = self.env.unwrapped
        arm.action_space.seed(self._seed)
        with quiet_boxes(), global_numpy_seed(self._seed):
            _, info = self.env.reset(seed=self._seed, options=_with_task(arm, self._seed, options))
        model, data = arm._model, arm._data
        kept = {name: np.copy(getattr(data, name)) for name in ("qpos", "qvel", "mocap_pos", "mocap_quat")}
        mujoco.mj_resetData(model, data)  # pyright: ignore[reportAttributeAccessIssue]
        for name, value in kept.items():
            getattr(data, name)[:] = value
        arm.pre_step()
        mujoco.mj_forward(model, data)  # pyright: ignore[reportAttributeAccessIssue]
        arm.post_step()
        arm._success = False
        return arm.compute_observation(), _with_goal({**info, **arm.get_reset_info()})


class SeededMaze(gymnasium.Wrapper):
    """Give an OGBench locomotion environment its own stream in place of the global `np.random`."""

    def __init__(self, env: gymnasium.Env) -> None:
        super().__init__(env)
        self._seed = 0
        self._state: Any = None

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Reset with a seed (counting on from the last one without it)."""
        self._seed = self._seed + 1 if seed is None else int(seed)
        self.env.action_space.seed(self._seed)
        self.env.unwrapped.action_space.seed(self._seed)
        with global_numpy_seed(self._seed):
            options = _with_task(self.env.unwrapped, self._seed, options)
            observation, info = self.env.reset(seed=self._seed, options=options)
            self._state = np.random.get_state()
        return observation, _with_goal(info)

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        """Step; teleports draw from this environment's stream."""
        outside = np.random.get_state()
        np.random.set_state(self._state)
        try:
            return self.env.step(action)
        finally:
            self._state = np.random.get_state()
            np.random.set_state(outside)


@contextmanager
def global_numpy_seed(seed: int) -> Iterator[None]:
    """Seed the global `np.random` inside the block and give it back as it was."""
    outside = np.random.get_state()
    np.random.seed(seed % 2**32)
    try:
        yield
    finally:
        np.random.set_state(outside)


@contextmanager
def quiet_boxes() -> Iterator[None]:
    """Silence gymnasium's warning that OGBench's bounds are float64."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*precision lowered by casting to float32.*")
        yield


def clone(env: gymnasium.Env) -> gymnasium.Env:
    """Return a deep copy of an arm environment that was reset once: three times quicker than compiling it again.

    The dm_control model tree is shared (it cannot be copied, and is only read after the compilation).
    """
    shared = {id(value): value for value in vars(env.unwrapped).values() if _is_model_tree(value)}
    return copy.deepcopy(env, shared)


@functools.cache
def _with_kept_actions(kind: type) -> type:
    """Return a subclass of an OGBench arm that keeps its action space, so that the goal phase's draws can be seeded.

    OGBench makes a new one at each look, which draws from the system's entropy.
    """
    return type(kind.__name__, (kind,), {"action_space": property(lambda arm: arm.__dict__[GOAL_ACTIONS])})


def _with_task(task: Any, seed: int, options: dict[str, Any] | None) -> dict[str, Any]:
    """Return reset options that choose a goal-conditioned environment's task by the seed, unless they choose one."""
    chosen = dict(options or {})
    if task._reward_task_id is None and not {"task_id", "task_info"} & set(chosen):
        chosen["task_id"] = seed % task.num_tasks + 1
    return chosen


def _with_goal(info: dict[str, Any]) -> dict[str, Any]:
    """Return the info with a goal [G] of the observations' kind: float32, or pixels as they are."""
    goal = np.asarray(info["goal"])
    return {**info, "goal": goal if goal.dtype == np.uint8 else goal.astype(np.float32)}


def _is_model_tree(value: Any) -> bool:
    if type(value).__module__.startswith("dm_control"):
        return True
    return isinstance(value, (list, tuple)) and len(value) > 0 and _is_model_tree(value[0])
