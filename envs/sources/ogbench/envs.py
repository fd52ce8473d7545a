"""Make OGBench's environments so that their episodes repeat by seed; compile each arm once a process.

Pictures that are observed are 64 x 64, as in OGBench's data. They show the positions before the last of a step's 25
physics steps, as OGBench's own do: MuJoCo brings positions up to date when a step begins.
"""

from __future__ import annotations

import functools
import warnings
from typing import Any

import gymnasium
import numpy as np

from understudy.envs.simulators.deterministic import SeededManipulation, SeededMaze, clone, quiet_boxes
from understudy.envs.simulators.rendering import FAST, PUBLISHED, Rendering, close_at_exit

ARMS = ("cube", "scene", "puzzle")
VISUAL = "visual-"
PICTURE = (64, 64, 3)


def make(
    env_id: str, *, render: bool, size: int, oracle_goals: bool, rendering: Rendering = PUBLISHED
) -> gymnasium.Env:
    """Return the environment; `oracle_goals` makes its goals short ones instead of observations.

    `rendering` is how the pictures of visual environments are drawn. Videos of the others are drawn quickly, since
    nothing is learned from them.
    """
    is_visual, is_arm = env_id.startswith(VISUAL), env_id.removeprefix(VISUAL).startswith(ARMS)
    film_size = size if render and not is_visual else None  # visual ones have pictures already
    if is_arm:
        env = clone(_arm_prototype(env_id, film_size, oracle_goals, rendering if is_visual else FAST))
        return _closed_at_exit(SeededManipulation(env))
    options: dict[str, Any] = {"use_oracle_rep": True} if oracle_goals else {}
    if film_size is not None:
        options |= {"render_mode": "rgb_array", "width": film_size, "height": film_size}
    env = _build(env_id, options)
    if is_visual:
        _draw_anew(env, rendering)
    return _closed_at_exit(SeededMaze(env))


def registration(env_id: str) -> Any:
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


@functools.lru_cache(maxsize=2)  # 150 MiB each: a task, and with films
def _arm_prototype(env_id: str, film_size: int | None, oracle_goals: bool, rendering: Rendering) -> gymnasium.Env:
    """Compile an arm environment once a process; it is only ever cloned, and has no renderer, which cannot be."""
    options: dict[str, Any] = {"use_oracle_rep": True} if oracle_goals else {}
    env = _build(env_id, options if film_size is None else {**options, "width": film_size, "height": film_size})
    arm: Any = env.unwrapped
    vars(arm)["render"] = lambda **_: np.zeros(PICTURE, np.uint8)  # nobody sees this reset's pictures
    with quiet_boxes():
        env.reset(seed=0)
    del vars(arm)["render"]
    if film_size is not None or env_id.startswith(VISUAL):
        rendering.apply(arm._model)
    return env


def _draw_anew(env: gymnasium.Env, rendering: Rendering) -> None:
    """Replace the renderer that a visual maze has made of its own settings."""
    maze: Any = env.unwrapped
    if rendering == PUBLISHED:
        return
    rendering.apply(maze.model)
    maze.custom_renderer.close()
    maze.initialize_renderer()


def _closed_at_exit(env: gymnasium.Env) -> gymnasium.Env:
    renderer = vars(env.unwrapped).get("_renderer") or vars(env.unwrapped).get("custom_renderer")
    if renderer is not None:
        close_at_exit(renderer)
    return env


def _build(env_id: str, arguments: dict[str, Any]) -> gymnasium.Env:
    registration(env_id)
    with quiet_boxes():
        return gymnasium.make(env_id, disable_env_checker=True, **arguments)
