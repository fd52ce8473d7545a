"""What a person finds in MLflow: a run's and a sweep's name, description, state, metrics at their steps, and models."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pytest
from optuna.trial import TrialState
from tests.integration.breaking import only
from tests.integration.commands import SMALL, run
from tests.unit.test_sweeping import sweep

from understudy import tracking
from understudy.loading import load_policy
from understudy.runs.directory import RunDir
from understudy.sweeping.best import BEST_CSV, BestPolicy, append_best
from understudy.sweeping.directory import SweepDir
from understudy.sweeping.noting import close_stopped, note_sweep, send_best, track_sweep
from understudy.sweeping.outcomes import TrialOutcome
from understudy.sweeping.study import Study
from understudy.sweeping.trial import trial_folder, trial_spec
from understudy.tracking.client import client

FEW = (*SMALL, "algo=bc", "log_interval=10", "save_interval=-1")


def pages(path: Path) -> tuple[Any, Any]:
    """Return the store and the run that a run's or a sweep's folder is tracked in."""
    state = RunDir(path).state()
    uri = next(place for place in path.parents if (place / "mlflow.db").is_file())
    store = client(tracking.default_tracking_uri(uri))
    return store, store.get_run(state["run_id"])


def models_of(store: Any, run: Any) -> list[Any]:
    outputs = run.outputs.model_outputs if run.outputs else []
    return [store.get_logged_model(output.model_id) for output in outputs]


def test_a_run_is_one_model_with_its_step_and_scores_and_says_how_it_came_out(
    hopper_data, done, tmp_path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done("train", *FEW, "training_steps=20", "eval_interval=10", "save_dir=runs", "seed=3")
    folder = only(tmp_path / "runs")
    store, found = pages(folder)
    assert found.info.run_name == f"bc {folder.name}"
    assert found.data.tags["state"] == "finished"
    note = found.data.tags["mlflow.note.content"]
    assert note.startswith("**normalized_return ")
    assert "over 1 seed x 2 episodes" in note
    assert "bc on hopper-medium-v2, 20 steps" in note
    assert {"train/max_std", "train/mean_std"}.isdisjoint(found.data.metrics)
    names = [f"eval/normalized_return{end}" for end in ("", "_low", "_high")]
    history = {name: store.get_metric_history(found.info.run_id, name) for name in names}
    assert [[item.step for item in items] for items in history.values()] == [[10, 20]] * 3
    (model,) = models_of(store, found)
    assert (model.name, model.tags["understudy.step"], model.tags["seeds"]) == ("model", "20", "3")
    assert found.outputs.model_outputs[0].step == 20
    values = {item.key: (item.value, item.step) for item in model.metrics}
    assert values["eval/normalized_return_low"] == (history["eval/normalized_return_low"][-1].value, 20)

    address = f"runs:/{found.info.run_id}/model"
    uri = tracking.default_tracking_uri(tmp_path / "runs")
    observations = np.zeros((2, 11), np.float32)
    actions = load_policy(folder).act(observations)
    assert np.array_equal(load_policy(address, tracking_uri=uri).act(observations), actions)
    with monkeypatch.context() as changed:
        changed.setenv("MLFLOW_TRACKING_URI", uri)
        assert np.array_equal(mlflow.pyfunc.load_model(address).predict(observations), actions)
    assert "bc" in done("runs", "show", folder.name, "--save_dir", "runs")
    assert "has finished already" in done("resume", str(folder))
    assert len(models_of(*pages(folder))) == 1, "the same policy is logged once"

    done("resume", str(folder), "--add-steps", "10")
    assert {item.tags["understudy.step"] for item in models_of(*pages(folder))} == {"20", "30"}
    newer = load_policy(folder).act(observations)
    assert np.array_equal(load_policy(address, tracking_uri=uri).act(observations), newer)

    for name in ("mlflow.db", "mlartifacts"):
        place = tmp_path / "runs" / name
        shutil.rmtree(place) if place.is_dir() else place.unlink()
    run("sync", "runs", cwd=tmp_path)  # a process of its own: this one still has the old file open
    assert len(list((tmp_path / "runs").glob("mlartifacts/models/*/artifacts/MLmodel"))) == 1, "with all the rest"
    (row,) = tracking.list_runs(uri)
    assert row["metrics"].keys() == store.get_run(found.info.run_id).data.metrics.keys()


def test_seeds_are_members_of_one_model_and_no_model_is_made_where_none_is_wanted(hopper_data, done, tmp_path) -> None:
    done("train", *FEW, "training_steps=10", "seeds=[0,1]", "save_dir=runs")
    _, found = pages(only(tmp_path / "runs"))
    uri = tracking.default_tracking_uri(tmp_path / "runs")
    assert load_policy(f"runs:/{found.info.run_id}/model", tracking_uri=uri).seeds == [0, 1]
    done("train", *FEW, "training_steps=10", "log_model=false", "save_dir=none")
    (model,) = models_of(*pages(only(tmp_path / "none")))
    assert (model.name, model.tags["mlflow.model.isExternal"]) == ("step_10", "true"), "a link to final_model.pt"


def test_a_run_that_failed_is_none_of_those_that_finished(hopper_data, done, say, tmp_path) -> None:
    words = ("lr=9.9", "weight_decay=0.3", "normalize=none", "training_steps=500", "log_interval=1", "save_dir=runs")
    assert say("train", *FEW[:-2], *words, "eval_interval=0").code == 1
    _, found = pages(only(tmp_path / "runs"))
    assert (found.info.status, found.data.tags["state"]) == ("FAILED", "failed")
    assert "failed" in done("runs", "list", "--save_dir", "runs")


def test_a_sweeps_run_has_its_table_its_score_at_the_policys_step_and_its_pruned_trials_no_green_tick(
    hopper_data, tmp_path
) -> None:
    spec = sweep(
        "lr=1e-3,1e-4", "seeds=[0,1]", "training_steps=40", f"save_dir={tmp_path}", "env_name=hopper-medium-v2"
    )
    place = SweepDir.at(tmp_path / "sweep_1", spec)
    tracking.prepare(spec.base.placement.tracking())
    study = Study(place.path, spec)
    first, second = (study.ask() for _ in range(2))
    metrics = {"success": 0.5, "success_low": 0.2, "success_high": 0.8, "return": 7.0, "success_seeds": 2.0}
    study.finish(first[0], TrialState.COMPLETE, [0.5], metrics=metrics)
    study.finish(second[0], TrialState.PRUNED, None, step=10)
    pruned = RunDir.at(trial_folder(place.path, second[0]), trial_spec(spec, second[1]))
    best = BestPolicy(first[0], 40, first[1], metrics, 1, metrics, str(place.path / "best"), ranked=0.6, seeds=[0, 1])
    outcome = TrialOutcome(first[0], first[1], {}, metrics, (0, 1))
    append_best(place.path / BEST_CSV, 80, metrics)

    tracked = track_sweep(spec, place.path, None)
    place.update_state(run_id=tracked.run_id)
    close_stopped(place, study, tracked.run_id)
    note_sweep(place, spec, study.trials(), {first[0]: outcome}, best, ["a finding"])
    for _ in range(2):  # a sync sends it once more
        send_best(place, spec, best, tracked)
    assert tracked.close("FINISHED")

    store, found = pages(place.path)
    assert found.info.run_name == f"{spec.base.algo} sweep_1"
    points = {key: store.get_metric_history(found.info.run_id, key) for key in found.data.metrics}
    assert {key: [(item.step, item.value) for item in items] for key, items in points.items()} == {
        "eval/success": [(40, 0.5)],
        "eval/success_low": [(40, 0.2)],
        "eval/success_high": [(40, 0.8)],
        "eval/return": [(40, 7.0)],
    }
    tags = found.data.tags
    assert {key: tags[key] for key in ("state", "trials", "trials_complete", "trials_pruned", "best.ranked")} == {
        "state": "finished",
        "trials": "2",
        "trials_complete": "1",
        "trials_pruned": "1",
        "best.ranked": "0.6",
    }
    note = tags["mlflow.note.content"].splitlines()
    assert note[0].startswith(f"**best: trial {first[0]}** lr=")
    assert "a finding" in note
    header = note.index("| trial | state | lr | success [95 %] | seeds |")
    assert note[header + 2].startswith(f"| {first[0]} | complete | ")
    assert note[header + 2].endswith("| 0.50 [0.20, 0.80] | 2 |")
    assert note[header + 3].startswith(f"| {second[0]} | pruned | ")
    child = store.get_run(pruned.state()["run_id"])
    assert child.info.run_name.startswith(f"{spec.base.algo} {second[0]:04d} lr=")
    assert (child.info.status, child.data.tags["state"]) == ("KILLED", "pruned")
    assert child.data.tags["mlflow.parentRunId"] == found.info.run_id


@pytest.mark.slow
def test_a_whole_sweeps_runs_have_scores_with_intervals_and_its_failed_trial_is_told(hopper_data, tmp_path) -> None:
    words = ("lr=1e-3,9.9", "weight_decay=0.3", "normalize=none", "sampler=grid", "scheduler=none", "seeds=[0,1]")
    few = ("training_steps=500", "log_interval=1", "final_episodes=2", "with_default=false", "save_dir=runs")
    run("sweep", *FEW[:-2], *words, *few, cwd=tmp_path)
    folder = only(tmp_path / "runs", "sweep.json")
    store, parent = pages(folder)
    found = {
        child.data.tags["state"]: child
        for child in store.search_runs(
            [parent.info.experiment_id], f"tags.`mlflow.parentRunId` = '{parent.info.run_id}'"
        )
    }
    assert {state: child.info.status for state, child in found.items()} == {"finished": "FINISHED", "failed": "FAILED"}
    for page in (parent, found["finished"]):
        ends = {"eval/normalized_return", "eval/normalized_return_low", "eval/normalized_return_high"}
        assert ends <= page.data.metrics.keys()
        assert {store.get_metric_history(page.info.run_id, key)[-1].step for key in ends} == {500}
        assert [item.dataset.name for item in page.inputs.dataset_inputs] == ["hopper-medium-v2"]
    assert "| failed |" in parent.data.tags["mlflow.note.content"]
    (model,) = models_of(store, parent)
    assert model.tags["understudy.step"] == "500"
    assert [item.name for item in models_of(store, found["finished"])] == ["step_500"], "the sweep's best is a model"
