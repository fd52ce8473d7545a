"""Objectives, their directions, constraints, Pareto fronts, and how well one measure ranks as another does."""

from __future__ import annotations

import math
from dataclasses import asdict, replace

import numpy as np
import pyarrow as pa
import pytest
from optuna.trial import TrialState
from scipy import stats
from tests.unit.test_sweeping import sweep

from understudy.comparisons import kendall
from understudy.errors import SpecError
from understudy.runs.episodes import SCHEMA
from understudy.runs.results import objective_name, rank_key
from understudy.sweeping.best import BestPolicy
from understudy.sweeping.confirm import Confirmed
from understudy.sweeping.objective import pareto_front, read_goal
from understudy.sweeping.outcomes import TrialOutcome
from understudy.sweeping.report import confirmation_lines, front_of, write_report
from understudy.sweeping.study import Study
from understudy.sweeping.table import best_trial
from understudy.sweeping.words import DEFAULT, shown_name

LR = "lr=interval(1e-5,1e-3)"
HELD = ("algo=bc", "validation_fraction=0.1", "eval_episodes=0", LR)


def test_less_of_a_loss_is_better_unless_it_is_said_otherwise() -> None:
    goal = read_goal(("validation/mse",), ("auto",), ())
    assert goal.first.minimized
    assert goal.key({"validation/mse": 0.1}) > goal.key({"validation/mse": 0.2})
    assert goal.first.score({}) == -math.inf
    assert not read_goal(("length",), ("maximize",), ()).first.minimized
    assert rank_key({"validation/mse": 0.1}) > rank_key({"validation/mse": 0.2})
    assert objective_name({"validation/mse": 0.1, "success": 0.5}) == "success"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("objective=sucess",), "objective=sucess: no such objective (did you mean 'success'?)"),
        (("objective=validation/mse",), "no episodes are held out; give validation_fraction"),
        (("objective=success", "eval_episodes=0", "validation_fraction=0.1"), "no episode is played"),
        (("objective=[success,success]",), "each once"),
        (("objective=[success,latency]", "direction=[maximize,minimize,minimize]"), "one for each objective"),
        (("constraints=[latency<20]",), "write them like latency<=20"),
        (("eval_episodes=0",), "or hold episodes out with validation_fraction=0.1"),
        (("objective=[success,latency]", "sampler=gp"), "sampler=gp takes one objective"),
        (("objective=latency", "scheduler=asha"), "give scheduler=none"),
        (("points=[{lr:1}]",), "points: lr=1 lies outside"),
        (("points=[{batch_size:3}]",), "points: batch_size is not swept"),
    ],
)
def test_what_a_sweep_cannot_want_is_refused_in_one_line(words, said) -> None:
    with pytest.raises(SpecError) as refused:
        sweep(LR, *words)
    assert said in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    "words", ["constraints=latency<=20", "constraints=[latency<=20]", "constraints=[ latency<=20 ]"]
)
def test_constraints_are_written_with_brackets_or_without(words) -> None:
    assert sweep(LR, words).options.constraints == ("latency<=20",)
    assert sweep(LR, words.replace("20", "20,success>=0.5")).options.constraints == ("latency<=20", "success>=0.5")


def test_held_out_episodes_alone_are_swept_for_and_less_is_better(tmp_path) -> None:
    spec = sweep(*HELD)
    assert spec.held_out_only
    assert spec.goal.first.minimized
    study = Study(tmp_path, spec)
    for mse in (0.3, 0.1, 0.2):
        number, _ = study.ask()
        study.report(number, 100, -mse)
        study.finish(number, TrialState.COMPLETE, -mse, metrics={"validation/mse": mse})
    best = best_trial(study.trials(), spec.goal)
    assert best is not None
    assert (best.number, best.value, best.intermediate_values) == (1, 0.1, {100: 0.1})
    assert study.rungs(best) == [(100, -0.1)]


def test_several_objectives_are_told_to_the_sampler_each_in_its_direction(tmp_path) -> None:
    spec = sweep(LR, "objective=success,latency", "constraints=latency<=20")
    assert (spec.sampler, spec.options.scheduler) == ("nsga2", "none")
    study = Study(tmp_path, spec)
    for success, latency in ((0.9, 30.0), (0.8, 10.0), (0.7, 20.0)):
        number, _ = study.ask()
        metrics = {"success": success, "latency": latency}
        study.finish(number, TrialState.COMPLETE, spec.goal.scores(metrics), metrics=metrics)
    trials = study.trials()
    assert [trial.values for trial in trials] == [[0.9, 30.0], [0.8, 10.0], [0.7, 20.0]]
    assert [trial.constraints for trial in trials] == [{"latency<=20": 10}, {"latency<=20": -10}, {"latency<=20": 0}]
    best = best_trial(trials, spec.goal)
    assert best is not None
    assert best.number == 1, "the first breaks the constraint"
    assert pareto_front([spec.goal.scores(trial.user_attrs["metrics"]) for trial in trials]) == [0, 1]


def test_a_front_holds_what_nothing_beats() -> None:
    assert pareto_front([(1, 0), (0, 1), (0, 0), (1, 0)]) == [0, 1, 3]
    assert pareto_front([]) == []


def test_a_front_has_each_trial_at_each_of_its_evaluation_time_settings() -> None:
    spec = sweep(LR, "objective=success,latency", "flow_steps=2,5")

    def at(number: int, flow_steps: int, success: float, latency: float) -> TrialOutcome:
        measured = {"success": success, "latency": latency}
        return TrialOutcome(number, {"lr": 1e-3}, {"flow_steps": flow_steps}, measured, (0, 1))

    first = (at(0, 2, 0.5, 1.0), at(0, 5, 0.9, 2.0))
    second = (at(1, 2, 0.6, 1.1), at(1, 5, 0.8, 2.1))
    trials = [replace(each[1], settings=each) for each in (first, second)]
    found = [(row["trial"], row["parameters"]["flow_steps"]) for row in front_of(spec, trials)]
    assert found == [(0, 5), (1, 2), (0, 2)]


def test_kendalls_tau_is_scipys_and_its_interval_holds_it() -> None:
    random = np.random.default_rng(0)
    first = random.normal(size=30).round(1)
    second = first + random.normal(size=30)
    found = kendall(first, second)
    assert found is not None
    assert found.tau == pytest.approx(stats.kendalltau(first, second).statistic)
    assert found.low < found.tau < found.high
    assert found.configurations == 30
    assert kendall([1, 2, 3], [1, 2, 3]) is None, "three configurations say nothing"
    assert kendall([1, 1, 1, 1], [1, 2, 3, 4]) is None


def test_the_report_says_how_well_a_held_out_measure_ranks_configurations_as_the_simulator_does(tmp_path) -> None:
    played = pa.table({name: pa.nulls(1, SCHEMA.field(name).type) for name in SCHEMA.names})
    success, mse = (0.9, 0.7, 0.8, 0.2, 0.1, 0.4), (0.1, 0.2, 0.3, 0.4, 0.5, 0.6)
    trials = [
        TrialOutcome(
            number, {}, {}, {"success": one, "validation/mse": other}, (0,), played, {"validation/mse": [other]}
        )
        for number, (one, other) in enumerate(zip(success, mse, strict=True))
    ]
    (line,) = write_report(tmp_path, sweep(LR), trials)
    tau = stats.kendalltau([-value for value in mse], success).statistic
    assert line.startswith(f"validation/mse ranks configurations as success does by Kendall's tau {tau:.2f} [")
    assert line.endswith("] (6 configurations)")
    assert not write_report(tmp_path, sweep(LR), [replace(item, episodes=SCHEMA.empty_table()) for item in trials])


def test_a_difference_without_spread_has_no_interval() -> None:
    metrics = {"success": 0.0, "success_low": 0.0, "success_high": 0.66}
    one = Confirmed("trial 1", 1, {"lr": 1e-3}, {}, None, False, [0], metrics, [0.0, 0.0, 0.0], distinguishable=False)
    other = asdict(one)
    best = BestPolicy(0, 60, {}, metrics, 0, metrics, "", ranked=0.0, seeds=[0], compared=[other])
    lines = confirmation_lines(best, sweep(LR))
    assert "over its 1 seed x 50 episodes" in lines[0]
    expected = "  best minus trial 1, 0.00 [0.00, 0.66]: 0.00, with no spread to tell more by"
    assert lines[2] == expected
    other["below"] = [0.0, None, None]
    assert confirmation_lines(best, sweep(LR))[2] == expected


def test_the_default_is_told_from_its_trial_at_other_settings() -> None:
    found = Confirmed("trial 0", 0, {"lr": 3e-4}, {"flow_steps": 5}, 0.9, False)
    default = Confirmed(DEFAULT, 0, {"lr": 3e-4}, {"flow_steps": 10}, None, True)
    assert shown_name(asdict(found)) == "trial 0 at flow_steps=5"
    assert shown_name(asdict(default)) == "the default (trial 0 at flow_steps=10)"
    assert shown_name(asdict(replace(found, is_default=True))) == "trial 0 at flow_steps=5 (the default)"
    assert shown_name(asdict(replace(default, trial=None))) == "the default (lr=0.0003 flow_steps=10)"
