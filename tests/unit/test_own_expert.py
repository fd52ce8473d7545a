"""Demonstrations in an environment of one's own: what the class or its expert does wrong is one line."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces

from understudy.envs.experts.checked import CheckedEnv
from understudy.envs.simulators.own_expert import make_own_expert
from understudy.envs.simulators.registered import ToldSuccess
from understudy.errors import DatasetError, UserError


class Centre:
    """Goes to the origin."""

    def reset(self, env, observation, info, rng) -> None:
        """Start."""

    def act(self, env, observation, info) -> Any:
        """Go there."""
        return -env.unwrapped.place


class Reach(gymnasium.Env):
    observation_space = spaces.Box(-9, 9, (2,), np.float32)
    action_space = spaces.Box(-2, 2, (2,), np.float32)
    expert: Any = Centre

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.place = np.ones(2, np.float32)
        return self.place, {}

    def step(self, action) -> Any:
        self.place = self.place + np.float32(0.5) * np.asarray(action, np.float32)
        return self.place, 0.0, False, False, {"is_success": True}


def acting(answer: Any) -> type:
    """Return a class of experts whose act() is the function or gives the value."""
    given = answer if callable(answer) else lambda self, env, observation, info: answer
    return type("Mine", (Centre,), {"act": given})


def with_expert(expert: Any) -> type:
    """Return a class of environments that has it."""
    return type("Mine", (Reach,), {"expert": expert})


def test_a_class_and_a_static_method_are_experts_and_a_class_without_one_has_none() -> None:
    env = CheckedEnv(ToldSuccess(Reach()), "mine:Reach")
    observation, info = env.reset(seed=0)
    for expert in (Centre, staticmethod(lambda: Centre())):
        made = make_own_expert("mine:Reach", with_expert(expert))
        assert made is not None
        made.reset(env, observation, info, np.random.default_rng(0))
        assert made.act(env, observation, info).tolist() == [-1, -1]
    assert env.step(np.zeros(2))[-1]["success"] is True
    assert make_own_expert("mine:Reach", with_expert(None)) is None


@pytest.mark.parametrize(
    ("expert", "said"),
    [
        (lambda self: Centre(), "its `expert` cannot be called .*as a class, or a @staticmethod"),
        (3, "its `expert` is a int; a class or a @staticmethod is needed"),
        (dict, "without reset"),
    ],
)
def test_an_expert_that_cannot_be_had_is_refused_with_what_is_needed(expert, said) -> None:
    with pytest.raises(UserError, match=said):
        make_own_expert("mine:Reach", with_expert(expert))


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        ([0.0], r"returned shape \(1,\); its actions have \(2,\)"),
        ([0.0, np.nan], "returned NaN or infinity"),
        ("left", r"returned 'left'; \(2,\) numbers are needed"),
        (lambda self, env, observation, info: env.place, "AttributeError.*test_own_expert.py, line .*env.unwrapped is"),
        (lambda self, env, observation, info: 1 / 0, "failed: ZeroDivisionError: division by zero at .*line"),
    ],
)
def test_what_an_expert_does_wrong_says_what_and_where(answer, said) -> None:
    env = ToldSuccess(Reach())
    observation, info = env.reset(seed=0)
    made = make_own_expert("mine:Reach", with_expert(acting(answer)))
    assert made is not None
    with pytest.raises(UserError, match=f"^mine:Reach: .*{said}"):
        made.act(env, observation, info)


@pytest.mark.parametrize(
    ("step", "said"),
    [
        (lambda self, action: (np.ones(2, np.float32), 0.0, False, {}), r"step\(\) returned"),
        (lambda self, action: (np.ones(3, np.float32), 0.0, False, False, {}), "its space says"),
        (lambda self, action: 1 / 0, "step 1 failed: ZeroDivisionError"),
    ],
)
def test_an_environment_that_breaks_while_demonstrations_are_made_says_how(step, said) -> None:
    env = CheckedEnv(ToldSuccess(type("Mine", (Reach,), {"step": step})()), "mine:Reach")
    env.reset(seed=0)
    with pytest.raises(DatasetError, match=f"environment mine:Reach: ?.*{said}"):
        env.step(np.zeros(2))
