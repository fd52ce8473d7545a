"""Held-out episodes and histories through the real command: trained, validated, evaluated again without the data."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from tests.integration.breaking import only
from tests.integration.commands import SMALL
from tests.integration.test_bad_input import refused

import understudy
from understudy.loading import load_policy
from understudy.runs.directory import read_csv

LOSS = "validation/actor_loss"


def test_a_run_reports_the_loss_on_held_out_episodes_at_each_evaluation(hopper_data, say, tmp_path) -> None:
    words = ("algo=bc", "validation_fraction=0.3", "seeds=[0,1]", "training_steps=300", "eval_interval=100")
    assert say("train", *SMALL, *words, "save_dir=runs", "tracking_uri=none").code == 0
    run = only(tmp_path / "runs")
    for folder in ("sd000", "sd001", "."):
        rows = read_csv(run / folder / "eval.csv")
        assert [row["step"] for row in rows] == [100, 200, 300]
        assert all({LOSS, "return"} <= set(row) for row in rows)
    both = [read_csv(run / folder / "eval.csv")[-1][LOSS] for folder in ("sd000", "sd001")]
    assert read_csv(run / "eval.csv")[-1][LOSS] == pytest.approx(sum(both) / 2)
    assert len(set(both)) == 2


def test_held_out_episodes_are_reported_without_an_environment_too(hopper_data, say, tmp_path) -> None:
    words = ("algo=bc", "validation_fraction=0.3", "training_steps=200", "eval_interval=100", "eval_episodes=0")
    assert say("train", *SMALL, *words, "save_dir=runs", "tracking_uri=none").code == 0
    rows = read_csv(only(tmp_path / "runs") / "eval.csv")
    assert [row["step"] for row in rows] == [100, 200]
    assert all(LOSS in row and "return" not in row for row in rows)


def test_a_policy_that_sees_a_history_is_evaluated_again_where_its_data_are_not(hopper_data, say, tmp_path) -> None:
    words = ("algo=bc", "obs_horizon=3", "training_steps=40", "eval_episodes=3")
    said = say("train", *SMALL, *words, "save_dir=runs", "tracking_uri=none")
    assert said.code == 0
    run = only(tmp_path / "runs")
    policy = load_policy(run)
    assert policy.algorithm.observation_shape == (33,)
    assert policy.environment == {"env_name": "hopper-medium-v2", "environment": None}
    (tmp_path / "empty").mkdir()
    again = say("evaluate", str(run), "eval_episodes=3", f"data_dir={tmp_path / 'empty'}")
    assert again.code == 0
    figures = [line for line in said.out.splitlines() if line.startswith("normalized_return")]
    assert figures
    assert figures[0] in again.out


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("filter_key=train",), "has no filter key 'train'"),
        (("validation_fraction=1",), "validation_fraction=1: must be less than 1"),
        (("validation_fraction=0.1", "validation_filter_key=valid"), "give one"),
        (("goal_relabelling=futur",), "goal_relabelling='futur': no such choice"),
        (("goal_relabelling=final",), "tells no goal"),
        (("obs_horizon=0",), "obs_horizon=0: must be greater than or equal to 1"),
    ],
)
def test_settings_of_the_data_that_cannot_be_are_refused_before_anything_starts(
    hopper_data, say, tmp_path, words, said
) -> None:
    refused(say("train", *SMALL, *words, "save_dir=runs"), said)
    assert not Path(tmp_path / "runs").exists()


def test_validation_changes_nothing_in_the_training(hopper_data, say, tmp_path) -> None:
    """The held-out episodes are the same, so the weights must be."""
    for folder, every in (("often", 20), ("once", 40)):
        words = ("validation_fraction=0.3", "training_steps=40", f"eval_interval={every}", "eval_episodes=0")
        assert say("train", *SMALL, *words, f"save_dir={folder}", "tracking_uri=none").code == 0
    one, two = (load_policy(only(tmp_path / folder)).weights() for folder in ("often", "once"))
    assert all(torch.equal(one[name], two[name]) for name in one)


# ---- data that name no environment ----


@pytest.fixture(scope="module")
def recordings(tmp_path_factory) -> str:
    """Write two datasets of two tasks that name no environment; return their folder as a key."""
    folder = tmp_path_factory.mktemp("recordings")
    rng = np.random.default_rng(0)
    for name in ("mine", "others"):
        episodes = [
            {
                "observations": rng.normal(size=(9, 3)),
                "actions": rng.normal(size=(8, 2)) + np.array([0, 5 * (number % 2)]),
                "language": ("lift", "push")[number % 2],
            }
            for number in range(10)
        ]
        understudy.write_dataset(name, episodes, data_dir=folder)
    return f"data_dir={folder}"


OWN = ("algo=bc", "env_name=mine", "hidden_dims=[8]", "training_steps=4", "log_interval=2", "batch_size=8")


def test_a_policy_without_a_simulator_is_measured_on_held_out_episodes(recordings, done, tmp_path) -> None:
    words = (*OWN, recordings, "validation_fraction=0.4", "seeds=[0,1]", "save_dir=runs")
    said = done("train", *words)
    assert "validation/mse" in said
    run = only(tmp_path / "runs")
    last = read_csv(run / "eval.csv")[-1]
    again = done("evaluate", str(run), recordings)
    table = {line.split()[0]: line.split()[1:] for line in again.splitlines() if len(line.split()) > 3}
    assert float(table["mse"][0]) == pytest.approx(last["validation/mse"], rel=1e-3)
    assert {"action_mse", "action_mse_0", "action_mse_1", "action_mse/lift", "action_mse/push"} <= set(table)
    assert len(table["action_mse"]) == 3  # the mean, and each seed
    by_dim = [float(table[f"action_mse_{dim}"][0]) for dim in (0, 1)]
    assert float(table["action_mse"][0]) == pytest.approx(sum(by_dim) / 2, rel=1e-3)
    listed = done("runs", "list", "--save_dir", "runs")
    assert f"validation/mse {last['validation/mse']:.3f}" in listed


def test_a_policy_without_held_out_episodes_is_measured_on_other_data(recordings, done, say, tmp_path) -> None:
    said = done("train", *OWN, recordings, "save_dir=runs", "tracking_uri=none")
    assert "note: mine: its data name no environment" in said
    run = str(only(tmp_path / "runs"))
    refused(say("evaluate", run, recordings), "trained on every episode")
    assert "action_mse" in done("evaluate", run, recordings, "env_name=others")


def test_asking_for_episodes_where_there_is_no_environment_is_refused(recordings, say) -> None:
    refused(say("train", *OWN, recordings, "eval_episodes=2", "save_dir=runs"), "eval_episodes=0")
