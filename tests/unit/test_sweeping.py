"""The study and ASHA keep everything in the database: opened again, they are where they were."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from optuna.trial import TrialState
from ray.tune.schedulers import TrialScheduler

from understudy.errors import SpecError, UserError
from understudy.spec.compose import flat_values, parse, split_sweeps
from understudy.sweeping.search import StudyAsha, keyed
from understudy.sweeping.spec import STORAGE_VARIABLE, SweepSpec, build_sweep
from understudy.sweeping.study import Study, check_storage
from understudy.sweeping.table import best_trial


def sweep(*words: str) -> SweepSpec:
    plain, sweeps = split_sweeps(parse(("env_name=hopper-medium-v2", *words)))
    return build_sweep(flat_values(plain), sweeps)


@pytest.mark.parametrize("sampler", ["random", "qmc", "tpe"])
def test_a_study_opened_again_proposes_what_it_would_have_proposed(tmp_path, sampler) -> None:
    spec = sweep("lr=interval(1e-5,1e-3)", "horizon_length=1,5,10", "num_trials=8", f"sampler={sampler}")
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    unbroken = Study(tmp_path / "a", spec)
    expected = [unbroken.ask() for _ in range(4)]
    found = []
    for _ in range(4):
        found.append(Study(tmp_path / "b", spec).ask())
    assert found == expected
    assert len({item["lr"] for _, item in found}) == 4


def test_grid_proposes_every_combination_once(tmp_path) -> None:
    spec = sweep("lr=1e-4,1e-3", "horizon_length=1,5", "sampler=grid", "num_trials=100")
    assert spec.options.num_trials == 4
    study = Study(tmp_path, spec)
    proposals = set()
    for _ in range(4):
        number, parameters = study.ask()
        proposals.add(tuple(parameters.values()))
        study.finish(number, TrialState.COMPLETE, 0.0)
    assert len(proposals) == 4


def test_asha_opened_again_stops_what_it_would_have_stopped(tmp_path) -> None:
    spec = sweep("lr=interval(1e-5,1e-3)", "num_trials=4", "sampler=random")
    study = Study(tmp_path, spec)
    for value in (0.9, 0.8, 0.7):
        number, _ = study.ask()
        study.report(number, 100, value)
        study.finish(number, TrialState.COMPLETE, value)

    def decide(value: float, step: int) -> str:
        scheduler = StudyAsha(Study(tmp_path, spec), max_t=400, grace_steps=100, reduction_factor=2)
        trial = SimpleNamespace(trial_id="x", config={"number": 3})
        return scheduler.on_trial_result(None, trial, {"step": step, "objective": value})

    assert decide(0.1, 100) == TrialScheduler.STOP
    assert decide(0.95, 100) == TrialScheduler.CONTINUE
    assert decide(0.1, 50) == TrialScheduler.CONTINUE
    assert decide(0.0, 400) == TrialScheduler.CONTINUE, "a trial at its last step still has to close its run"


def test_the_best_trial_is_by_success_then_by_return_then_the_earlier(tmp_path) -> None:
    spec = sweep("lr=interval(1e-5,1e-3)", "num_trials=4", "sampler=random")
    study = Study(tmp_path, spec)
    for success, score in ((0.5, 9.0), (1.0, -50.0), (1.0, -40.0), (1.0, -40.0)):
        number, _ = study.ask()
        study.finish(number, TrialState.COMPLETE, success, metrics={"success": success, "return": score})
    best = best_trial(study.trials())
    assert best is not None
    assert best.number == 2


def test_a_report_for_a_stopped_trial_changes_nothing(tmp_path) -> None:
    study = Study(tmp_path, sweep("lr=interval(1e-5,1e-3)", "num_trials=2"))
    number, _ = study.ask()
    study.report(number, 10, 0.5)
    study.report(number, 10, 0.7)
    study.finish(number, TrialState.PRUNED, None)
    study.report(number, 20, 0.9)
    (trial,) = study.trials()
    assert trial.intermediate_values == {10: 0.5}


def test_trials_that_are_given_more_steps_run_on_in_a_further_study_and_the_first_stays(tmp_path) -> None:
    spec = sweep("lr=interval(1e-5,1e-3)", "num_trials=5", "sampler=random", "training_steps=400")
    study = Study(tmp_path, spec)
    ends = (TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL, None)
    for value, end in zip((0.5, 0.1, 0.2, 0.7), ends, strict=True):
        number, _ = study.ask()
        study.report(number, 100, value)
        if end is not None:
            study.finish(number, end, value, **({"metrics": {"return": 1.0}} if end == TrialState.COMPLETE else {}))
    study.enqueue({"lr": 1e-4}, retry_of=2)
    before = [(trial.state, trial.params, trial.values, trial.user_attrs) for trial in study.trials()]

    name = study.go_on_with(600)
    assert study.go_on_with(600) == name, "an attempt that was killed is made again"
    longer = Study(tmp_path, spec.model_copy(update={"study": name}))
    assert [(trial.state, trial.params, trial.values, trial.user_attrs) for trial in study.trials()] == before
    found = longer.trials()
    assert [trial.state.name for trial in found] == ["RUNNING", "PRUNED", "FAIL", "RUNNING", "WAITING"]
    assert [trial.params for trial in found] == [trial[1] for trial in before]
    assert found[0].intermediate_values == {100: 0.5}
    assert found[0].user_attrs == {}
    longer.finish(0, TrialState.COMPLETE, 0.9, metrics={"return": 2.0})
    assert Study(tmp_path, longer.spec).trials(TrialState.COMPLETE)[0].value == 0.9
    assert longer.ask() == (4, {"lr": 1e-4})
    assert longer.trials()[4].user_attrs == {"retry_of": 2}

    # What was let go on by ASHA is not stopped by those that came later; at new rungs it is compared like any other.
    scheduler = StudyAsha(longer, max_t=600, grace_steps=100, reduction_factor=2)
    trial = SimpleNamespace(trial_id="x", config={"number": 3})
    for number in (5, 6, 7):
        scheduler._brackets[0].on_result(keyed(number), 100, 0.95)
    assert scheduler.on_trial_result(None, trial, {"step": 100, "objective": 0.7}) == TrialScheduler.CONTINUE
    for number in (5, 6, 7):
        scheduler._brackets[0].on_result(keyed(number), 400, 0.95)
    assert scheduler.on_trial_result(None, trial, {"step": 400, "objective": 0.7}) == TrialScheduler.STOP


def test_a_study_stays_in_the_database_that_it_was_begun_in(tmp_path, monkeypatch) -> None:
    spec = sweep("lr=interval(1e-5,1e-3)", "num_trials=8")
    folder = tmp_path / "sweep_1"
    folder.mkdir()
    monkeypatch.setenv(STORAGE_VARIABLE, f"sqlite:///{tmp_path}/shared.db")
    number, _ = Study(folder, spec).ask()
    assert not (folder / "study.db").exists()
    assert [trial.number for trial in Study(folder, spec).trials()] == [number]
    other = tmp_path / "sweep_2"
    other.mkdir()
    assert Study(other, spec).trials() == []  # a name of its own in the same database
    monkeypatch.setenv(STORAGE_VARIABLE, f"sqlite:///{tmp_path}/another.db")
    with pytest.raises(UserError, match=r"shared.db: set UNDERSTUDY_STUDY_STORAGE to that address \(now: .*another.db"):
        Study(folder, spec)

    local = tmp_path / "sweep_3"
    local.mkdir()
    monkeypatch.delenv(STORAGE_VARIABLE)
    Study(local, spec).ask()
    monkeypatch.setenv(STORAGE_VARIABLE, f"sqlite:///{tmp_path}/shared.db")
    assert len(Study(local, spec).trials()) == 1


def test_a_study_storage_with_a_password_or_that_is_no_database_is_refused_in_one_line(monkeypatch) -> None:
    with pytest.raises(SpecError, match=r"study_storage=\*\*\*: holds a password.*UNDERSTUDY_STUDY_STORAGE"):
        sweep("lr=interval(1e-5,1e-3)", "study_storage=postgresql://ada:pa55@host/db")
    monkeypatch.setenv(STORAGE_VARIABLE, "sqlite:////proc/ada/x.db")
    with pytest.raises(UserError, match="cannot be used") as refused:
        check_storage(sweep("lr=interval(1e-5,1e-3)"))
    assert "\n" not in str(refused.value)
