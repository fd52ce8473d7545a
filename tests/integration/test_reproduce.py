"""A published protocol in small, on a file of the published form: ours stands beside the published numbers."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest

from understudy.registry import sources

WORDS = (
    *("seeds=[0,1]", "training_steps=6", "online_steps=6", "start_training=2", "eval_interval=6", "log_interval=6"),
    *("eval_episodes=2", "eval_max_steps=6", "batch_size=8", "hidden_dims=[8]", "num_samples=2", "tracking_uri=none"),
)


def write_lift(path: Path) -> None:
    random = np.random.default_rng(0)
    episodes = [
        {
            "observations": random.normal(size=(12, 19)).astype(np.float32),
            "actions": random.uniform(-1, 1, (12, 7)).astype(np.float32),
            "rewards": np.where(np.arange(12) == 11, 0.0, -1.0).astype(np.float32),
            "terminals": np.arange(12) == 11,
            "final_observation": random.normal(size=19).astype(np.float32),
        }
        for _ in range(2)
    ]
    sources.get("robomimic").write(path, episodes, "lift-mh-low_dim", {})


@pytest.mark.slow
def test_ours_stands_beside_the_published_numbers_and_resume_prints_them_again(done, tmp_path: Path) -> None:
    write_lift(tmp_path / "low_dim_v15.hdf5")
    done("data", "import", "robomimic", "low_dim_v15.hdf5", "--name", "lift-mh-low_dim", "--data_dir", "data")
    said = done("reproduce", "qc", "--tasks", "lift", *WORDS, "data_dir=data", "save_dir=runs")
    (table,) = tmp_path.glob("runs/**/published.csv")
    rows = list(csv.reader(table.read_text().splitlines()))
    assert rows[0] == ["tasks", "after", "published %", "here %", "seeds x episodes"]
    assert [row[:3] for row in rows[1:]] == [
        ["lift", "6 updates", "97 [95, 99]"],
        ["lift", "6 updates, 6 steps", "100"],
    ]
    assert [row[4] for row in rows[1:]] == ["2 x 2", "2 x 2"]
    assert rows[1][3].startswith("0 [0, ")
    assert "not as published, lift-mh-low_dim: " in said
    assert "training_steps=6" in said.replace("\n", "")
    again = done("resume", str(table.parent))
    assert "97 [95, 99]" in again


def test_options_without_published_results_are_refused(say) -> None:
    assert "Q-chunking" in say("reproduce").out
    for words in (("--tasks", "lift"), ("--cfg",)):
        said = say("reproduce", *words)
        assert (said.code, said.err) == (2, "understudy: which published results? There is: qc\n")
