"""OGBench's environments: goals and tasks are functions of the seed; the simulator's state as files store it."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from typing import Any

import numpy as np
import pytest

from understudy.envs.rollouts.factory import EnvFactory
from understudy.registry import sources

SOURCE = sources.get("ogbench")
GOAL = "cube-single-play-v0"
STATES = {"cube-single": [21, 20], "scene": [25, 24, 2], "antmaze-medium": [15, 14]}


def look(env, seed: int, steps: int = 3) -> bytes:
    """Return a digest of an episode's goal, first observation and what follows fixed actions."""
    observation, info = env.reset(seed=seed)
    total = hashlib.blake2b(np.asarray(info["goal"]).tobytes())
    actions = np.random.default_rng(0).uniform(-1, 1, (steps, *env.action_space.shape)).astype(np.float32)
    for action in (None, *actions):
        if action is not None:
            observation = env.step(action)[0]
        total.update(np.asarray(observation).tobytes())
    return total.digest()


def goals_are_functions_of_the_seed(name: str) -> None:
    env, other = EnvFactory(name)(), EnvFactory(name)()
    first = [look(env, seed) for seed in range(6)]
    assert len(set(first)) == 6
    np.random.random(5)  # the global stream must not matter
    look(other, 77, steps=7)
    assert [look(other, seed) for seed in (4, 0, 2)] == [first[4], first[0], first[2]]
    _, info = env.reset(seed=3)
    assert info["goal"].dtype in (np.float32, np.uint8)
    task: Any = env.unwrapped
    assert [env.reset(seed=seed) and task.cur_task_id for seed in range(7)] == [1, 2, 3, 4, 5, 1, 2]
    env.reset(seed=0, options={"task_id": 4})
    assert task.cur_task_id == 4


@pytest.mark.parametrize("name", [GOAL, "pointmaze-medium-navigate-oraclerep-v0", "antmaze-medium-navigate-v0"])
def test_goals_and_tasks_are_functions_of_the_seed(name) -> None:
    goals_are_functions_of_the_seed(name)


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", ["scene-play-v0", "puzzle-3x3-play-oraclerep-v0", "cube-double-play-v0", "antsoccer-arena-navigate-v0"]
)
def test_goals_and_tasks_of_other_families_are_functions_of_the_seed(name) -> None:
    goals_are_functions_of_the_seed(name)


@pytest.mark.slow
def test_goals_are_the_same_in_a_fresh_process() -> None:
    code = (
        "import importlib.util as u; spec = u.spec_from_file_location('t', sys.argv[1]); t = u.module_from_spec(spec)\n"
        "spec.loader.exec_module(t); print(t.look(t.EnvFactory(t.GOAL)(), 3).hex())"
    )
    run = [sys.executable, "-c", "import sys\n" + code, __file__]
    said = subprocess.run(run, capture_output=True, text=True, check=True).stdout.split()
    assert said[-1] == look(EnvFactory(GOAL)(), 3).hex()


def test_a_goal_is_the_observation_of_the_solved_task() -> None:
    """With the state put where the goal says, the task is solved: goal and task belong together."""
    env = EnvFactory(GOAL)()
    for seed in range(5):
        observation, info = env.reset(seed=seed)
        assert info["goal"].shape == observation.shape
        arm: Any = env.unwrapped
        goal_cube = (info["goal"][19:22] / 10) + [0.425, 0, 0]  # the observation's scaling, see its add_object_info
        np.testing.assert_allclose(goal_cube, arm._data.mocap_pos[0], atol=0.01)


@pytest.mark.parametrize("name", ["cube-single-scripted-singletask-v0", "scene-policy-v0", "antmaze-medium-policy-v0"])
def test_the_simulators_state_is_what_the_format_stores(name) -> None:
    env = EnvFactory(name)()
    env.reset(seed=0)
    states = SOURCE.task(name).simulator_state(env)
    assert [len(value) for value in states.values()] == next(STATES[key] for key in STATES if name.startswith(key))
    before = states["qpos"].copy()
    env.step(env.action_space.sample())
    np.testing.assert_array_equal(states["qpos"], before)  # a copy
