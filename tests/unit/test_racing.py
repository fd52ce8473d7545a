"""Racing rules on simulated truth: what they cost, what they lose, and how rarely the guaranteed one drops the best."""

from __future__ import annotations

import numpy as np
import pytest
from tests.unit.test_sweeping import sweep

from understudy.errors import UserError
from understudy.sweeping.race import replayed
from understudy.sweeping.racing import at_best_setting, binomial_floor, looks, replay, survivors

SEED, STATE, REST = 0.005, 0.06, 0.14
"""Variances of seeds, start states and the rest, as measured on cube-single with bc and flow_bc near .7."""


def seed_means(random: np.random.Generator, truths: np.ndarray, seeds: int = 8, episodes: int = 50) -> np.ndarray:
    """Return simulated seed means [N, 1, K]: all seeds of all configurations play the same start states."""
    states = random.normal(0, np.sqrt(STATE), episodes).mean()
    own = random.normal(0, np.sqrt(SEED), (len(truths), seeds))
    rest = random.normal(0, np.sqrt(REST / episodes), (len(truths), seeds))
    return (truths[:, None] + states + own + rest)[:, None, :]


def test_a_race_is_not_replayed_on_a_sweep_that_was_raced(tmp_path) -> None:
    spec = sweep("lr=1e-3,1e-4", "seeds=[0,1,2]", "racing=halving")
    with pytest.raises(UserError, match=r"its seeds were raced \(racing=halving\)") as refused:
        replayed(tmp_path, spec, [], "guaranteed")
    assert "\n" not in str(refused.value)
    with pytest.raises(UserError, match="fewer than two trials"):
        replayed(tmp_path, sweep("lr=1e-3,1e-4", "seeds=[0,1,2]"), [], "halving")


def test_looks_end_with_all_seeds() -> None:
    assert looks("halving", 8) == (1, 3, 8)
    assert looks("halving", 3) == (1, 3)
    assert looks("guaranteed", 5) == (2, 3, 4, 5)
    assert looks("none", 8) == (8,)
    assert looks("halving", 1) == (1,)


@pytest.mark.parametrize(("number", "cost"), [(8, 0.35), (24, 0.28)])
def test_halving_costs_about_a_third_at_about_the_regret_of_all_seeds(number: int, cost: float) -> None:
    random = np.random.default_rng(0)
    regrets, whole, costs = [], [], []
    for _ in range(300):
        truths = random.beta(2, 2, number)
        scores = seed_means(random, truths)
        result = replay("halving", scores)
        regrets.append(truths.max() - truths[result.picked])
        whole.append(truths.max() - truths[result.best])
        costs.append(result.cost)
    assert max(costs) <= cost
    assert np.mean(regrets) < np.mean(whole) + 0.01


def test_the_guaranteed_rule_drops_the_best_in_less_than_one_race_of_a_hundred() -> None:
    random = np.random.default_rng(1)
    dropped, costs = [], []
    for _ in range(400):
        truths = random.beta(2, 2, 12)
        scores = seed_means(random, truths)
        result = replay("guaranteed", scores, binomial_floor(scores, 50))
        last = result.rounds[-1][1]
        dropped.append(int(truths.argmax()) not in last)
        costs.append(result.cost)
    assert np.mean(dropped) < 0.01
    assert np.mean(costs) < 0.8


def test_halving_keeps_a_third_and_never_fewer_than_two() -> None:
    means = [np.array([value]) for value in (0.1, 0.9, 0.5, 0.4, 0.8, 0.2, 0.3)]
    assert survivors("halving", means, range(7), 3) == [1, 4]
    assert survivors("halving", [*means, *means], range(9), 3) == [1, 8, 4]
    assert survivors("none", means, [0, 1], 1) == [1, 0]


def test_configurations_whose_seeds_agree_by_chance_are_not_dropped_for_nothing() -> None:
    means = [np.array([0.5, 0.5]), np.array([0.48, 0.48])]
    assert survivors("guaranteed", means, [0, 1], 5) == [0], "no spread at all: any difference looks sure"
    assert survivors("guaranteed", means, [0, 1], 5, binomial_floor(np.stack(means), 50)) == [0, 1]


def test_a_race_is_run_at_each_configurations_best_setting_so_far() -> None:
    scores = np.array([[[0.1, 0.1], [0.6, 0.7]], [[0.5, 0.4], [0.2, 0.2]]])
    assert at_best_setting(scores[0]).tolist() == [0.6, 0.7]
    result = replay("none", scores)
    assert (result.picked, result.best, result.regret, result.cost) == (0, 0, 0.0, 1.0)
    with pytest.raises(UserError, match="at least two configurations"):
        replay("halving", scores[:1])
