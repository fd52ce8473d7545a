"""Intervals against scipy's own, and the edges that a success rate has."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from understudy.errors import UserError
from understudy.statistics import Crossed, interquartile_mean, interval, return_interval, student_t, wilson


@pytest.mark.parametrize(("successes", "trials"), [(0, 10), (10, 10), (7, 10), (1, 50), (149, 150), (400, 1000)])
def test_wilson_equals_scipys(successes: int, trials: int) -> None:
    expected = stats.binomtest(successes, trials).proportion_ci(0.95, method="wilson")
    assert wilson(successes, trials) == pytest.approx((expected.low, expected.high), abs=1e-12)


@pytest.mark.parametrize("n", [2, 3, 10])
def test_student_t_equals_scipys(n: int) -> None:
    values = np.random.default_rng(n).normal(3, 2, n)
    expected = stats.t.interval(0.95, n - 1, loc=values.mean(), scale=stats.sem(values))
    assert student_t(values) == pytest.approx(expected, rel=1e-10)


@pytest.mark.parametrize("n", [1, 2, 3, 4, 5, 8, 11])
def test_the_interquartile_mean_equals_scipys_trimmed_mean(n: int) -> None:
    values = np.random.default_rng(n).normal(size=n)
    assert interquartile_mean(values) == pytest.approx(stats.trim_mean(values, 0.25), rel=1e-12)


def simulated(rng: np.random.Generator, seeds: int, states: int) -> np.ndarray:
    """Return 0/1 outcomes [K, E] whose variances are those of cube tasks: seeds .005, states .06, the rest .14."""
    easy = rng.beta(0.7 * 2.5, 0.3 * 2.5, states)  # each state's rate: mean .7, variance .7 x .3 / (2.5 + 1) = .06
    rates = np.clip(easy + rng.normal(0, np.sqrt(0.005), (seeds, 1)), 0, 1)
    return (rng.random((seeds, states)) < rates).astype(float)


TRUTH = float(np.mean([simulated(np.random.default_rng(i), 500, 500).mean() for i in range(40)]))


@pytest.mark.parametrize(("seeds", "states"), [(3, 50), (6, 60), (10, 50), (20, 50)])
def test_the_crossed_interval_covers_the_truth_of_other_seeds_and_states(seeds: int, states: int) -> None:
    rng = np.random.default_rng(seeds)
    rates = [interval(simulated(rng, seeds, states)) for _ in range(1500)]
    assert np.mean([rate.low <= TRUTH <= rate.high for rate in rates]) >= 0.93
    returns = [return_interval(simulated(rng, seeds, states)) for _ in range(1500)]
    assert np.mean([one.low <= TRUTH <= one.high for one in returns]) >= 0.93


def test_an_interval_for_fixed_states_is_students_over_the_seeds() -> None:
    successes = simulated(np.random.default_rng(0), 6, 50)
    got = interval(successes, fixed_states=True)
    assert (got.low, got.high) == pytest.approx(student_t(successes.mean(axis=1)))
    got = return_interval(successes, fixed_states=True)
    assert (got.low, got.high) == pytest.approx(student_t(successes.mean(axis=1)))


def test_the_mean_squares_are_those_of_a_two_way_analysis_of_variance() -> None:
    scores = np.random.default_rng(2).normal(size=(4, 6)) + np.arange(6)
    crossed = Crossed.of(scores)
    by_state = stats.f_oneway(*scores.T)  # its between-groups mean square is MSB
    within = np.mean(scores.var(axis=0, ddof=1))
    msb = by_state.statistic * within
    msa = 6 * scores.mean(axis=1).var(ddof=1)
    msr = (within * 6 * 3 - msa * 3) / (3 * 5)
    assert crossed.variance == pytest.approx(max(msa + msb - msr, msa, msb, msr) / 24)
    assert crossed.rest == pytest.approx(msr / 24)


def test_states_that_decide_everything_leave_as_many_episodes_as_states() -> None:
    successes = np.zeros((5, 50))
    successes[:, :40] = 1  # every seed solves the same 40 states
    got = interval(successes)
    low, high = wilson(40, 50)
    assert got.low < low + 0.02
    assert got.high > high - 0.02
    assert (got.mean, got.iqm, got.n_seeds, got.n_episodes) == (pytest.approx(0.8), pytest.approx(0.8), 5, 50)


def test_seeds_that_disagree_widen_the_interval() -> None:
    successes = np.zeros((3, 50))
    successes[0, :10] = successes[1, :] = successes[2, :] = 1
    got = interval(successes)
    assert 0 <= got.low < got.mean < got.high <= 1
    assert got.high - got.low > 2 * (wilson(110, 150)[1] - wilson(110, 150)[0])


def test_one_seed_gets_wilson_alone() -> None:
    got = interval([1, 1, 0, 1])
    assert (got.low, got.high) == pytest.approx(wilson(3, 4))
    assert got.n_seeds == 1


def test_perfect_scores_still_have_a_width() -> None:
    got = interval(np.ones((3, 10)))
    assert (got.low, got.high) == pytest.approx(wilson(10, 10))  # n is the states: seeds that agree add none
    zero = interval(np.zeros((3, 10)))
    assert (zero.low, zero.high) == pytest.approx(wilson(0, 10))


def test_one_episode_of_each_seed_gets_students_interval_over_seeds() -> None:
    got = interval([[1.0], [0.0], [1.0], [1.0]])
    low, high = student_t([1, 0, 1, 1])
    assert (got.low, got.high) == pytest.approx((max(0, low), min(1, high)))


def test_returns_of_several_seeds_are_at_least_as_uncertain_as_the_seed_means() -> None:
    returns = np.random.default_rng(0).normal(300, 20, (5, 7)) + 30 * np.arange(5)[:, None]
    got, over_seeds = return_interval(returns), student_t(returns.mean(axis=1))
    assert got.mean == pytest.approx(returns.mean())
    assert got.high - got.low == pytest.approx(over_seeds[1] - over_seeds[0], rel=0.2)


def test_returns_of_one_seed_use_its_episodes() -> None:
    returns = np.random.default_rng(0).normal(300, 20, (1, 7))
    assert (return_interval(returns).low, return_interval(returns).high) == pytest.approx(student_t(returns[0]))


def test_the_interval_of_normal_returns_covers_the_truth_at_least_as_often_as_it_says() -> None:
    rng = np.random.default_rng(1)
    hits = [i.low <= 0 <= i.high for i in (return_interval(rng.normal(size=(3, 4))) for _ in range(1000))]
    assert 0.94 < np.mean(hits) <= 1.0


def test_an_interval_reads_as_a_table_cell() -> None:
    successes = np.ones((3, 50))
    successes[0, :10] = 0
    assert str(interval(successes)).startswith("0.93 [0.")
    assert str(interval(successes)).endswith("(3 seeds x 50 episodes)")
    assert str(interval([1])).endswith("(1 seed x 1 episode)")


def test_an_interval_becomes_metric_columns() -> None:
    assert set(interval(np.ones((2, 3))).as_metrics("success")) == {
        "success",
        "success_low",
        "success_high",
        "success_iqm",
        "success_seeds",
        "success_episodes",
    }


@pytest.mark.parametrize("bad", [np.zeros((0, 4)), np.zeros((2, 2, 2)), [[0, 2]], [[0.5, float("nan")]]])
def test_scores_that_are_no_scores_are_refused_in_one_line(bad: object) -> None:
    with pytest.raises(UserError) as refused:
        interval(bad)  # pyright: ignore[reportArgumentType]
    assert "\n" not in str(refused.value)


def test_one_episode_of_one_seed_has_no_interval_and_says_so() -> None:
    got = return_interval([[7.0]])
    assert str(got) == "7.00 no interval (1 seed x 1 episode)"
    assert got.as_metrics("return") == {"return": 7, "return_iqm": 7, "return_seeds": 1, "return_episodes": 1}
    assert interval([[1.0]]).low < interval([[1.0]]).high, "a rate has Wilson's"
