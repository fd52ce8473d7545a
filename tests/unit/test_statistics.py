"""Intervals against scipy's own, and the edges that a success rate has."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from understudy.errors import UserError
from understudy.statistics import interquartile_mean, interval, return_interval, student_t, wilson


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


def test_seeds_that_agree_get_wilsons_interval_over_all_episodes() -> None:
    successes = np.zeros((3, 50))
    successes[:, :40] = 1
    got = interval(successes)
    assert (got.low, got.high) == pytest.approx(wilson(120, 150))
    assert (got.mean, got.iqm, got.n_seeds, got.n_episodes) == (pytest.approx(0.8), pytest.approx(0.8), 3, 50)


def test_seeds_that_disagree_get_the_wider_interval_over_seeds_clipped_to_one() -> None:
    successes = np.zeros((3, 50))
    successes[0, :10] = successes[1, :] = successes[2, :] = 1
    got = interval(successes)
    low, _ = student_t([0.2, 1.0, 1.0])
    assert got.high == 1.0
    assert got.low == pytest.approx(max(0.0, low))
    assert got.high - got.low > wilson(110, 150)[1] - wilson(110, 150)[0]


def test_one_seed_gets_wilson_alone() -> None:
    got = interval([1, 1, 0, 1])
    assert (got.low, got.high) == pytest.approx(wilson(3, 4))
    assert got.n_seeds == 1


def test_perfect_scores_still_have_a_width() -> None:
    got = interval(np.ones((3, 10)))
    assert got.high == 1.0
    assert 0.85 < got.low < 1.0


def test_returns_of_several_seeds_use_the_seed_means() -> None:
    returns = np.random.default_rng(0).normal(300, 20, (5, 7))
    got = return_interval(returns)
    assert (got.low, got.high) == pytest.approx(student_t(returns.mean(axis=1)))


def test_returns_of_one_seed_use_its_episodes() -> None:
    returns = np.random.default_rng(0).normal(300, 20, (1, 7))
    assert (return_interval(returns).low, return_interval(returns).high) == pytest.approx(student_t(returns[0]))


def test_the_t_interval_of_normal_seeds_covers_the_truth_as_often_as_it_says() -> None:
    rng = np.random.default_rng(1)
    hits = [i.low <= 0 <= i.high for i in (return_interval(rng.normal(size=(3, 4))) for _ in range(1000))]
    assert 0.93 < np.mean(hits) < 0.97


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
