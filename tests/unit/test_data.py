"""ogbench_dataset_dir: files in turn, each imported once, and again when it was written since."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

from understudy.spec.keys import build_run
from understudy.spec.run import RunSpec
from understudy.trainables.loops.data import open_data

ENV = "cube-single-play-singletask-task1-v0"


def write(path: Path, value: float) -> None:
    ends = np.zeros(12, bool)
    ends[[5, 11]] = True
    observations = np.full((12, 28), value, np.float32)
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez(path, observations=observations, actions=np.zeros((12, 5), np.float32), terminals=ends)


def spec(folder: Path, root: Path) -> RunSpec:
    keys = {"ogbench_dataset_dir": str(folder), "dataset_replace_interval": 10, "data_dir": str(root / "data")}
    return build_run({"env_name": ENV, **keys})


def first_value(run: RunSpec, step: int) -> float:
    return float(open_data(run).windows(step).sample([0], step, 4)["observations"][0, 0, 0])


def test_files_take_turns_and_a_rewritten_one_is_read_anew(tmp_path) -> None:
    write(tmp_path / "a" / "x-000.npz", 1.0)
    write(tmp_path / "a" / "x-001.npz", 2.0)
    write(tmp_path / "a" / "x-000-val.npz", 9.0)
    run = spec(tmp_path / "a", tmp_path)
    assert [first_value(run, step) for step in (1, 10, 11, 20, 21)] == [1.0, 1.0, 2.0, 2.0, 1.0]
    write(tmp_path / "a" / "x-000.npz", 3.0)
    later = (tmp_path / "a" / "x-000.npz").stat().st_mtime + 10
    os.utime(tmp_path / "a" / "x-000.npz", (later, later))
    assert first_value(run, 1) == 3.0


def test_files_of_one_name_in_two_folders_are_two_datasets(tmp_path) -> None:
    write(tmp_path / "a" / "x.npz", 1.0)
    write(tmp_path / "b" / "x.npz", 2.0)
    assert first_value(spec(tmp_path / "a", tmp_path), 1) == 1.0
    assert first_value(spec(tmp_path / "b", tmp_path), 1) == 2.0
