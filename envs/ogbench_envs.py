"""Make OGBench's environments so that their episodes repeat by seed; compile each arm once a process."""

from __future__ import annotations

import functools
import warnings
from typing import Any

import gymnasium
import numpy as np

from understudy.envs.deterministic import SeededManipulation, SeededMaze, clone, lighten, quiet_boxes

ARMS = ("cube", "scene", "puzzle")


def make(env_id: str, *, render: bool, size: int, oracle_goals: bool) -> gymnasium.Env:
    """Return the environment; `oracle_goals` makes its goals short ones instead of observations."""
    options = {"use_oracle_rep": True} if oracle_goals else {}
    is_visual, is_arm = env_id.startswith("visual-"), env_id.removeprefix("visual-").startswith(ARMS)
    if is_visual and is_arm:
        return SeededManipulation(_build(env_id, options))  # it renders at once, and a renderer cannot be copied
    if is_arm:
        return SeededManipulation(clone(_arm_prototype(env_id, size if render else None, oracle_goals)))
    if render and not is_visual:  # those have pictures already, of the size that was trained on
        options |= {"render_mode": "rgb_array", "width": size, "height": size}
    return SeededMaze(_build(env_id, options))


def registered(env_id: str) -> Any:
    """Return gymnasium's registration of an OGBench environment."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*DISPLAY environment variable is missing.*")  # from mujoco's viewer
        import ogbench  # noqa: F401  (registers its environments)

    return gymnasium.spec(env_id)


def states_of(env: gymnasium.Env) -> dict[str, np.ndarray]:
    """Return what OGBench stores of a simulator's state: qpos, qvel and, where there are buttons, button_states."""
    task: Any = env.unwrapped
    states = {"qpos": task.data.qpos.copy(), "qvel": task.data.qvel.copy()}
    if hasattr(task, "_cur_button_states"):
        states["button_states"] = np.array(task._cur_button_states)
    return states


@functools.lru_cache(maxsize=4)
def _arm_prototype(env_id: str, size: int | None, oracle_goals: bool) -> gymnasium.Env:
    """Compile an arm environment once a process; it is only ever cloned."""
    options: dict[str, Any] = {"use_oracle_rep": True} if oracle_goals else {}
    env = _build(env_id, options if size is None else {**options, "width": size, "height": size})
    with quiet_boxes():
        env.reset(seed=0)
    if size is not None:
        lighten(env)
    return env


def _build(env_id: str, arguments: dict[str, Any]) -> gymnasium.Env:
    registered(env_id)
    with quiet_boxes():
        return gymnasium.make(env_id, disable_env_checker=True, **arguments)
