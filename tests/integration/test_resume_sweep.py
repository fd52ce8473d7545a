"""Kill -9 a whole sweep, resume it: every trial as in a sweep that was never stopped, none done twice."""

from __future__ import annotations

import csv
import json
import sqlite3
from pathlib import Path

import pytest
import torch
from tests.integration.commands import SMALL, kill_when, run, start

SWEEP = (
    "sweep",
    *SMALL,
    "lr=interval(1e-4,1e-2)",
    "horizon_length=1,3",
    "flow_steps=2,5",
    "seeds=[0,1]",
    "num_trials=3",
    "max_concurrent=1",
    "training_steps=800",
    "eval_interval=200",
    "log_interval=50",
    "checkpoint_seconds=0.05",
    "final_episodes=3",
    "scheduler=none",
)


def sweep_folder(root: Path) -> Path:
    (found,) = [path.parent for path in root.rglob("sweep.json") if "mlartifacts" not in path.parts]
    return found


def summary(sweep: Path) -> list[dict[str, str]]:
    """Return the sweep's rows without the one column that is a matter of time."""
    with open(sweep / "summary.csv", newline="") as file:
        return [{key: value for key, value in row.items() if key != "steps_per_sec"} for row in csv.DictReader(file)]


@pytest.mark.slow
def test_a_killed_sweep_resumes_to_the_same_trials_with_none_done_twice(hopper_data, tmp_path) -> None:
    run(*SWEEP, "save_dir=whole", cwd=tmp_path)
    process = start(*SWEEP, "save_dir=broken", cwd=tmp_path)
    second = "trials/0001/resume/step_*.pt"
    kill_when(process, lambda: any(path for path in (tmp_path / "broken").rglob(second)))
    broken, whole = sweep_folder(tmp_path / "broken"), sweep_folder(tmp_path / "whole")
    first = broken / "trials" / "0000" / "sd000" / "final_model.pt"
    made = first.stat().st_mtime_ns
    run("resume", str(broken), cwd=tmp_path)

    assert first.stat().st_mtime_ns == made
    assert summary(broken) == summary(whole)
    assert len(summary(whole)) == 3
    for number in range(3):
        mine, other = (sweep / "trials" / f"{number:04d}" for sweep in (broken, whole))
        names = [path.relative_to(other) for path in other.rglob("*.csv") if path.name != "timing.csv"]
        assert names
        for name in names:
            assert (mine / name).read_text() == (other / name).read_text()
        for seed in ("sd000", "sd001"):
            states = [
                torch.load(trial / seed / "final_model.pt", weights_only=True)["weights"] for trial in (mine, other)
            ]
            assert all(torch.equal(states[0][key], states[1][key]) for key in states[1])
    with sqlite3.connect(tmp_path / "broken" / "mlflow.db") as connection:
        statuses = connection.execute("select status, count(*) from runs group by status").fetchall()
        versions = connection.execute("select version from model_versions").fetchall()
    assert statuses == [("FINISHED", 4)]
    assert versions == [(1,)]
    best = json.loads((broken / "best.json").read_text())
    assert best["loaded_metrics"] == best["seed_metrics"]


@pytest.mark.slow
def test_a_diverging_trial_fails_with_its_step_named_and_the_sweep_goes_on(hopper_data, tmp_path) -> None:
    changed = ("lr", "num_trials", "horizon", "flow_steps", "hidden_dims")
    words = [word for word in SWEEP if not word.startswith(changed)]
    deep = f"hidden_dims={[32] * 10}".replace(" ", "")
    run(*words, "lr=1e-3,9.9", deep, "sampler=grid", cwd=tmp_path)
    rows = {float(row["lr"]): row for row in summary(sweep_folder(tmp_path))}
    assert rows[1e-3]["state"] == "complete"
    assert rows[9.9]["state"] == "fail"
    assert "step" in rows[9.9]["error"]
