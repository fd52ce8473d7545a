"""Give finished work more to do: steps, trials, another go at what failed, other intervals, a fork."""

from __future__ import annotations

import json
from pathlib import Path

import mlflow
import pytest
import torch
from optuna.trial import TrialState
from tests.integration.commands import SMALL, run
from tests.integration.test_bad_input import refused
from tests.integration.test_bad_input import say as say
from tests.integration.test_run_directory import only_run

from understudy.loading import load_policy
from understudy.run_dir import RunDir, read_csv
from understudy.sweeping.run import SweepDir
from understudy.sweeping.study import Study

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
    short = only_run(tmp_path / "short")
    run_id = RunDir(short).state()["run_id"]
    said = say("resume", str(short), "--add-steps", "20")
    assert said.code == 0, said
    assert equal(short, only_run(tmp_path / "long"))
    folder = short if "[" not in seeds else short / "sd001"
    assert [row["step"] for row in read_csv(folder / "train.csv")] == [10, 20, 30, 40, 50, 60]
    assert [row["step"] for row in read_csv(folder / "eval.csv")] == [40, 60]
    assert RunDir(short).state()["run_id"] == run_id  # its curve goes on in the same MLflow run
    assert json.loads((short / "flags.json").read_text())["training_steps"] == 60


def test_a_fork_goes_on_with_other_settings_and_tells_where_it_came_from(hopper_data, say, tmp_path) -> None:
    assert say("train", *SMALL, "training_steps=40", "save_interval=20", "save_dir=runs", "lr=1e-3").code == 0
    parent = only_run(tmp_path / "runs")
    said = say("train", "--fork", str(parent), "training_steps=60", "save_dir=forks")
    assert said.code == 0, said
    same = only_run(tmp_path / "forks")
    assert say("train", *SMALL, "training_steps=60", "save_dir=whole", "lr=1e-3", *OFF).code == 0
    assert equal(same, only_run(tmp_path / "whole"))  # nothing but the end was changed

    said = say("train", "--fork", str(parent / "checkpoint_20.pt"), "lr=1e-5", "training_steps=30", "save_dir=slow")
    assert said.code == 0, said
    slow = only_run(tmp_path / "slow")
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
    code = 1 if "network" in said else 2
    refused(say("train", "--fork", str(only_run(tmp_path / "runs")), *words, "save_dir=forks"), said, code=code)


SWEEP = ("sweep", *SMALL, *OFF, "training_steps=40", "eval_interval=20", "register_as=none", "final_episodes=2")


def study_of(root: Path) -> tuple[Path, Study]:
    sweep = next(root.rglob("sweep.json")).parent
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
    refused(say("resume", str(sweep), "--add-steps", "5"), "give one trial's folder")
    run("resume", str(sweep / "trials" / "0001"), "--add-steps", "10", cwd=tmp_path)
    assert RunDir(sweep / "trials" / "0001").state()["step"] == 50


@pytest.mark.slow
def test_failed_trials_are_tried_once_more_when_asked_to(hopper_data, say, tmp_path) -> None:
    words = ("lr=1e-3,9.9", "weight_decay=0.3", "normalize=none", "sampler=grid", "scheduler=none", "save_dir=runs")
    run(*SWEEP, *words, "training_steps=500", "log_interval=1", cwd=tmp_path)
    sweep, study = study_of(tmp_path / "runs")
    assert sorted(trial.state.name for trial in study.trials()) == ["COMPLETE", "FAIL"]
    run("resume", str(sweep), "--retry-failed", cwd=tmp_path)
    trials = study_of(tmp_path / "runs")[1].trials()
    failed = next(trial for trial in trials if trial.state == TrialState.FAIL)
    assert len(trials) == 3
    assert trials[2].params == failed.params
    assert trials[2].user_attrs["retry_of"] == failed.number
    refused(say("resume", str(sweep), "--add-trials", "5"), "the space holds 2 configurations")
