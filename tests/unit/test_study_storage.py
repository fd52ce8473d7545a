"""The study's memory and its database: the same trials, a proposal there before it is trained, no fault swallowed."""

from __future__ import annotations

from pathlib import Path

import optuna
import pytest
from optuna.storages import BaseStorage
from optuna.trial import FrozenTrial, TrialState
from tests.unit.test_sweeping import sweep

from understudy.errors import UserError
from understudy.sweeping.study import Study

WORDS = ("lr=interval(1e-5,1e-3)", "hidden_dims=[16],[32,32]", "num_trials=20")


def in_database(folder: Path) -> list[FrozenTrial]:
    """Return the trials as another process reads them now."""
    return optuna.load_study(study_name="sweep", storage=f"sqlite:///{folder}/study.db").trials


def test_a_proposal_is_in_the_database_before_anybody_trains_it(tmp_path) -> None:
    study = Study(tmp_path, sweep(*WORDS))
    for number in range(3):
        _, parameters = study.ask()
        held = in_database(tmp_path)[number]
        assert held.state == TrialState.RUNNING
        assert held.params == parameters


def test_what_is_in_memory_and_what_is_in_the_database_are_equal(tmp_path) -> None:
    study = Study(tmp_path, sweep(*WORDS))
    study.enqueue({"lr": 1e-4}, given=True)
    for number in range(6):
        assert study.ask()[0] == number
        for step in (100, 200):
            study.report(number, step, number + step / 1000)
    study.finish(0, TrialState.COMPLETE, 0.5, metrics={"success": 0.5}, best_parameters={"flow_steps": 5})
    study.finish(1, TrialState.PRUNED, None, step=200)
    study.finish(2, TrialState.FAIL, None, error="it died", crashed=True)
    study.finish(3, TrialState.PRUNED, None, diverged=True)
    study.enqueue({"lr": 2e-4, "hidden_dims": [16]})
    study.flush()
    again = Study(tmp_path, sweep(*WORDS))
    for trials in (in_database(tmp_path), again._study.trials):
        assert [told(trial) for trial in trials] == [told(trial) for trial in study._study.trials]
    assert again.ask() == study.ask() == (6, {"lr": 2e-4, "hidden_dims": [16]})


def told(trial: FrozenTrial) -> tuple[object, ...]:
    own = trial.params, trial.distributions, trial.user_attrs, trial.system_attrs, trial.intermediate_values
    return trial.number, trial.state, trial.values, *own


def test_a_fault_of_the_database_is_told_to_whoever_asks_next_and_nothing_is_lost(tmp_path, monkeypatch) -> None:
    study = Study(tmp_path, sweep(*WORDS))
    number, _ = study.ask()
    database: BaseStorage = study._storage._backing

    def away(*_: object) -> None:
        raise OSError("the disk is full")

    monkeypatch.setattr(database, "set_trial_intermediate_value", away)
    study.report(number, 100, 0.5)
    with pytest.raises(UserError, match="the disk is full"):
        study.flush()
    with pytest.raises(UserError, match="the disk is full"):
        study.ask()
    study.report(number, 200, 0.6)
    monkeypatch.undo()
    study.flush()
    assert in_database(tmp_path)[number].intermediate_values == {100: 0.5, 200: 0.6}
