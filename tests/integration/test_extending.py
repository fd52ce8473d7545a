"""Give finished work more to do: steps, trials, another go at what failed, other intervals, a fork."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import mlflow
import pytest
import torch
from optuna.trial import TrialState
from tests.integration.breaking import assert_each_metric_once, only
from tests.integration.commands import SMALL, run
from tests.integration.test_bad_input import refused

from understudy.loading import load_policy
from understudy.runs.directory import RunDir, read_csv
from understudy.sweeping.directory import SweepDir
from understudy.sweeping.study import Study, failed, state_name

OFF = ("tracking_uri=none",)


def weights(run: Path) -> list[dict[str, torch.Tensor]]:
    policy = load_policy(run)
    return [policy.weights(index) for index in range(len(policy))]


def equal(one: Path, two: Path) -> bool:
    pairs = zip(weights(one), weights(two), strict=True)
    return all(torch.equal(a[name], b[name]) for a, b in pairs for name in a)


@pytest.mark.parametrize("seeds", ["0", "[0,1]"])
def test_a_finished_run_with_steps_added_equals_one_that_had_them_from_the_start(hopper_data, say, tmp_path, seeds):
    words = (*SMALL, "algo=ddpm_bc", f"seeds={seeds}" if "[" in seeds else f"seed={seeds}", "log_interval=10")
    assert say("train", *words, *OFF, "training_steps=60", "save_dir=long").code == 0
    assert say("train", *words, "training_steps=40", "save_dir=short").code == 0
    short = only(tmp_path / "short")
    run_id = RunDir(short).state()["run_id"]
    said = say("resume", str(short), "--add-steps", "20")
    assert said.code == 0, said
    assert equal(short, only(tmp_path / "long"))
    folder = short if "[" not in seeds else short / "sd001"
    assert [row["step"] for row in read_csv(folder / "train.csv")] == [10, 20, 30, 40, 50, 60]
    assert [row["step"] for row in read_csv(folder / "eval.csv")] == [40, 60]
    assert RunDir(short).state()["run_id"] == run_id  # its curve goes on in the same MLflow run
    assert json.loads((short / "flags.json").read_text())["training_steps"] == 60


def test_a_fork_goes_on_with_other_settings_and_tells_where_it_came_from(hopper_data, say, tmp_path) -> None:
    assert say("train", *SMALL, "training_steps=40", "save_interval=20", "save_dir=runs", "lr=1e-3").code == 0
    parent = only(tmp_path / "runs")
    said = say("train", "--fork", str(parent), "training_steps=60", "save_dir=forks")
    assert said.code == 0, said
    same = only(tmp_path / "forks")
    assert say("train", *SMALL, "training_steps=60", "save_dir=whole", "lr=1e-3", *OFF).code == 0
    assert equal(same, only(tmp_path / "whole"))  # nothing but the end was changed

    said = say("train", "--fork", str(parent / "checkpoint_20.pt"), "lr=1e-5", "training_steps=30", "save_dir=slow")
    assert said.code == 0, said
    slow = only(tmp_path / "slow")
    state = RunDir(slow).state()
    assert state["lineage"]["forked_at_step"] == 20
    assert state["lineage"]["forked_from_run"] == RunDir(parent).state()["run_id"]
    store = mlflow.MlflowClient(f"sqlite:///{tmp_path}/slow/mlflow.db")
    tags = store.get_run(state["run_id"]).data.tags
    assert tags["forked_from"] == str(parent / "checkpoint_20.pt")
    assert tags["forked_at_step"] == "20"
    assert not equal(slow, parent)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("training_steps=40",), "the fork begins at step 40; give more"),
        (("training_steps=60", "seed=3"), "a fork keeps its seeds"),
        (("training_steps=60", "lrr=1"), "unknown key 'lrr'"),
        (("training_steps=60", "hidden_dims=[16]"), "of another network"),
    ],
)
def test_a_fork_that_cannot_be_is_refused_in_one_line(hopper_data, say, tmp_path, words, said) -> None:
    assert say("train", *SMALL, *OFF, "training_steps=40", "save_dir=runs").code == 0
    refused(say("train", "--fork", str(only(tmp_path / "runs")), *words, "save_dir=forks"), said)


SWEEP = ("sweep", *SMALL, *OFF, "training_steps=40", "eval_interval=20", "register_as=none", "final_episodes=2")


def study_of(root: Path) -> tuple[Path, Study]:
    sweep = only(root, "sweep.json")
    return sweep, Study(sweep, SweepDir(sweep).spec())


@pytest.mark.slow
def test_a_finished_sweep_tries_more_in_a_wider_space_and_keeps_what_it_had(hopper_data, say, tmp_path) -> None:
    words = ("lr=interval(1e-4,1e-3)", "num_trials=2", "scheduler=none", "sampler=random", "save_dir=runs")
    run(*SWEEP, *words, cwd=tmp_path)
    sweep, study = study_of(tmp_path / "runs")
    before = [(trial.params, trial.value) for trial in study.trials()]
    run("resume", str(sweep), "--add-trials", "2", "--change-space", "lr=interval(2e-3,1e-2)", cwd=tmp_path)
    trials = study_of(tmp_path / "runs")[1].trials()
    assert [(trial.params, trial.value) for trial in trials[:2]] == before
    assert len(trials) == 4
    assert all(trial.state == TrialState.COMPLETE and trial.params["lr"] >= 2e-3 for trial in trials[2:])
    for change, why in (
        ("lr=1e-3,1e-4", "Optuna refuses another list"),
        ("lr=tag(linear,interval(1e-3,1e-2))", "the scale cannot change"),
        ("weight_decay=interval(1e-3,1e-2)", "were not searched for it"),
        ("lr=1e-3", "give values to search"),
    ):
        refused(say("resume", str(sweep), "--change-space", change), why)
    refused(say("resume", str(sweep), "--add-steps", "-5"), "--add-steps -5: must be at least 1")
    run("resume", str(sweep / "trials" / "0001"), "--add-steps", "10", cwd=tmp_path)
    assert RunDir(sweep / "trials" / "0001").state()["step"] == 50
    refused(say("resume", str(sweep), "--add-steps", "5"), "one trial was given more alone")


@pytest.mark.slow
def test_a_finished_sweep_with_steps_added_equals_one_that_had_them_from_the_start(hopper_data, say, tmp_path) -> None:
    tracked = [word for word in SWEEP if word not in (*OFF, "register_as=none")]
    words = ("lr=1e-3,1e-4", "sampler=grid", "scheduler=none", "log_interval=10")
    run(*SWEEP, *words, "training_steps=60", "save_dir=long", cwd=tmp_path)
    run(*tracked, *words, "save_dir=short", cwd=tmp_path)
    (short, first), (long, _) = (study_of(tmp_path / name) for name in ("short", "long"))
    before = [(trial.state, trial.value) for trial in first.trials()]
    said = run("resume", str(short), "--add-steps", "20", cwd=tmp_path)
    assert "2 configurations: 2 complete" in said

    for number in ("0000", "0001"):
        mine, other = short / "trials" / number, long / "trials" / number
        assert equal(mine, other)
        for file in ("train.csv", "eval.csv"):
            assert (mine / file).read_text() == (other / file).read_text()
    rows = [[{k: v for k, v in row.items() if k != "steps_per_sec"} for row in table(x)] for x in (short, long)]
    assert rows[0] == rows[1]
    best = json.loads((short / "best.json").read_text())
    assert best["training_steps"] == 60
    assert best["metrics"] == json.loads((long / "best.json").read_text())["metrics"]
    assert [row["step"] for row in read_csv(short / "best_eval.csv")] == [80, 120]
    assert best["model"].endswith("/2")
    assert [(trial.state, trial.value) for trial in first.trials()] == before
    assert_each_metric_once(tmp_path / "short" / "mlflow.db", tmp_path / "short" / "mlflow.db")
    assert RunDir(short / "trials" / "0000").state()["resumed_at"] == [40]
    (attached,) = (tmp_path / "short" / "mlartifacts").glob("*/artifacts/report.html")
    assert attached.read_bytes() == (short / "report.html").read_bytes(), "of the sweep as it is now"
    assert "training_steps=60" in attached.read_text()


def table(sweep: Path) -> list[dict[str, str]]:
    with open(sweep / "summary.csv", newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.slow
def test_a_diverging_trial_fails_with_its_step_named_and_is_tried_once_more_when_asked_to(
    hopper_data, say, tmp_path
) -> None:
    words = ("lr=1e-3,9.9", "weight_decay=0.3", "normalize=none", "sampler=grid", "scheduler=none", "save_dir=runs")
    words = (*words, "with_default=false")
    run(*SWEEP, *words, "training_steps=500", "log_interval=1", cwd=tmp_path)
    sweep, study = study_of(tmp_path / "runs")
    assert sorted(state_name(trial) for trial in study.trials()) == ["complete", "fail"]
    rows = {float(row["lr"]): row for row in table(sweep)}
    assert (rows[1e-3]["state"], rows[9.9]["state"]) == ("complete", "fail")
    assert "step" in rows[9.9]["error"]
    run("resume", str(sweep), "--retry-failed", cwd=tmp_path)
    trials = study_of(tmp_path / "runs")[1].trials()
    diverged = next(trial for trial in trials if failed(trial))
    assert len(trials) == 3
    assert trials[2].params == diverged.params
    assert trials[2].user_attrs["retry_of"] == diverged.number
    refused(say("resume", str(sweep), "--add-trials", "5"), "the space holds 2 configurations")
