"""Does it learn? On the expert's data the task is solved; on the same data with shuffled actions it is not."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from understudy.envs.experts.demonstrations import Demonstrations
from understudy.envs.experts.generate import OutputFiles, generate
from understudy.envs.sources.source import task_of
from understudy.envs.store.transfer import ImportOptions, import_file
from understudy.runs.directory import RunDir
from understudy.runs.loop import make_loop
from understudy.spec.keys import build_run

ENV = "cube-single-scripted-singletask-task1-v0"


def success(name: str, data_dir: Path, folder: Path) -> float:
    spec = build_run(
        {
            "env_name": name,
            "data_dir": str(data_dir),
            "save_dir": str(folder),
            "hidden_dims": [256, 256],
            "lr": 1e-3,
            "action_chunking": True,
            "training_steps": 800,
            "eval_interval": 0,
            "eval_episodes": 10,
            "eval_envs": 1,
        }
    )
    run = RunDir.create(spec)
    return make_loop(spec).run(run.path).metrics["success"]


@pytest.mark.slow
def test_flow_bc_solves_the_cube_task_and_not_when_actions_are_shuffled(tmp_path) -> None:
    file = generate(Demonstrations(ENV, 60), OutputFiles(tmp_path / "demos.npz"), workers=2).path
    import_file(task_of(ENV), file, tmp_path)
    arrays = dict(np.load(file, allow_pickle=False))
    arrays["actions"] = np.random.default_rng(0).permutation(arrays["actions"])
    np.savez(tmp_path / "shuffled.npz", **arrays)
    import_file(task_of(ENV), tmp_path / "shuffled.npz", tmp_path, ImportOptions(name="shuffled"))
    assert success(ENV, tmp_path, tmp_path / "runs") >= 0.8
    assert success("shuffled", tmp_path, tmp_path / "runs") <= 0.2
