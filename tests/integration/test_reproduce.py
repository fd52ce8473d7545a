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


def write(source: str, path: Path, name: str, observation: int, action: int) -> None:
    """Write two short episodes in the form of a source's published files."""
    random = np.random.default_rng(0)
    episodes = [
        {
            "observations": random.normal(size=(12, observation)).astype(np.float32),
            "actions": random.uniform(-1, 1, (12, action)).astype(np.float32),
            "rewards": np.where(np.arange(12) == 11, 0.0, -1.0).astype(np.float32),
            "terminals": np.arange(12) == 11,
            "final_observation": random.normal(size=observation).astype(np.float32),
        }
        for _ in range(2)
    ]
    sources.get(source).write(path, episodes, name, {})


@pytest.mark.slow
def test_ours_stands_beside_the_published_numbers_and_resume_prints_them_again(done, tmp_path: Path) -> None:
    write("robomimic", tmp_path / "low_dim_v15.hdf5", "lift-mh-low_dim", 19, 7)
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


SMALL = (
    *("seeds=[0,1]", "training_steps=6", "eval_interval=2", "log_interval=6", "eval_episodes=2", "eval_max_steps=3"),
    *("batch_size=8", "tracking_uri=none", "data_dir=data", "save_dir=runs"),
)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("study", "source", "name", "file", "sizes", "words", "rows"),
    [
        (
            *("robomimic-mh", "robomimic", "square-mh-low_dim", "low_dim_v15.hdf5", (23, 7)),
            ("--tasks", "square", "bc.hidden_dims=[8]", "rnn_hidden_dim=8"),
            [("square", "bc", "6 updates", "53 ± 7"), ("square", "bc_rnn", "6 updates", "78 ± 4")],
        ),
        (
            *("d4rl", "d4rl", "hopper-medium-expert-v2", "hopper.hdf5", (11, 3)),
            ("--tasks", "hopper-medium-expert-v2", "algo=td3_bc,iql", "hidden_dims=[8]"),
            [
                ("hopper-medium-expert-v2", "td3_bc", "6 updates", "101.2 ± 9.1"),
                ("hopper-medium-expert-v2", "iql", "6 updates", "107.4 ± 7.8"),
            ],
        ),
        (
            *("ogbench", "ogbench", "pointmaze-medium-navigate-v0", "pointmaze-medium-navigate-v0.npz", (2, 2)),
            ("--tasks", "pointmaze-medium-navigate", "hidden_dims=[8]"),
            [("pointmaze-medium-navigate", "6 updates", "9 ± 6")],
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_each_study_ends_with_its_numbers_beside_ours(
    study, source, name, file, sizes, words, rows, done, tmp_path: Path
) -> None:
    write(source, tmp_path / file, name, *sizes)
    done("data", "import", source, file, "--name", name, "--data_dir", "data")
    said = done("reproduce", study, *words, *SMALL)
    (table,) = tmp_path.glob("runs/**/published.csv")
    made = list(csv.reader(table.read_text().splitlines()))
    wanted = [tuple(row[: len(rows[0])]) for row in made[1:]]
    assert wanted == rows
    assert all(row[-2] not in ("-", "") for row in made[1:])
    counted = {"robomimic-mh": ", the best of each seed", "d4rl": "", "ogbench": ", mean of the last 3"}[study]
    assert {row[-1] for row in made[1:]} == {f"2 x 2{counted}"}
    assert "what differs: " in said


def test_options_without_published_results_are_refused(say) -> None:
    assert "Q-chunking" in say("reproduce").out
    for words in (("--tasks", "lift"), ("--cfg",)):
        said = say("reproduce", *words)
        assert (said.code, said.err) == (
            2,
            "understudy: which published results? There is: d4rl, ogbench, qc, robomimic-mh\n",
        )
