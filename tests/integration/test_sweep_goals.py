"""Whole sweeps by the real command: raced and resumed, without a simulator, a matrix, each with what it prints."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest
from tests.integration.commands import SMALL, kill_when, run, start

import understudy
from understudy.runs.directory import RunDir, read_csv
from understudy.runs.episodes import CONFIRMATION, REGISTERED, TRAINING, interval_of, rows_where, values_of

RACE = (
    *("sweep", *SMALL, "lr=1e-4,1e-3,3e-3", "flow_steps=2,5", "seeds=[0,1,2,3]", "sampler=grid", "scheduler=none"),
    *("training_steps=100", "eval_interval=50", "final_episodes=3", "racing=halving", "max_concurrent=1"),
    *("checkpoint_seconds=0.05", "confirm_seeds=2"),
)


def folder_of(root: Path, marker: str = "sweep.json") -> Path:
    (found,) = [path.parent for path in root.rglob(marker) if "mlartifacts" not in path.parts]
    return found


@pytest.mark.slow
def test_a_race_that_was_killed_goes_on_to_what_it_would_have_been(hopper_data, tmp_path) -> None:
    said = run(*RACE, "save_dir=whole", cwd=tmp_path)
    whole = folder_of(tmp_path / "whole")
    race = json.loads((whole / "race.json").read_text())
    assert [(stage["seeds"], len(stage["trials"])) for stage in race["rounds"]] == [(1, 3), (3, 2), (4, 2)]
    assert (race["seed_runs"], race["all_seed_runs"]) == (9, 12)
    assert "9 seeds trained, 0.75 of all for all" in said
    assert "ranked " in said
    assert "over fresh 2 seeds x 3 episodes that no trial was ranked by" in said

    process = start(*RACE, "save_dir=broken", cwd=tmp_path)
    kill_when(process, lambda: any((tmp_path / "broken").rglob("trials/*_sd001-sd002/resume/step_*.pt")))
    broken = folder_of(tmp_path / "broken")
    run("resume", str(broken), cwd=tmp_path)
    assert json.loads((broken / "race.json").read_text()) == race
    assert summary(broken) == summary(whole)
    one, other = (understudy.load_episodes(folder).drop_columns(["last_frame"]) for folder in (broken, whole))
    assert one.equals(other)

    stages = {stage: rows_where(other, stage=stage) for stage in (TRAINING, CONFIRMATION, REGISTERED)}
    states = [set(values_of(rows, "reset_seed")) for rows in stages.values()]
    assert states[0].isdisjoint(states[1] | states[2])
    assert states[1].isdisjoint(states[2])
    assert values_of(stages[CONFIRMATION], "seed") == [4, 5], "seeds that no trial was ranked by"
    best = json.loads((whole / "best.json").read_text())
    printed = interval_of(rows_where(stages[CONFIRMATION], trial=best["trial"]))
    assert best["metrics"]["normalized_return"] == printed.mean
    assert best["metrics"]["normalized_return_low"] == printed.low
    assert best["loaded_metrics"] == best["seed_metrics"]
    assert [item["name"] for item in best["compared"]][-1] == "the default"


def summary(sweep: Path) -> list[dict[str, str]]:
    with open(sweep / "summary.csv", newline="") as file:
        return [{key: value for key, value in row.items() if key != "steps_per_sec"} for row in csv.DictReader(file)]


@pytest.mark.slow
def test_a_dataset_is_swept_by_held_out_episodes_without_a_simulator(hopper_data, tmp_path) -> None:
    small = [word for word in SMALL if not word.startswith("eval_")]
    words = ("algo=bc", "policy=mse", "validation_fraction=0.2", "eval_episodes=0", "lr=interval(1e-5,1e-2)")
    rest = ("seeds=[0,1]", "num_trials=3", "training_steps=200", "eval_interval=100", "scheduler=none", "save_dir=runs")
    said = run("sweep", *small, *words, *rest, cwd=tmp_path)
    folder = folder_of(tmp_path / "runs")
    rows = summary(folder)
    losses = {int(row["trial"]): float(row["validation/mse"]) for row in rows}
    best = json.loads((folder / "best.json").read_text())
    assert best["trial"] == min(losses, key=lambda trial: losses[trial])
    assert f"best: trial {best['trial']}" in said
    assert "on the held-out episodes that it was chosen by" in said
    assert understudy.load_episodes(folder).num_rows == 0


@pytest.mark.slow
def test_methods_and_tasks_are_compared_and_a_broken_comparison_goes_on(hopper_data, tmp_path) -> None:
    words = ("compare", *SMALL, "algo=bc,flow_bc", "seeds=[0,1]", "training_steps=1500", "eval_interval=0")
    process = start(*words, "flow_steps=2", "checkpoint_seconds=0.05", "save_dir=runs", cwd=tmp_path)
    kill_when(process, lambda: any((tmp_path / "runs").rglob("cells/flow_bc-*/resume/step_*.pt")))
    matrix = folder_of(tmp_path / "runs", "matrix.json")
    first = matrix / "cells" / "bc-hopper-medium-v2" / "sd000" / "final_model.pt"
    made = first.stat().st_mtime_ns
    said = run("resume", str(matrix), cwd=tmp_path)
    assert first.stat().st_mtime_ns == made
    assert "hopper-medium-v2: bc minus flow_bc: " in said
    assert "each with its values as given: 2 seeds x 1500 steps" in said
    cells = [matrix / "cells" / f"{method}-hopper-medium-v2" for method in ("bc", "flow_bc")]
    found = json.loads((matrix / "comparison.json").read_text())
    assert [cell["metrics"]["normalized_return"] for cell in found["cells"]] == pytest.approx(
        [read_csv(cell / "eval.csv")[-1]["normalized_return"] for cell in cells]
    )
    assert RunDir(cells[1]).spec().config.flow_steps == 2
