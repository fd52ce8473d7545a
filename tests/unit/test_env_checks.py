"""Environments that rollouts cannot use are refused in one line before anything is trained; later faults are named."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces

from understudy.envs.rollouts.checks import check_cameras, check_spaces
from understudy.envs.rollouts.pools import Command, LocalPool, ProcessPool
from understudy.errors import DatasetError, UnderstudyError, UserError

BOX = spaces.Box(-1, 1, (2,), np.float32)


class Env(gymnasium.Env):
    """A sound environment; every part of a reset's or a step's answer can be replaced."""

    def __init__(self, actions: Any = BOX, seen: Any = None, reset: Any = None, **step: Any) -> None:
        self.action_space = actions
        self.observation_space = seen or spaces.Box(-np.inf, np.inf, (3,), np.float32)
        self._reset, self._answer = reset, step

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        return (np.zeros(3, np.float32), {}) if self._reset is None else self._reset

    def step(self, action: Any) -> Any:
        if "whole" in self._answer:
            return self._answer["whole"]
        sound = {"observation": np.zeros(3), "reward": 0.5, "terminated": False, "truncated": False, "info": {}}
        return tuple({**sound, **self._answer}.values())


class Later(Env):
    """Breaks at its third step."""

    def __init__(self, **wrong: Any) -> None:
        super().__init__()
        self._wrong, self._count = wrong, 0

    def step(self, action: Any) -> Any:
        self._count += 1
        if self._count == 3:
            self._answer = self._wrong
            if "error" in self._wrong:
                raise self._wrong["error"]
        return super().step(action)


def make_later(render: bool = False) -> gymnasium.Env:
    """Return an environment that breaks; picklable."""
    return Later(error=ValueError("solver\nfailed"))


@pytest.mark.parametrize(
    ("actions", "named"),
    [
        (spaces.Discrete(2), "Discrete(2)"),
        (spaces.MultiDiscrete([2, 3]), "MultiDiscrete"),
        (spaces.Dict({"arm": BOX}), "Dict"),
        (spaces.Tuple((BOX, BOX)), "Tuple"),
        (spaces.Box(-1, 1, (2, 2), np.float32), "(2, 2)"),
        (spaces.Box(0, 5, (2,), np.int64), "int64"),
    ],
)
def test_actions_that_are_no_vector_of_floats_are_refused(actions, named) -> None:
    with pytest.raises(DatasetError) as refused:
        check_spaces(Env(actions), "some-v0")
    assert str(refused.value).startswith("environment some-v0: its actions are ")
    assert named in str(refused.value)


@pytest.mark.parametrize(
    "seen",
    [
        spaces.Discrete(4),
        spaces.Text(5),
        spaces.Tuple((BOX,)),
        spaces.Dict({"state": BOX, "desired_goal": BOX}),
        spaces.Dict({"state": BOX, "front": spaces.Box(0, 1, (8, 8, 3), np.float32)}),
    ],
)
def test_observations_that_are_neither_numbers_nor_pictures_are_refused(seen) -> None:
    with pytest.raises(DatasetError, match="observations"):
        check_spaces(Env(seen=seen), "some-v0")
        check_cameras(Env(seen=seen), "some-v0")


def test_an_object_without_spaces_is_refused() -> None:
    with pytest.raises(DatasetError, match="object has no action_space"):
        check_spaces(object(), "some-v0")


def checked(env: gymnasium.Env) -> Any:
    return LocalPool(lambda render: env, render=False).run([Command(0, seed=7, check=True)])[0]


@pytest.mark.parametrize(
    ("wrong", "part"),
    [
        ({"reset": np.zeros(3)}, "reset() returned an array of shape (3,)"),
        ({"reset": (np.zeros(4), {})}, "gave observations (4,); its space says (3,)"),
        ({"reset": (np.array([0, np.nan, 0]), {})}, "NaN or infinite"),
        ({"reset": ({"state": np.zeros(3)}, {})}, "its space says (3,)"),
        ({"reset": (np.array(["a", "b", "c"]), {})}, "numbers are needed"),
        ({"whole": (np.zeros(3), 0.0, False, {})}, "step() returned 4 values"),
        ({"whole": np.zeros(3)}, "step() returned an array"),
        ({"observation": np.full(3, np.inf)}, "NaN or infinite"),
        ({"observation": np.zeros(5)}, "gave observations (5,)"),
        ({"reward": np.zeros(2)}, "an array of shape (2,) and dtype float64 as reward"),
        ({"reward": float("nan")}, "nan as reward"),
        ({"reward": None}, "NoneType None as reward"),
        ({"reward": "high"}, "str 'high' as reward"),
        ({"terminated": np.zeros(2, bool)}, "as terminated; a bool is needed"),
        ({"truncated": None}, "NoneType None as truncated"),
        ({"info": None}, "NoneType None as info"),
        ({"info": {"success": "yes"}}, "str 'yes' as success"),
        ({"info": {"success": np.zeros(3)}}, "as success"),
    ],
)
def test_a_reset_or_step_that_rollouts_cannot_use_is_refused(wrong, part) -> None:
    with pytest.raises(DatasetError) as refused:
        checked(Env(**wrong))
    assert part in str(refused.value)
    assert "\n" not in str(refused.value)


def test_numbers_of_numpy_and_arrays_of_one_number_pass() -> None:
    sound = {"reward": np.array([0.5]), "terminated": np.False_, "truncated": 0, "info": {"success": np.True_}}
    outcome = checked(Env(**sound))
    assert outcome.observation.shape == (3,)
    assert outcome.action_dim == 2


def test_an_environment_that_raises_when_tried_or_made_is_one_line() -> None:
    class Raises(Env):
        def step(self, action: Any) -> Any:
            raise AttributeError("no\nsuch thing")

    with pytest.raises(DatasetError, match="fails when it is tried: AttributeError: no such thing"):
        checked(Raises())

    def broken(render: bool) -> gymnasium.Env:
        raise KeyError("asset")

    with pytest.raises(UserError, match="cannot be made: KeyError: 'asset'"):
        LocalPool(broken, render=False).run([Command(0, seed=0)])


@pytest.mark.parametrize(
    ("wrong", "part"),
    [
        ({"reward": float("nan")}, "nan as reward"),
        ({"reward": np.zeros(2)}, "as reward"),
        ({"info": {"success": "yes"}}, "as success"),
        ({"observation": np.full(3, np.nan)}, "NaN or infinite"),
        ({"error": RuntimeError("unstable")}, "fails: RuntimeError: unstable"),
    ],
)
def test_a_fault_in_the_middle_of_an_episode_says_where(wrong, part) -> None:
    pool = LocalPool(lambda render: Later(**wrong), render=False)
    pool.run([Command(0, seed=11)])
    with pytest.raises(UnderstudyError) as raised:
        pool.run([Command(0, actions=np.zeros((3, 2), np.float32))])
    assert "of the episode of seed 11" in str(raised.value)
    assert part in str(raised.value)


def test_a_worker_process_passes_the_same_line_on() -> None:
    pool = ProcessPool(make_later, render=False, workers=1)
    try:
        pool.run([Command(0, seed=11)])
        with pytest.raises(
            UnderstudyError, match=r"at step 2 of the episode of seed 11 fails: ValueError: solver failed$"
        ):
            pool.run([Command(0, actions=np.zeros((3, 2), np.float32))])
    finally:
        pool.close()
