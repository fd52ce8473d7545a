"""The command lines of the published BridgeData training, as they stand but for the program's name."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from tests.integration.breaking import only
from tests.integration.test_bad_input import refused

from understudy.envs.store.finding import list_stores
from understudy.runs.directory import RunDir

SMALL = ("num_steps=2", "log_interval=1", "batch_size=4", "encoder=impala_small", "tracking_uri=none")


@pytest.fixture(scope="module")
def numpy_root(tmp_path_factory) -> Path:
    """Write a tree of out.npy files, one of its tasks deeper than the others."""
    root, rng = tmp_path_factory.mktemp("bdv2_numpy"), np.random.default_rng(0)
    for task in ("lift_carrot_100", "rss/toykitchen/pull_pot_100"):
        for split, count in (("train", 3), ("val", 2)):
            made = np.empty(count, object)
            for number in range(count):
                steps = [{"images0": rng.integers(0, 255, (64, 64, 3), dtype=np.uint8), "state": rng.normal(size=7)}
                         for _ in range(7)]  # fmt: skip
                actions = [rng.normal(size=7) for _ in range(6)]
                made[number] = {"observations": steps[:-1], "next_observations": steps[1:], "actions": actions,
                                "terminals": [0] * 6, "language": ["lift"]}  # fmt: skip
            (root / task / split).mkdir(parents=True)
            np.save(root / task / split / "out.npy", made, allow_pickle=True)
    return root


@pytest.mark.slow
def test_a_line_of_the_published_training_trains_and_its_run_is_evaluated(numpy_root, done, tmp_path) -> None:
    data = f"data_dir={tmp_path / 'data'}"
    words = ("algo=bc", "bridgedata=lift_carrot_100", f"data_path={numpy_root}", "save_dir=runs", "name=my_bc_run")
    said = done("train", *words, *SMALL, data)
    assert "[Step 2/2]" in said
    assert "validation/mse" in said
    run = only(tmp_path / "runs")
    assert RunDir(run).spec().placement.run_group == "my_bc_run"
    assert "action_mse_6" in done("evaluate", "--save_dir", str(run), data)
    deep = ("algo=gc_ddpm_bc", "bridgedata=pull_pot_100", f"data_path={numpy_root}", "ddp.enabled=true")
    assert "model:" in done("train", *deep, *SMALL, data, "save_dir=deep")


def test_data_that_a_path_does_not_have_are_said_with_the_nearest(numpy_root, say, tmp_path) -> None:
    words = ("algo=bc", *SMALL, f"data_dir={tmp_path}", f"data_path={numpy_root}")
    refused(say("train", *words, "bridgedata=lift_carot_100"), "did you mean 'lift_carrot_100'")
    refused(say("train", *words, "bridgedata=lift_carrot_100", f"data_path={tmp_path / 'x'}"), "is no folder")


def test_a_root_of_several_tasks_becomes_several_datasets(numpy_root, done, tmp_path) -> None:
    done("data", "import", "bridge", str(numpy_root), "--data_dir", str(tmp_path))
    assert [item.name for item in list_stores(tmp_path)] == [
        "bridge:lift_carrot_100",
        "bridge:rss/toykitchen/pull_pot_100",
    ]


@pytest.mark.slow
def test_files_have_the_published_names_where_they_are_asked_for(numpy_root, done, tmp_path) -> None:
    words = ("algo=bc", "bridgedata=lift_carrot_100", f"data_path={numpy_root}", f"data_dir={tmp_path}", "layout=qc")
    done("train", *words, *SMALL, "save_dir=runs")
    assert (only(tmp_path / "runs") / "offline_agent.csv").is_file()
