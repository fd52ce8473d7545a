"""Environments of gymnasium's registry under Minari's names: scripted experts, episodes that repeat by seed."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from understudy.envs.rollouts.factory import EnvFactory
from understudy.envs.sources.source import task_of


@pytest.mark.parametrize(
    ("name", "episodes"), [("minari:pointmaze/umaze-scripted-v0", 20), ("minari:pointmaze/medium-scripted-v0", 10)]
)
def test_the_maze_walker_reaches_its_goal(name, episodes) -> None:
    returns, solved = play(name, episodes)
    assert solved >= 0.95 * episodes
    assert returns.mean() == pytest.approx(1.0)


def test_the_pendulum_expert_swings_up() -> None:
    returns, _ = play("minari:pendulum/scripted-v0", 20)
    assert returns.mean() > -220


def play(name: str, episodes: int) -> tuple[np.ndarray, int]:
    env, expert = EnvFactory(name)(), task_of(name).expert()
    assert expert is not None
    rng = np.random.default_rng(0)
    returns, solved = np.zeros(episodes), 0
    for seed in range(episodes):
        observation, info = env.reset(seed=seed)
        expert.reset(env, observation, info, rng)
        over = False
        while not over:
            noise = rng.normal(0, 0.2, env.action_space.shape)
            action = expert.act(env, observation, info) + noise.astype(np.float32)
            observation, reward, terminated, truncated, info = env.step(np.clip(action, -2, 2))
            returns[seed] += float(reward)
            over = terminated or truncated
        solved += bool(info.get("success"))
    return returns, solved


@pytest.mark.parametrize("name", ["minari:pointmaze/umaze-policy-v1", "minari:pendulum/policy-v0"])
def test_environments_repeat_by_seed_whatever_ran_before(name) -> None:
    env: Any = EnvFactory(name)()
    actions = np.random.default_rng(0).uniform(-1, 1, (25, *env.action_space.shape)).astype(np.float32)

    def looks(env, seed):
        return np.stack([env.reset(seed=seed)[0], *(env.step(action)[0] for action in actions)])

    first = looks(env, 3)
    assert not np.array_equal(looks(env, 4), first)
    np.testing.assert_array_equal(looks(env, 3), first)
    np.testing.assert_array_equal(looks(EnvFactory(name)(), 3), first)
