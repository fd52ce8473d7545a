"""The study and ASHA keep everything in the database: opened again, they are where they were."""

from __future__ import annotations

import io
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import optuna
import pytest
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.samplers import TPESampler
from optuna.trial import TrialState
from ray.tune.schedulers import TrialScheduler
from ray.tune.schedulers.async_hyperband import _Bracket
from rich.console import Console

from understudy.cli.resume import extend_sweep
from understudy.errors import SpecError, UserError
from understudy.registry import algorithms
from understudy.runs.directory import CsvLog, read_csv, read_last_row
from understudy.spec.compose import flat_values, parse, split_sweeps
from understudy.sweeping import table as table_module
from understudy.sweeping.budget import Budget
from understudy.sweeping.directory import SweepDir
from understudy.sweeping.options import STORAGE_VARIABLE, SweepOptions
from understudy.sweeping.proposals import KeptNumbers, Known, NothingTwice
from understudy.sweeping.run import begin
from understudy.sweeping.search import Rungs, StudyAsha, StudySearch, keyed
from understudy.sweeping.study import Study, check_storage, crashed, failed, state_name
from understudy.sweeping.sweep_spec import SweepSpec, build_sweep, check_given
from understudy.sweeping.table import SweepTable, best_trial
from understudy.sweeping.together import pruned, trials_together
from understudy.sweeping.trial import trial_folder, trial_spec


def sweep(*words: str) -> SweepSpec:
    plain, sweeps = split_sweeps(parse(("env_name=hopper-medium-v2", *words)))
    return build_sweep(flat_values(plain), sweeps)


@pytest.mark.parametrize("sampler", ["random", "qmc", "tpe", "cmaes"])
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


def test_numbers_kept_of_finished_trials_propose_what_optunas_own_tpe_does() -> None:
    spaces: list[dict[str, BaseDistribution]] = [
        {
            "lr": FloatDistribution(1e-5, 1e-1, log=True),
            "layers": IntDistribution(1, 6),
            "activation": CategoricalDistribution(["relu", "gelu", "silu"]),
        },
        {"lr": FloatDistribution(1e-4, 1e-1, log=True)},
    ]
    study, known = optuna.create_study(direction="maximize"), Known()
    for number in range(60):
        trial = study.ask(spaces[0])
        if number >= 8:
            settings = {"seed": number, "multivariate": True, "constant_liar": True, "n_startup_trials": 0}
            for space in spaces:  # a cut space is one of its own
                plain, kept = (
                    sampler.sample_relative(study, study.trials[-1], dict(space))
                    for sampler in (TPESampler(**settings), KeptNumbers(known, **settings))
                )
                assert kept == plain, (number, space)
        if number % 7 == 3:
            study.tell(trial, state=TrialState.PRUNED)
        elif number % 7 != 5:  # some go on
            study.tell(trial, -abs(np.log10(trial.params["lr"]) + 3) - trial.params["layers"] % 3)


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
    spec = sweep("lr=interval(1e-5,1e-3)", "num_trials=5", "sampler=random")
    study = Study(tmp_path, spec)
    for value in (0.9, 0.8, 0.8, 0.7):
        number, _ = study.ask()
        study.report(number, 100, value)
        study.finish(number, TrialState.COMPLETE, value)

    def decide(value: float, step: int) -> str:
        scheduler = StudyAsha(
            Study(tmp_path, spec), tmp_path, max_t=400, grace_steps=100, reduction_factor=2, slack=0.1
        )
        trial = SimpleNamespace(trial_id="x", config={"number": 4})
        return scheduler.on_trial_result(None, trial, {"step": step, "objective": value})

    assert decide(0.1, 100) == TrialScheduler.STOP
    assert decide(0.75, 100) == TrialScheduler.CONTINUE, "below the median of .8, but not by the slack"
    assert decide(0.95, 100) == TrialScheduler.CONTINUE
    assert decide(0.1, 50) == TrialScheduler.CONTINUE
    assert decide(0.0, 400) == TrialScheduler.CONTINUE, "a trial at its last step still has to close its run"


def test_of_trials_in_one_pack_asha_stops_one_and_the_others_go_on(tmp_path) -> None:
    spec = sweep("lr=interval(1e-5,1e-3)", "num_trials=7", "sampler=random", "trials_together=3", "with_default=false")
    assert trials_together(spec) == 3
    study = Study(tmp_path, spec)
    for value in (0.9, 0.8, 0.8, 0.7):
        number, _ = study.ask()
        study.report(number, 100, value)
        study.finish(number, TrialState.COMPLETE, value)
    search = StudySearch(study, tmp_path, 3)
    proposal = search.suggest("x")
    assert [one["number"] for one in proposal["together"]] == [4, 5, 6]
    assert search.suggest("y") == StudySearch.FINISHED
    scheduler = StudyAsha(study, tmp_path, max_t=400, grace_steps=100, reduction_factor=2, slack=0.1)
    trial = SimpleNamespace(trial_id="x", config=proposal)
    for number, value in ((4, 0.95), (5, 0.1), (6, 0.9)):
        result = {"step": 100, "objective": value, "number": number}
        assert scheduler.on_trial_result(None, trial, result) == TrialScheduler.CONTINUE
        search.on_trial_result("x", result)
        assert pruned(tmp_path, number) == (number == 5)
    states = {one.number: one.state for one in study.trials() if one.number > 3}
    assert states == {4: TrialState.RUNNING, 5: TrialState.PRUNED, 6: TrialState.RUNNING}
    again = StudySearch(Study(tmp_path, spec), tmp_path, 3).suggest("z")
    assert [one["number"] for one in again["together"]] == [4, 6], "a killed sweep goes on with those that are left"


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("batch_size=16,32", "batch_size is nothing that members of one pack may differ in"),
        ("ema_rate=null,0.1", "either all members of a pack act with an average"),
    ],
)
def test_trials_that_cannot_be_one_pack_are_trained_one_by_one_unless_it_is_asked_for(word: str, said: str) -> None:
    assert trials_together(sweep(word, "num_trials=2", "gpus=1")) == 1
    assert trials_together(sweep("lr=1e-3,1e-4", "gpus=1")) == 2
    assert trials_together(sweep("lr=1e-3,1e-4")) == 1
    with pytest.raises(SpecError, match=said):
        trials_together(sweep(word, "num_trials=2", "trials_together=2"))


def stops_the_best(rng: np.random.Generator, rungs: _Bracket) -> bool:
    """Play a sweep of 20 configurations, two at once, 3 seeds x 10 episodes an evaluation: is the best one stopped?"""
    finals = rng.beta(2, 2, 20)
    waiting, running = list(range(20)), []
    while waiting or running:
        while waiting and len(running) < 2:
            running.append([waiting.pop(0), 0])
        trial = running[rng.integers(len(running))]
        number, rung = trial
        rate = finals[number] * (0.5, 0.75, 0.9)[rung]
        states = rng.normal(0, 0.28 * np.sqrt(rate * (1 - rate)), 10)
        rates = np.clip(rate + states + rng.normal(0, 0.07, (3, 1)), 0, 1)
        value = float((rng.random((3, 10)) < rates).mean())
        stopped = rungs.on_result(keyed(number), (100, 300, 900)[rung], value) == TrialScheduler.STOP
        if stopped and number == finals.argmax():
            return True
        trial[1] += 1
        if stopped or trial[1] == 3:
            running.remove(trial)
    return False


def test_the_truly_best_configuration_is_stopped_in_less_than_a_tenth_of_simulated_sweeps() -> None:
    rng = np.random.default_rng(0)
    settings: dict[str, Any] = {"min_t": 100, "max_t": 2700, "reduction_factor": 3, "s": 0, "stop_last_trials": False}
    slack = SweepOptions.model_fields["asha_slack"].default
    assert np.mean([stops_the_best(rng, Rungs(slack, **settings)) for _ in range(300)]) < 0.1
    assert np.mean([stops_the_best(rng, _Bracket(**settings)) for _ in range(300)]) > 0.15, "Ray's own rule"


def test_slack_is_in_the_units_of_the_objective() -> None:
    rungs = Rungs(0.1, 100, 900, 2, 0, stop_last_trials=False)
    rungs.rate = False
    assert rungs.cutoff({0: 100.0, 1: 200.0, 2: 300.0}) is None, "too few to compare with"
    assert rungs.cutoff({0: 100.0, 1: 200.0, 2: 300.0, 3: 400.0}) == pytest.approx(250 - 30)
    rungs.rate = True
    assert rungs.cutoff({0: 0.1, 1: 0.2, 2: 0.3, 3: 0.4}) == pytest.approx(0.25 - 0.1)


def test_the_live_table_draws_those_that_run_and_the_best_and_reads_ended_trials_once(tmp_path, monkeypatch) -> None:
    spec = sweep("lr=interval(1e-5,1e-3)", "num_trials=30", "sampler=random")
    study = Study(tmp_path, spec)
    for number in range(20):
        study.ask()
        log = CsvLog(trial_folder(tmp_path, number) / "timing.csv")
        log.path.parent.mkdir(parents=True)
        for step in (100, 200):
            log.append(step, {"steps_per_sec": 50.0 + number, "data_wait": 0.0})
        if number < 18:
            success = number / 20
            study.report(number, 200, success)
            study.finish(number, TrialState.COMPLETE, success, metrics={"success": success, "return": 0.0})
    table = SweepTable(tmp_path, spec, study)
    table.limit = 6
    shown = drawn(table)
    assert [line.split()[0] for line in shown.splitlines()[1:7]] == ["14", "15", "16", "17", "18", "19"]
    assert shown.splitlines()[6].split()[-3:-1] == ["200/1000000", "69"]
    assert "and 14 more that have ended" in shown
    read: list[Path] = []
    monkeypatch.setattr(table_module, "read_last_row", lambda path: read.append(path) or {"step": 200.0})
    assert "and 14 more that have ended" in drawn(table)
    assert {path.parent.name for path in read} == {"0018", "0019"}
    table.limit = None
    assert len(drawn(table).splitlines()) > 20


def test_the_time_left_is_said_once_steps_were_done_and_not_before(tmp_path) -> None:
    spec = sweep("lr=interval(1e-5,1e-3)", "num_trials=4", "sampler=random")
    study = Study(tmp_path, spec)
    table = SweepTable(tmp_path, spec, study)
    number, _ = study.ask()
    assert re.search(r"0/4 trials x .* \d+:\d\d gone$", table.line())
    study.finish(number, TrialState.COMPLETE, 1.0, metrics={"success": 1.0, "return": 0.0})
    assert re.search(r"1/4 trials x .* \d+:\d\d gone, about \d+:\d\d left\n", table.line())


def drawn(table: SweepTable) -> str:
    """Return the table as text."""
    console = Console(width=160, record=True, file=io.StringIO())
    console.print(table)
    return console.export_text()


def test_the_last_row_of_a_csv_file_is_read_without_the_others_and_never_half_a_row(tmp_path) -> None:
    log = CsvLog(tmp_path / "timing.csv")
    for step in range(1, 6000):
        log.append(step, {"steps_per_sec": step / 7, "note": ""})
    assert read_last_row(log.path) == read_csv(log.path)[-1]
    with log.path.open("a") as file:
        file.write("6000,1")
    assert read_last_row(log.path)["step"] == 5999
    (tmp_path / "new.csv").write_text("step,steps_per_sec\n")
    assert read_last_row(tmp_path / "new.csv") == {}
    (tmp_path / "new.csv").write_text("")
    assert read_last_row(tmp_path / "new.csv") == {}


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


def test_a_sweep_is_not_extended_by_half_where_a_number_is_wrong(tmp_path) -> None:
    made = SweepDir.at(tmp_path / "sweep", sweep("lr=interval(1e-5,1e-3)", "num_trials=3"))
    with pytest.raises(SpecError, match="--add-steps -5: must be at least 1"):
        extend_sweep(made, add_steps=-5, add_trials=3, retry_failed=False, change_space=())
    assert made.spec().options.num_trials == 3


def test_a_trial_that_crashed_counts_until_its_configuration_was_tried_once_more(tmp_path) -> None:
    study = Study(tmp_path, sweep("lr=1e-4,1e-3,1e-2", "num_trials=3", "sampler=grid"))
    for number in range(3):
        study.ask()
        study.finish(number, TrialState.FAIL, None, error="it failed", crashed=number != 1)
    assert crashed(study.trials()) == [0, 2]
    study.enqueue(study.trials()[0].params, retry_of=0)
    study.ask()
    study.finish(3, TrialState.COMPLETE, 0.5, metrics={"return": 1.0})
    assert crashed(study.trials()) == [2]


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
    scheduler = StudyAsha(longer, tmp_path, max_t=600, grace_steps=100, reduction_factor=2, slack=0.1)
    trial = SimpleNamespace(trial_id="x", config={"number": 3})
    for number in (5, 6, 7, 8):
        scheduler._rungs.on_result(keyed(number), 100, 0.95)
    assert scheduler.on_trial_result(None, trial, {"step": 100, "objective": 0.7}) == TrialScheduler.CONTINUE
    for number in (5, 6, 7, 8):
        scheduler._rungs.on_result(keyed(number), 400, 0.95)
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


# ---- nothing is trained twice ----


@pytest.mark.parametrize(
    "values",
    [
        "grad_clip=1,1.0",
        "batch_size=128,128.0",
        "hidden_dims=[64,64],[64,64.0]",
        "lr=1e-3,0.001",
        "lr=1e-3,1.0e-3,1e-4",
        "use_proprio=true,True",
        "flow_steps=5,5.0",
    ],
)
def test_equal_values_are_refused_as_repeated_however_they_are_written(values) -> None:
    with pytest.raises(SpecError, match=rf"{values.split('=')[0]}=.*: a value is repeated"):
        sweep(values, "lr=interval(1e-5,1e-3)" if not values.startswith("lr") else "batch_size=16,32")


def test_values_are_held_as_the_run_holds_them() -> None:
    spec = sweep("grad_clip=1,2.5", "batch_size=16.0,32", "hidden_dims=[64,64.0],[32]")
    assert [list(item.values) for item in spec.dimensions.values()] == [[1.0, 2.5], [16, 32], [[64, 64], [32]]]


@pytest.mark.parametrize("sampler", ["tpe", "random", "qmc", "grid"])
def test_a_space_of_few_configurations_has_each_tried_once_by_every_sampler(tmp_path, caplog, sampler) -> None:
    caplog.set_level("INFO")
    words = ("hidden_dims=[16],[32],[64]", "batch_size=interval(7,10)", f"sampler={sampler}", "num_trials=50")
    spec = sweep(*words)
    assert spec.options.num_trials == 12
    assert "the space holds 12 configurations: num_trials=12, not 50" in caplog.text
    proposals = []
    for _ in range(12):
        number, parameters = Study(tmp_path, spec).ask()  # opened again each time, as a resumed sweep does
        proposals.append((tuple(parameters["hidden_dims"]), parameters["batch_size"]))
        Study(tmp_path, spec).finish(number, TrialState.COMPLETE, float(parameters["hidden_dims"] == [16]))
    assert len(set(proposals)) == 12


def test_a_good_choice_is_not_proposed_over_and_over_while_others_train(tmp_path) -> None:
    spec = sweep("hidden_dims=[16],[32],[64],[128],[256],[512]", "batch_size=8,16", "num_trials=12")
    study = Study(tmp_path, spec)
    running: list[int] = []
    proposals = []
    for _ in range(12):
        number, parameters = study.ask()
        proposals.append(str(parameters))
        running.append(number)
        if len(running) == 3:
            study.finish(running.pop(0), TrialState.COMPLETE, 1.0 if "[128]" in proposals[-1] else 0.0)
    assert len(set(proposals)) == 12


def test_a_failed_configuration_that_is_tried_once_more_keeps_its_parameters(tmp_path) -> None:
    study = Study(tmp_path, sweep("batch_size=8,16,32", "num_trials=3"))
    number, parameters = study.ask()
    study.finish(number, TrialState.FAIL, None)
    study.enqueue(parameters, retry_of=number)
    assert study.ask() == (1, parameters)
    assert study.ask()[1] not in (parameters,)


# ---- samplers ----


def test_lists_of_rising_numbers_are_ordered_for_the_sampler_and_read_as_what_they_are(tmp_path) -> None:
    spec = sweep("batch_size=8,16,64", "hidden_dims=[16],[32]", "lr=1e-3,1e-4", "num_trials=6", "sampler=random")
    study = Study(tmp_path, spec)
    number, parameters = study.ask()
    assert parameters["batch_size"] in (8, 16, 64)
    (held,) = study._study.get_trials(deepcopy=False)
    assert type(held.distributions["batch_size"]).__name__ == "IntDistribution"
    assert type(held.distributions["lr"]).__name__ == "CategoricalDistribution", "not written in order"
    assert study.trials()[0].params == parameters
    assert study.parameters(number) == parameters
    study.enqueue({"batch_size": 64, "hidden_dims": [32], "lr": 1e-4})
    assert study.ask() == (1, {"batch_size": 64, "hidden_dims": [32], "lr": 1e-4})


def test_a_sweep_of_an_earlier_version_keeps_its_lists_as_they_were(tmp_path) -> None:
    spec = sweep("batch_size=8,16,64", "num_trials=3").model_copy(update={"ordered": False})
    _, parameters = Study(tmp_path, spec).ask()
    assert Study(tmp_path, spec).trials()[0].params == parameters


@pytest.mark.parametrize("sampler", ["tpe", "random", "qmc", "gp", "nsga2", "cmaes"])
def test_sweep_seed_moves_every_sampler(tmp_path, sampler) -> None:
    found = []
    for seed in (0, 1, 0):
        folder = tmp_path / f"{len(found)}"
        folder.mkdir()
        words = ("lr=interval(1e-5,1e-3)", "weight_decay=interval(1e-5,1e-1)")
        study = Study(folder, sweep(*words, "num_trials=8", f"sampler={sampler}", f"sweep_seed={seed}"))
        rates = []
        for _ in range(6):
            number, parameters = study.ask()
            rates.append(parameters["lr"])
            study.finish(number, TrialState.COMPLETE, -abs(parameters["lr"] - 1e-4))
        found.append(rates)
    assert found[0] == found[2]
    assert all(one != other for one, other in zip(found[0][1:], found[1][1:], strict=True))


def test_cmaes_comes_closer_than_chance_does_with_a_sampler_for_each_proposal(tmp_path) -> None:
    words = ("lr=interval(1e-6,1e-1)", "weight_decay=tag(linear,interval(0,0.5))", "num_trials=24")
    late = {}
    for sampler in ("random", "cmaes"):
        folder = tmp_path / sampler
        folder.mkdir()
        study, losses = Study(folder, sweep(*words, f"sampler={sampler}")), []
        for _ in range(24):
            number, parameters = study.ask()
            losses.append((np.log10(parameters["lr"]) + 3.3) ** 2 + (6 * parameters["weight_decay"] - 1.8) ** 2)
            study.finish(number, TrialState.COMPLETE, -losses[-1])
        late[sampler] = np.mean(losses[12:])
    assert late["cmaes"] < 0.5 * late["random"]


def test_cmaes_is_refused_what_it_does_not_search() -> None:
    with pytest.raises(SpecError, match="hidden_dims is a list without an order"):
        sweep("sampler=cmaes", "lr=interval(1e-5,1e-3)", "hidden_dims=[64],[128]")
    with pytest.raises(SpecError, match="two keys or more"):
        sweep("sampler=cmaes", "lr=interval(1e-5,1e-3)")


def test_a_diverged_trial_tells_the_sampler_that_it_was_bad(tmp_path) -> None:
    spec = sweep("lr=interval(1e-5,1e-1)", "num_trials=40")
    study = Study(tmp_path, spec)
    proposals = []
    for _ in range(40):
        number, parameters = study.ask()
        proposals.append(parameters["lr"])
        if parameters["lr"] > 1e-3:
            study.report(number, 100, 0.9)
            study.finish(number, TrialState.PRUNED, None, error="the loss is no number", diverged=True)
        else:
            study.finish(number, TrialState.COMPLETE, 0.5, metrics={"success": 0.5})
    learnt = proposals[spec.startup :]
    assert sum(rate > 1e-3 for rate in learnt) < 0.25 * len(learnt), "half of them by chance"
    bad = next(trial for trial in study.trials() if "error" in trial.user_attrs)
    assert failed(bad)
    assert state_name(bad) == "fail"


def test_startup_trials_do_not_come_again_when_a_sweep_is_given_more(tmp_path) -> None:
    spec = sweep("lr=interval(1e-5,1e-3)", "num_trials=8")
    more = spec.model_copy(update={"options": spec.options.model_copy(update={"num_trials": 400})})
    assert more.startup == spec.startup == 4
    samplers = [NothingTwice(more, number, Known())._sampler(0) for number in (3, 4, 99)]
    assert [isinstance(sampler, TPESampler) for sampler in samplers] == [False, True, True]


def test_own_points_come_first_then_the_default(tmp_path) -> None:
    spec = sweep("lr=interval(1e-5,1e-3)", "batch_size=8,16,256", "points=[{lr:1e-5,batch_size:8},{lr:2e-5}]")
    study = Study(tmp_path, spec)
    begin(study, tmp_path)
    begin(study, tmp_path)  # a resumed sweep has them already
    found = [study.ask()[1] for _ in range(4)]
    assert found[0] == {"lr": 1e-5, "batch_size": 8}
    assert found[1]["lr"] == 2e-5, "what a point leaves out is the sampler's"
    assert found[2] == {"lr": 3e-4, "batch_size": 256}
    assert found[3]["lr"] not in (1e-5, 2e-5, 3e-4)


def test_a_sweep_begins_with_what_an_earlier_one_learnt(tmp_path) -> None:
    words = ("lr=interval(1e-5,1e-1)", "num_trials=30", "with_default=false")
    earlier = SweepDir.at(tmp_path / "earlier", sweep(*words))
    study = Study(earlier.path, earlier.spec())
    for _ in range(30):
        number, parameters = study.ask()
        study.finish(number, TrialState.COMPLETE, -abs(np.log10(parameters["lr"]) + 4), metrics={"success": 0.0})
    (tmp_path / "now").mkdir()
    new = Study(tmp_path / "now", sweep(*words, f"warm_start={earlier.path}", "sweep_seed=5"))
    begin(new, tmp_path / "now")
    assert new.trials() == []
    proposals = [np.log10(new.ask()[1]["lr"]) for _ in range(4)]
    assert np.abs(np.array(proposals) + 4).mean() < 1.0, "by chance it is 1.1"
    assert new.left()


def test_a_spent_budget_begins_no_trial(tmp_path) -> None:
    def budget(*words: str) -> Budget:
        study = Study(tmp_path, sweep("lr=interval(1e-5,1e-3)", "num_trials=20", "sampler=random", *words))
        while len(study.trials()) < 5:
            number, _ = study.ask()
            value = (0.5, 0.9, 0.1, 0.2, 0.3)[number]
            study.finish(number, TrialState.COMPLETE, value, metrics={"success": value})
        return Budget(study, {"driven_seconds": 7200.0})

    assert not budget().spent()
    assert budget("max_hours=2").spent()
    assert not budget("max_hours=3").spent()
    assert budget("seeds=[0,1]", "max_seed_runs=11").spent()
    assert not budget("seeds=[0,1]", "max_seed_runs=12").spent()
    assert budget("patience=3").spent()
    assert not budget("patience=4").spent()


@pytest.mark.parametrize("algo", algorithms.names())
def test_every_method_has_a_search_space_that_is_a_sweep(algo) -> None:
    plain, sweeps = split_sweeps(parse((f"space={algo}", "env_name=cube-single-play-v0")))
    spec = build_sweep(flat_values(plain), sweeps)
    assert spec.run["algo"] == algo
    assert spec.dimensions


def test_every_trial_is_filmed_only_where_that_is_asked_for() -> None:
    words = ("lr=interval(1e-5,1e-3)", "video_episodes=2")
    assert trial_spec(sweep(*words), {"lr": 1e-4}).evaluation.video_episodes == 0
    assert trial_spec(sweep(*words, "trial_videos=true"), {"lr": 1e-4}).evaluation.video_episodes == 2
    unfilmed = sweep("lr=interval(1e-5,1e-3)", "trial_videos=true")
    with pytest.raises(SpecError, match="trial_videos=true changes nothing without video_episodes"):
        check_given(unfilmed, ["trial_videos"])
