"""What an import changes, leaves out or finds odd is said: when it is done, by `data info` and by `data verify`."""

from __future__ import annotations

import logging
from pathlib import Path

import h5py
import numpy as np
import pytest
from tests.unit.command_line import understudy

from understudy.envs.sources.source import task_of
from understudy.envs.store.finding import find_store
from understudy.envs.store.inspection import notes_of
from understudy.envs.store.transfer import import_file
from understudy.spec.keys import build_run
from understudy.trainables.loops.data import algorithm_for, open_data

NAME = "halfcheetah-medium-v2"


def write(path: Path, largest: float, lengths: tuple[int, ...] = (10, 10)) -> Path:
    count = sum(lengths)
    rng = np.random.default_rng(0)
    actions = rng.uniform(-1, 1, (count, 6)).astype(np.float32)
    actions[3, 2] = largest
    with h5py.File(path, "w") as file:
        file["observations"], file["actions"] = rng.normal(size=(count, 17)).astype(np.float32), actions
        file["rewards"], file["terminals"] = np.zeros(count, np.float32), np.zeros(count, bool)
        file["timeouts"] = np.isin(np.arange(count), np.cumsum(lengths) - 1)
    return path


def test_actions_beyond_the_tasks_are_said_at_import_by_info_by_verify_and_in_training(
    tmp_path, monkeypatch, capsys, caplog
) -> None:
    file, folder = write(tmp_path / "x.hdf5", -7.5), str(tmp_path / "data")
    words = ("--data_dir", folder)
    imported = understudy(monkeypatch, capsys, "data", "import", "d4rl", str(file), "--name", NAME, *words)
    verified = understudy(monkeypatch, capsys, "data", "verify", NAME, *words)
    described = understudy(monkeypatch, capsys, "data", "info", NAME, *words)
    for said in (imported, verified, described):
        assert said.code == 0
        assert "actions reach from -7.5 to" in " ".join(said.out.split())
        assert "normalize_actions=bounds" in " ".join(said.out.split())
    assert imported.out.splitlines()[-1].startswith(f"{NAME}: 2 episodes")
    for keys, told in (({}, True), ({"normalize_actions": "bounds"}, False), ({"action_clip": False}, False)):
        run = build_run({"algo": "bc", "env_name": NAME, "data_dir": folder, **keys})
        caplog.clear()
        with caplog.at_level(logging.WARNING, "understudy"):
            algorithm_for(run, open_data(run).windows(1))
        assert ("beyond the task's [-1, 1]" in caplog.text) == told, keys


@pytest.mark.parametrize("largest", [1.0, -1.0, 1.00001])
def test_actions_of_the_tasks_own_span_are_not_worth_a_word(tmp_path, largest) -> None:
    assert notes_of(import_file(task_of(NAME), write(tmp_path / "x.hdf5", largest), tmp_path / "data")) == []


def test_actions_of_tasks_with_units_of_their_own_are_not_worth_a_word(tmp_path) -> None:
    file = write(tmp_path / "x.hdf5", 2.0)
    import_file(task_of(NAME), file, tmp_path / "data")
    store = find_store(NAME, tmp_path / "data")
    store.manifest.provenance["env_name"] = "expert:Pendulum-v1"
    assert notes_of(store) == []


def test_data_of_single_steps_are_asked_about(tmp_path) -> None:
    store = import_file(task_of(NAME), write(tmp_path / "x.hdf5", 1.0, (1, 1, 1, 4)), tmp_path / "data")
    assert "3 of 4 episodes have one step" in notes_of(store)[0]
