"""What a run leaves behind: its files, their copies in MLflow, and what stays when the loss is no longer a number."""

from __future__ import annotations

import json

import pytest
from tests.integration.breaking import only
from tests.integration.commands import SMALL
from tests.integration.test_bad_input import refused

import understudy
from understudy import load_episodes
from understudy.checkpoints import load
from understudy.loading import load_policy
from understudy.runs.directory import read_csv
from understudy.runs.episodes import metrics_of, rows_where

DIVERGING = (
    *("train", *SMALL, "lr=9.9", "weight_decay=0.3", "normalize=none", "tracking_uri=none", "save_dir=runs"),
    *("training_steps=500", "log_interval=1", "save_interval=5", "checkpoint_seconds=0", "eval_episodes=0"),
)
"""Adam's step of 9.9 with a decay of 0.3 nearly triples the weights each time."""


def test_save_interval_of_minus_1_leaves_the_final_model_as_the_only_one_and_all_files_are_artifacts(
    hopper_data, say, tmp_path
) -> None:
    words = ("training_steps=40", "log_interval=10", "eval_interval=20", "save_interval=-1")
    assert say("train", *SMALL, *words, "save_dir=runs").code == 0
    run = only(tmp_path / "runs")
    assert [path.name for path in run.rglob("*.pt")] == ["final_model.pt"]
    files = {"flags.json", "train.csv", "eval.csv", "episodes.arrow", "final_model.pt", "tracking_url.txt"}
    assert files <= {path.name for path in run.iterdir()}
    assert [row["step"] for row in read_csv(run / "train.csv")] == [10, 20, 30, 40]
    assert [row["step"] for row in read_csv(run / "eval.csv")] == [20, 40]

    state = json.loads((run / "run.json").read_text())
    artifacts = tmp_path / "runs" / "mlartifacts" / state["run_id"] / "artifacts"
    for name in files:
        assert (artifacts / name).read_bytes() == (run / name).read_bytes()
    assert state["run_id"] in (run / "tracking_url.txt").read_text()

    import mlflow

    held = mlflow.MlflowClient(f"sqlite:///{tmp_path}/runs/mlflow.db").get_run(state["run_id"])
    assert held.data.tags["dataset_hash"] == state["dataset_hash"]
    assert held.data.tags["understudy.version"] == understudy.__version__
    assert {"algorithm", "environment", "understudy.host"} <= set(held.data.tags)
    assert held.inputs is not None
    (dataset,) = held.inputs.dataset_inputs
    assert (dataset.dataset.name, dataset.dataset.digest) == ("hopper-medium-v2", state["dataset_hash"])

    assert run.name in say("runs", "list", "--save_dir", "runs").out
    shown = say("runs", "show", state["run_id"][:8], "--save_dir", "runs").yaml
    assert shown["name"] == f"flow_bc {run.name}"
    assert files <= set(shown["artifacts"])
    assert "no registered models" in say("models", "list", "--save_dir", "runs").out


def test_what_an_evaluation_prints_is_computed_from_the_table_of_its_episodes(hopper_data, say, tmp_path) -> None:
    words = ("training_steps=40", "eval_interval=20", "seeds=[0,1]", "eval_episodes=3", "tracking_uri=none")
    assert say("train", *SMALL, *words, "save_dir=runs").code == 0
    run = only(tmp_path / "runs")
    table = load_episodes(run)
    assert table.num_rows == 2 * 2 * 3
    for row in read_csv(run / "eval.csv"):
        found = metrics_of(rows_where(table, step=int(row["step"])))
        assert {key: row[key] for key in found} == pytest.approx(found, rel=1e-12)
        assert "normalized_return_low" in found
    assert set(table["setting"].to_pylist()) == {"flow_steps=10, num_samples=32"}
    assert set(table["reset_seed"].to_pylist()) == {1_000_000, 1_000_001, 1_000_002}

    listed = say("runs", "episodes", str(run)).out
    assert [line.split()[:3] for line in listed.splitlines()[1:]] == [["-", "training", step] for step in ("20", "40")]
    assert len(say("runs", "episodes", str(run), "--step", "40").out.splitlines()) == 1 + 6
    refused(say("runs", "episodes", str(run), "--step", "30"), "--step 30: there are evaluations at 20, 40")


def test_a_loss_that_is_no_number_ends_the_run_and_the_last_good_checkpoint_stays_and_loads(
    hopper_data, say, tmp_path
) -> None:
    said = say(*DIVERGING)
    refused(said, "the loss of seed 0 stopped being finite at step ", "lower lr", code=1)
    step = int(said.err.split("at step ")[1].split(":")[0])
    assert step > 6
    run = only(tmp_path / "runs")
    state = json.loads((run / "run.json").read_text())
    assert state["status"] == "failed"
    assert f"at step {step}" in state["error"]
    assert state["step"] == step - 1
    assert [row["step"] for row in read_csv(run / "train.csv")] == list(range(1, step))

    assert load(run / "resume" / f"step_{step - 1}.pt")["step"] == step - 1
    newest = run / f"checkpoint_{(step - 1) // 5 * 5}.pt"
    weights = load(newest)["weights"]
    assert all(tensor.isfinite().all() for tensor in weights.values())
    assert len(load_policy(newest)) == 1
    assert not (run / "final_model.pt").exists()
    refused(say("evaluate", str(run)), "holds no final_model.pt", str(newest))

    again = say("resume", str(run))
    refused(again, f"stopped being finite at step {step}", code=1)
    assert f"it failed: the loss of seed 0 stopped being finite at step {step}" in again.out
    assert f"going on from step {step - 1}" in again.out
