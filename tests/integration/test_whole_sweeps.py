"""Sweeps by the real command that need Ray Tune to be seen whole: a matrix of them, several objectives, races."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest
from tests.integration.commands import SMALL
from tests.integration.test_sweep_goals import folder_of, summary

TINY = (*SMALL, "training_steps=60", "eval_interval=30", "final_episodes=3", "max_concurrent=1", "log_interval=30")


@pytest.mark.slow
def test_each_method_is_tuned_on_each_task_and_they_are_compared_at_their_best(hopper_data, done, tmp_path) -> None:
    words = ("algo=bc,flow_bc", "seeds=[0,1]", "num_trials=2", "lr=1e-4,1e-3", "sampler=grid", "scheduler=none")
    said = done("sweep", *TINY, *words, "with_default=false", "confirm_rivals=0", "register_as=none", "save_dir=runs")
    matrix = folder_of(tmp_path / "runs", "matrix.json")
    assert "each tuned with the same budget: 2 configurations x 2 seeds x 60 steps" in said
    found = json.loads((matrix / "comparison.json").read_text())
    folders = [matrix / "cells" / f"{cell['method']}-{cell['task']}" for cell in found["cells"]]
    bests = [json.loads((folder / "best.json").read_text()) for folder in folders]
    assert [cell["method"] for cell in found["cells"]] == ["bc", "flow_bc"]
    for cell, best in zip(found["cells"], bests, strict=True):
        assert cell["parameters"] == best["parameters"]
        assert cell["metrics"]["normalized_return"] == best["metrics"]["normalized_return"], "what was confirmed"
        assert f"hopper-medium-v2: {cell['method']} at its best: lr=" in said
    (pair,) = found["pairs"]
    assert (pair["first"], pair["second"]) == ("bc", "flow_bc")
    with open(matrix / "comparison.csv", newline="") as file:
        assert [row["method"] for row in csv.DictReader(file)] == ["bc", "flow_bc"]
    assert (matrix / "comparison.tex").read_text().count(r"\\") == 2
    assert (matrix / "comparison.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.slow
def test_several_objectives_begin_with_given_points_and_another_sweep_is_known_to_the_next(
    hopper_data, done, tmp_path
) -> None:
    words = ("algo=flow_bc", "objective=[return,latency]", "points=[{lr:5e-3}]", "flow_steps=2,5", "num_trials=3")
    rest = ("with_default=false", "confirm_rivals=0", "register_as=none", "lr=interval(1e-4,1e-2)")
    said = done("sweep", *TINY, *words, *rest, "save_dir=first")
    first = folder_of(tmp_path / "first")
    rows = summary(first)
    assert float(rows[0]["lr"]) == 5e-3
    front = json.loads((first / "report.json").read_text())["pareto_front"]
    assert f"Pareto front of return and latency ({len(front)} of 6)" in said
    scores = [(row["return"], row["latency"]) for row in front]
    assert scores == sorted(scores, reverse=True)
    assert [latency for _, latency in scores] == sorted((latency for _, latency in scores), reverse=True)

    words = ("algo=flow_bc", f"warm_start={first}", "num_trials=1", "scheduler=none", "flow_steps=2,5")
    said = done("sweep", *TINY, *words, *rest, "objective=[return,latency]", "save_dir=second")
    assert "1 configuration: 1 complete" in said
    second = folder_of(tmp_path / "second")
    assert [row["trial"] for row in summary(second)] == ["3"]
    assert len(list((second / "trials").iterdir())) == 1


@pytest.mark.slow
def test_a_race_drops_only_what_is_clearly_worse_and_a_rule_is_replayed_on_all_seeds(
    hopper_data, done, tmp_path
) -> None:
    words = ("algo=bc", "lr=1e-4,3e-3", "seeds=[0,1,2]", "sampler=grid", "scheduler=none", "with_default=false")
    rest = ("confirm_rivals=0", "register_as=none")
    said = done("sweep", *TINY, *words, *rest, "racing=guaranteed", "save_dir=raced")
    race = json.loads((folder_of(tmp_path / "raced") / "race.json").read_text())
    assert [stage["seeds"] for stage in race["rounds"]] == [2, 3]
    assert f"{race['seed_runs']} seeds trained" in said

    done("sweep", *TINY, *words, *rest, "save_dir=whole")
    whole = folder_of(tmp_path / "whole")
    trained = count_of(whole)
    replayed = done("sweep", "--replay", "guaranteed", str(whole))
    spent = race["seed_runs"]
    assert f"cost {spent / 6:.2f} of all seeds for all ({spent} of 6 seeds trained)" in replayed, "as the race was"
    assert "halving on 2 configurations: 2 x 1 seeds > 2 x 3 seeds" in done("sweep", "--replay", "halving", str(whole))
    assert count_of(whole) == trained, "a replay trains nothing"
    refused = done("sweep", "--replay", "halving", str(folder_of(tmp_path / "raced")), code=2)
    assert "its seeds were raced" in refused


def count_of(sweep: Path) -> int:
    return len(list(sweep.rglob("*")))
