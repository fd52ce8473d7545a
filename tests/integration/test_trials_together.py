"""Trials of a sweep that are trained together, as one pack: each is what it would be alone, whoever leaves."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.integration.commands import SMALL, kill_when, run
from tests.integration.commands import start as begin
from tests.integration.test_resume_run import weights
from tests.integration.test_sweep_goals import folder_of, summary

from understudy.errors import TrainingDiverged
from understudy.runs.directory import RunDir, read_csv
from understudy.runs.launch import launch
from understudy.runs.loop import InTurns
from understudy.runs.turns import Turns
from understudy.spec.keys import build_run
from understudy.spec.run import RunSpec
from understudy.sweeping.together import train_together

CONFIGURATIONS: list[dict[str, Any]] = [
    {"lr": 1e-3, "dropout": 0.1},
    {"lr": 3e-3, "grad_clip": 0.5, "dropout": 0.3},
    {"lr": 1e-4, "warmup_steps": 20, "weight_decay": 0.1, "dropout": 0.1},
]


def spec_of(folder: Path, **changes: Any) -> RunSpec:
    words = {"env_name": "hopper-medium-v2", "algo": "bc", "hidden_dims": [32, 32], "batch_size": 16, "seeds": [0, 1]}
    when = {"training_steps": 60, "eval_interval": 20, "log_interval": 20, "eval_episodes": 2, "eval_envs": 2}
    where = {"tracking_uri": "none", "save_dir": str(folder)}
    return build_run({**words, **when, **where, **changes})


def files_of(folder: Path) -> dict[str, Any]:
    """Return what a run came to: rows of its csv files, and each seed's weights."""
    names = [path for path in sorted(folder.rglob("*.csv")) if path.name != "timing.csv"]
    found: dict[str, Any] = {str(path.relative_to(folder)): path.read_text() for path in names}
    for path in sorted(folder.rglob("final_model.pt")):
        found |= {f"{path.relative_to(folder)} {name}": value for name, value in weights(path).items()}
    return found


def assert_same(mine: Mapping[str, Any], other: Mapping[str, Any]) -> None:
    assert mine.keys() == other.keys()
    for name, value in other.items():
        assert torch.equal(mine[name], value) if isinstance(value, torch.Tensor) else mine[name] == value, name


def together(
    folder: Path, configurations: list[dict[str, Any]], leaving: Mapping[int, int] | None = None
) -> list[Path]:
    """Train configurations in turns; those at `leaving` leave at their reports of a step, as ASHA has them leave."""
    runs = [folder / f"{number:04d}" for number in range(len(configurations))]

    def train(proposal: Mapping[str, Any], turns: Turns, place: int) -> None:
        number = proposal["number"]
        spec = spec_of(folder, **configurations[number])

        def report(step: int, metrics: Mapping[str, float]) -> None:
            if (leaving or {}).get(number) == step:
                raise SystemExit

        launch(spec, RunDir.at(runs[number], spec), loop=InTurns(spec, turns, place), report=report)

    train_together([{"number": number} for number in range(len(configurations))], train)
    return runs


def alone(folder: Path, configuration: dict[str, Any]) -> dict[str, Any]:
    folder.mkdir()
    spec = spec_of(folder, **configuration)
    launch(spec, RunDir.at(folder / "0000", spec))
    return files_of(folder / "0000")


def test_trainings_that_take_turns_end_as_each_would_alone_to_the_bit(hopper_data, tmp_path) -> None:
    runs = together(tmp_path / "pack", CONFIGURATIONS)
    for number, (path, configuration) in enumerate(zip(runs, CONFIGURATIONS, strict=True)):
        assert_same(files_of(path), alone(tmp_path / f"alone{number}", configuration))


def test_one_that_asha_stops_and_one_that_diverges_leave_and_the_third_goes_on_unchanged(hopper_data, tmp_path) -> None:
    configurations = [CONFIGURATIONS[0], {"lr": 9.9, "weight_decay": 1e30, "dropout": 0.1}, CONFIGURATIONS[2]]
    with pytest.raises(TrainingDiverged, match="stopped being finite"):
        together(tmp_path / "pack", configurations, leaving={0: 40})
    runs = [RunDir(tmp_path / "pack" / f"{number:04d}") for number in range(3)]
    assert "stopped being finite" in runs[1].state()["error"]
    assert [row["step"] for row in read_csv(runs[0].path / "sd001" / "train.csv")] == [20, 40]
    assert runs[2].state()["status"] == "finished"
    assert_same(files_of(runs[2].path), alone(tmp_path / "alone", CONFIGURATIONS[2]))


def test_those_that_are_behind_catch_up_and_all_go_on_to_what_they_would_have_been(hopper_data, tmp_path) -> None:
    left = {0: 40, 1: 20}
    runs = together(tmp_path / "pack", CONFIGURATIONS, left)
    steps = [RunDir(path).state()["step"] for path in runs]
    assert steps[:2] != [60, 60], "all came to the end: a poor test"
    assert steps[0] > steps[1]
    together(tmp_path / "pack", CONFIGURATIONS)
    for number, (path, configuration) in enumerate(zip(runs, CONFIGURATIONS, strict=True)):
        assert_same(files_of(path), alone(tmp_path / f"alone{number}", configuration))


SWEEP = (
    *("sweep", *SMALL, "algo=bc", "seeds=[0,1]", "lr=1e-4,1e-3,3e-3", "dropout=0.1,0.2", "sampler=grid"),
    *("training_steps=200", "eval_interval=50", "log_interval=50", "final_episodes=2", "max_concurrent=1"),
    *("with_default=false", "confirm_rivals=0", "register_as=none", "checkpoint_seconds=0.05"),
)


@pytest.mark.slow
def test_a_sweep_in_packs_is_the_sweep_of_single_trials_and_says_so(hopper_data, tmp_path) -> None:
    said = run(*SWEEP, "scheduler=none", "trials_together=4", "save_dir=pack", cwd=tmp_path)
    assert "4 trials at a time are trained together, as one pack" in said
    run(*SWEEP, "scheduler=none", "save_dir=single", cwd=tmp_path)
    pack, single = folder_of(tmp_path / "pack"), folder_of(tmp_path / "single")
    assert summary(pack) == summary(single)
    for folder in sorted((single / "trials").iterdir()):
        assert_same(files_of(pack / "trials" / folder.name), files_of(folder))
    with sqlite3.connect(tmp_path / "pack" / "mlflow.db") as connection:
        tags = connection.execute("select value from tags where key = 'trained_together'").fetchall()
        assert {tag for (tag,) in tags} == {"0000,0001,0002,0003", "0004,0005"}
        assert connection.execute("select value from tags where key = 'trials_together'").fetchall() == [("4",)]


@pytest.mark.slow
def test_a_killed_sweep_in_packs_goes_on_to_the_same_trials(hopper_data, tmp_path) -> None:
    words = (*SWEEP, "scheduler=none", "trials_together=3")
    run(*words, "save_dir=whole", cwd=tmp_path)
    process = begin(*words, "save_dir=broken", cwd=tmp_path)
    kill_when(process, lambda: any((tmp_path / "broken").rglob("trials/0001/resume/step_*1*.pt")))
    broken, whole = folder_of(tmp_path / "broken"), folder_of(tmp_path / "whole")
    run("resume", str(broken), cwd=tmp_path)
    for folder in sorted((whole / "trials").iterdir()):
        assert_same(files_of(broken / "trials" / folder.name), files_of(folder))


@pytest.mark.slow
def test_asha_stops_trials_of_a_pack_one_by_one(hopper_data, tmp_path) -> None:
    words = ("trials_together=6", "asha_slack=0", "reduction_factor=2", "save_dir=pack")
    run(*SWEEP, *words, cwd=tmp_path)
    run(*SWEEP, "scheduler=none", "save_dir=single", cwd=tmp_path)
    pack, single = folder_of(tmp_path / "pack"), folder_of(tmp_path / "single")
    states = {folder.name: RunDir(folder).state()["status"] for folder in sorted((pack / "trials").iterdir())}
    assert set(states.values()) == {"finished", "stopped"}, "none was stopped, or all were: a poor test"
    for name in (name for name, status in states.items() if status == "finished"):
        assert_same(files_of(pack / "trials" / name), files_of(single / "trials" / name))
    counts = json.loads((pack / "run.json").read_text())["counts"]
    assert counts["trials_pruned"] == list(states.values()).count("stopped")


def test_what_members_of_a_pack_cannot_differ_in_is_refused_in_one_line(hopper_data, tmp_path) -> None:
    said = run(*SWEEP, "batch_size=16,32", "trials_together=2", "--cfg", cwd=tmp_path, code=2)
    assert "trials_together=2: batch_size is nothing that members of one pack may differ in" in said
