"""Choosing is not confirming: on simulated truth the confirmed number is unbiased, and noise is not told apart."""

from __future__ import annotations

import numpy as np
import pytest
from tests.unit.test_statistics import simulated
from tests.unit.test_sweeping import sweep

from understudy.runs.episodes import SCHEMA, EpisodeLog, Played, Setting, read_episodes
from understudy.sweeping.confirm import Confirmed, candidates, fresh_seeds, rivals, told_apart, verdicts
from understudy.sweeping.outcomes import TrialOutcome
from understudy.sweeping.words import DEFAULT

SPEC = sweep("lr=interval(1e-5,1e-3)", "seeds=[0,1,2]")


def outcomes(tmp_path, matrices: list[np.ndarray]) -> list[TrialOutcome]:
    """Return a trial for each matrix [K, E] of successes, the best first."""
    found = []
    for number, matrix in enumerate(matrices):
        recorder = EpisodeLog(tmp_path / f"{number}.arrow", number).at(100)
        for (seed, episode), success in np.ndenumerate(matrix):
            recorder._rows[("", seed, episode)] = {
                "seed": seed,
                "episode": episode,
                "reset_seed": episode,
                "success": float(success),
                "return": 0.0,
                "length": 1,
                "step": 100,
                "setting": "",
                "temperature": 0.0,
            }
        recorder.finish()
        table = read_episodes(tmp_path / f"{number}.arrow")
        metrics = {"success": float(matrix.mean()), "return": 0.0}
        found.append(
            TrialOutcome(number, {"lr": 10 ** -(3 + number / 10)}, {}, metrics, tuple(range(len(matrix))), table)
        )
    return sorted(found, key=lambda item: -item.metrics["success"])


def test_those_that_cannot_be_told_from_the_best_are_confirmed_beside_it_and_the_default(tmp_path) -> None:
    random = np.random.default_rng(0)
    alike = [simulated(random, 3, 50) for _ in range(5)]
    ranked = outcomes(tmp_path, [*alike, np.zeros((3, 50))])
    assert 5 not in [item.number for item in rivals(SPEC, ranked)]
    chosen = candidates(SPEC, ranked)
    assert [item.name for item in chosen[:1]] == [f"trial {ranked[0].number}"]
    assert len(chosen) == 1 + SPEC.options.confirm_rivals + 1
    last = chosen[-1]
    assert (last.name, last.trial, last.parameters) == (DEFAULT, None, {"lr": 3e-4}), "no trial has them: it is trained"
    assert chosen[0].ranked == ranked[0].metrics["success"]
    alone = SPEC.options.model_copy(update={"confirm_rivals": 0, "with_default": False})
    none = SPEC.model_copy(update={"options": alone})
    assert len(candidates(none, ranked)) == 1


def test_the_default_is_the_trial_that_has_its_values_or_is_trained(tmp_path) -> None:
    random = np.random.default_rng(0)
    ranked = outcomes(tmp_path, [simulated(random, 3, 50), np.zeros((3, 50))])
    default = TrialOutcome(7, {"lr": 3e-4}, {}, {"success": 0.0}, (0, 1, 2), SCHEMA.empty_table())
    assert [(item.name, item.trial) for item in candidates(SPEC, [*ranked, default])][-1] == ("the default", 7)
    fresh = SPEC.model_copy(update={"options": SPEC.options.model_copy(update={"confirm_seeds": 2})})
    assert fresh_seeds(fresh) == (3, 4)
    last = candidates(fresh, ranked)[-1]
    assert (last.name, last.trial, last.parameters) == ("the default", None, {"lr": 3e-4})


def test_the_default_temperature_is_the_one_that_a_method_acts_with(tmp_path) -> None:
    spec = sweep("algo=flow_bc", "lr=interval(1e-5,1e-3)", "seeds=[0,1,2]", "eval_temperature=0,1")
    random = np.random.default_rng(0)
    table = outcomes(tmp_path, [simulated(random, 3, 50)])[0]
    ranked = [TrialOutcome(0, {"lr": 3e-4}, {"eval_temperature": 0}, table.metrics, (0, 1, 2), table.episodes)]
    (only,) = candidates(spec, ranked)
    assert (only.name, only.is_default) == ("trial 0", True)
    at_one = [TrialOutcome(0, {"lr": 3e-4}, {"eval_temperature": 1}, table.metrics, (0, 1, 2), table.episodes)]
    last = candidates(spec, at_one)[-1]
    assert (last.name, last.trial, last.chosen) == (DEFAULT, 0, {"eval_temperature": 0.0})


@pytest.mark.parametrize("fresh", [True, False])
def test_a_parameter_that_changes_nothing_is_confirmed_unbiased_and_not_distinguishable(fresh: bool) -> None:
    """8 configurations of one truth, 4 seeds x 50 episodes each; the best and three rivals on 50 fresh states."""
    random = np.random.default_rng(7)
    told, biases = 0, []
    truth = 0.7
    for _ in range(200):
        own = random.normal(0, np.sqrt(0.005), (8, 4))
        ranked = played(random, own, truth)
        order = np.argsort([-ranked[number].mean() for number in range(8)], kind="stable")[:4]
        again = random.normal(0, np.sqrt(0.005), (8, 4)) if fresh else own
        confirmed = played(random, again, truth)
        scores = {str(number): confirmed[number] for number in order}
        told += any(sure for _, sure in verdicts(scores, str(order[0])).values())
        biases.append(confirmed[order[0]].mean() - truth)
        assert ranked[order[0]].mean() >= ranked.mean()
    assert told <= 10
    assert abs(np.mean(biases)) < (0.02 if fresh else 0.035), "seeds that were chosen stay lucky ones"


def test_two_episodes_that_all_agree_tell_nothing_apart(tmp_path) -> None:
    tables = [item.episodes for item in outcomes(tmp_path, [np.ones((1, 2)), np.zeros((1, 2))])]
    found = [Confirmed(f"trial {n}", n, {}, {}, None, False, [0], {"success": 1.0 - n}) for n in range(2)]
    other = told_apart(SPEC, found, tables)[1]
    assert other.below is not None
    mean, low, high = other.below
    assert (mean, high, other.distinguishable) == (1.0, 1.0, False)
    assert low is not None
    assert low < 0


def played(random: np.random.Generator, seeds: np.ndarray, truth: float) -> np.ndarray:
    """Return successes [N, K, E] on 50 fresh states that all configurations and seeds share."""
    states = random.normal(0, 0.25, 50)
    rates = np.clip(truth + seeds[:, :, None] + states[None, None], 0, 1)
    return (random.random(rates.shape) < rates).astype(float)


def test_a_played_episode_has_the_reset_seed_that_it_was_played_with() -> None:
    assert Played(0, 3, 2_000_003, 1.0, 5).reset_seed == 2_000_003
    assert Setting().text == ""
