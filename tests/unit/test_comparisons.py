"""Differences, several configurations, and rliable's measures against rliable's own numbers."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from scipy import stats
from tests.unit.test_statistics import simulated

from understudy.comparisons import (
    holm,
    paired_difference,
    performance_profile,
    probability_of_improvement,
    stratified_bootstrap,
    task_iqm,
    undistinguished,
)
from understudy.errors import UserError

RLIABLE = json.loads((Path(__file__).parents[1] / "golden" / "rliable.json").read_text())
"""What rliable 1.2.0 says of two arrays [runs, tasks]; its intervals are of 50,000 and 20,000 resamples."""
X, Y = np.array(RLIABLE["x"]), np.array(RLIABLE["y"])


def test_pooled_measures_equal_rliables() -> None:
    assert [task_iqm(X), task_iqm(Y)] == pytest.approx(RLIABLE["iqm"], rel=1e-12)
    assert probability_of_improvement(X, Y) == pytest.approx(RLIABLE["probability_of_improvement"], rel=1e-12)
    assert performance_profile(X, RLIABLE["taus"]) == pytest.approx(RLIABLE["profile"], rel=1e-12)


def test_bootstrap_intervals_equal_rliables_within_their_own_noise() -> None:
    assert stratified_bootstrap(task_iqm, X, resamples=4000) == pytest.approx(RLIABLE["iqm_interval"], abs=0.01)
    improvement = stratified_bootstrap(probability_of_improvement, X, Y, resamples=4000)
    assert improvement == pytest.approx(RLIABLE["poi_interval"], abs=0.015)


def test_the_probability_of_improvement_is_scipys_mann_whitney() -> None:
    each = [stats.mannwhitneyu(X[:, t], Y[:, t]).statistic / (len(X) * len(Y)) for t in range(X.shape[1])]
    assert probability_of_improvement(X, Y) == pytest.approx(np.mean(each))
    assert probability_of_improvement(X, X) == pytest.approx(0.5)


def test_one_seed_each_is_scipys_paired_t_test_over_states() -> None:
    rng = np.random.default_rng(0)
    first, second = rng.normal(size=(1, 40)), rng.normal(0.3, 1, size=(1, 40))
    got, expected = paired_difference(first, second), stats.ttest_rel(first[0], second[0])
    ends = expected.confidence_interval(0.95)
    assert (got.low, got.high, got.p) == pytest.approx((ends.low, ends.high, expected.pvalue))


def test_one_state_is_scipys_welch_test_over_seeds() -> None:
    rng = np.random.default_rng(0)
    first, second = rng.normal(size=(6, 1)), rng.normal(0.3, 2, size=(8, 1))
    expected = stats.ttest_ind(first[:, 0], second[:, 0], equal_var=False)
    ends = expected.confidence_interval(0.95)
    got = paired_difference(first, second)
    assert (got.low, got.high, got.p) == pytest.approx((ends.low, ends.high, expected.pvalue))


def test_pairs_are_told_apart_with_fewer_episodes_than_unpaired_ones() -> None:
    rng = np.random.default_rng(3)
    easy = rng.normal(0, 1, 50)
    first, second = easy + rng.normal(0.3, 0.3, (5, 50)), easy + rng.normal(0, 0.3, (5, 50))
    assert paired_difference(first, second).distinguishable
    assert paired_difference(first, second).low > 0
    assert not paired_difference(first, rng.permuted(second, axis=1)).p < paired_difference(first, second).p


def test_the_difference_of_equal_configurations_covers_zero_as_often_as_it_says() -> None:
    rng = np.random.default_rng(4)
    hits = []
    for _ in range(600):
        outcome = simulated(rng, 16, 50)  # 16 seeds of one configuration on the same states, taken for two of 8
        hits.append(not paired_difference(outcome[:8], outcome[8:]).distinguishable)
    assert np.mean(hits) >= 0.93


def test_a_parameter_that_changes_nothing_is_not_distinguishable_in_95_of_100_sweeps() -> None:
    rng = np.random.default_rng(5)
    same = 0
    for _ in range(200):
        outcome = simulated(rng, 20, 50)
        scores = {str(number): outcome[5 * number : 5 * number + 5] for number in range(4)}
        same += len(undistinguished(scores, "0")) == 3
    assert same >= 190


def test_a_configuration_that_is_better_is_told_from_the_others() -> None:
    rng = np.random.default_rng(6)
    outcome = simulated(rng, 15, 60)
    scores = {"best": np.ones((5, 60)), "worse": outcome[:5], "as bad": outcome[5:10]}
    assert undistinguished(scores, "best") == []
    assert undistinguished(scores, "worse") == ["as bad"]


def test_holms_p_values_are_the_published_ones() -> None:
    # Holm's procedure on p = .01, .04, .03, .005: 4 x .005, 3 x .01, 2 x .03, and .04 raised to the one before.
    adjusted = holm({"a": 0.01, "b": 0.04, "c": 0.03, "d": 0.005})
    assert adjusted == pytest.approx({"a": 0.03, "b": 0.06, "c": 0.06, "d": 0.02})


def test_rates_without_spread_have_the_spread_of_chance() -> None:
    two = paired_difference([[1, 1]], [[0, 0]], rate=True)
    assert (two.mean, two.high, two.distinguishable) == (1.0, 1.0, False)
    assert two.low < 0
    assert not paired_difference([[1], [1]], [[0], [0]], rate=True).distinguishable, "two seeds, one state"
    many = paired_difference(np.ones((1, 50)), np.zeros((3, 50)), rate=True)
    assert many.distinguishable
    assert 0.9 < many.low < many.mean == 1.0
    alike = paired_difference(np.ones((3, 50)), np.ones((3, 50)), rate=True)
    assert (alike.mean, alike.p) == (0.0, 1.0)
    assert -0.1 < alike.low < 0 < alike.high < 0.1
    assert not paired_difference([[1, 0], [0, 1]], [[0, 0]], rate=True).distinguishable, "spread that cancels out"


def test_rates_without_spread_are_told_apart_no_sooner_than_chance_allows() -> None:
    for states in range(2, 8):
        p = paired_difference(np.ones((1, states)), np.zeros((1, states)), rate=True).p
        assert p >= 2 * 0.25**states, "all of one won and all of the other lost, at even odds"


def test_other_scores_without_spread_have_no_interval() -> None:
    two = paired_difference([[3.3, 3.3]], [[1.1, 1.1]])
    assert (two.mean, two.p, two.ends, two.distinguishable) == (pytest.approx(2.2), 0.5, None, False)
    assert paired_difference([[3.3], [3.3]], [[1.1], [1.1]]).p == 1.0, "one state"
    assert paired_difference(np.full((3, 50), 0.1), np.full((3, 50), 0.1)).p == 1.0
    assert paired_difference(np.full((3, 50), 0.3), np.full((3, 50), 0.1)).distinguishable


def test_scores_of_other_states_are_no_pairs() -> None:
    with pytest.raises(UserError, match="50 and on 49 start states"):
        paired_difference(np.zeros((2, 50)), np.zeros((2, 49)))
    with pytest.raises(UserError, match="no spread"):
        paired_difference([[1.0]], [[0.0]])
