"""A population by the real command: killed at any moment it goes on to what it would have been, and tells of it."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest
import torch
from tests.integration.breaking import only, weights
from tests.integration.commands import SMALL, kill_when, run, start
from tests.integration.test_resume_run import metrics

from understudy.runs.directory import RunDir, read_csv
from understudy.runs.population import lineage

POPULATION = (
    *("train", *SMALL, "seeds=[0,1,2,3]", "pbt={lr:[1e-5,1e-1],weight_decay:[1e-6,1e-2]}", "pbt_interval=60"),
    *("pbt_share=0.5", "training_steps=300", "log_interval=20", "eval_interval=0", "checkpoint_seconds=0.05"),
)


@pytest.mark.slow
def test_a_killed_population_goes_on_to_the_same_exchanges_weights_and_rows(hopper_data, done, tmp_path) -> None:
    said = done(*POPULATION, "save_dir=whole")
    assert "best of the population: seed" in said
    process = start(*POPULATION, "save_dir=broken", cwd=tmp_path)
    kill_when(process, lambda: any((tmp_path / "broken").rglob("resume/step_*1*.pt")))
    broken, whole = only(tmp_path / "broken"), only(tmp_path / "whole")
    run("resume", str(broken), cwd=tmp_path)
    names = [path.relative_to(whole) for path in whole.rglob("*.csv") if path.name != "timing.csv"]
    assert len([name for name in names if name.name == "pbt.csv"]) == 5
    for name in names:
        assert (broken / name).read_text() == (whole / name).read_text()
    for seed in range(4):
        mine, other = (weights(folder / f"sd{seed:03d}" / "final_model.pt") for folder in (broken, whole))
        assert all(torch.equal(mine[key], other[key]) for key in other)
    assert_told(whole, tmp_path / "whole" / "mlflow.db")


def assert_told(folder: Path, store: Path) -> None:
    """Check that the files, the lineage and MLflow tell of the same exchanges."""
    rows = {seed: read_csv(folder / f"sd{seed:03d}" / "pbt.csv") for seed in range(4)}
    assert [row["step"] for row in rows[0]] == [0, 60, 120, 180, 240]
    assert any(row["from"] != seed for seed, own in rows.items() for row in own), "none exchanged: a poor test"
    for place in range(1, 5):
        scores = {seed: own[place]["score"] for seed, own in rows.items()}
        for seed, own in rows.items():
            assert own[place]["from"] == seed or scores[int(own[place]["from"])] > scores[seed]
    found = lineage(RunDir(folder), RunDir(folder).spec())
    assert found is not None
    assert found.stages[0][0] == 0
    assert found.stages[-1][2] == {key: rows[found.seed][-1][key] for key in ("lr", "weight_decay")}
    names = {row[0] for row in metrics(store)}
    assert {"sd000/pbt/lr", "sd003/pbt/from", "pbt/best_lr"} <= names
    with sqlite3.connect(store) as connection:
        assert connection.execute("select count(*) from runs").fetchone() == (1,)
