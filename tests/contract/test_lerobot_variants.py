"""LeRobot datasets as others leave them: of v2, with tasks and splits said in other ways, without statistics."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from tests.contract.lerobot_examples import CAMERA, FPS, LENGTHS, H, W, decoded, foreign, rows_of, scene, video
from tests.contract.source_examples import copy, one_line, same_episodes

from understudy.envs.sources.lerobot.writer import LeRobotWriter
from understudy.envs.sources.source import task_of
from understudy.envs.store.transfer import ImportOptions, episodes_of, import_file
from understudy.errors import DatasetError, UserError
from understudy.registry import sources

SOURCE = sources.get("lerobot")
NAME = "lerobot:a/b"
INFO, TASKS = "meta/info.json", "meta/tasks.parquet"
TEXTS = ["task 0 ✓", "task 1 ✓"]


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    return foreign(tmp_path_factory.mktemp("whole") / "set")


@pytest.fixture
def root(whole, tmp_path) -> Path:
    return copy(whole, tmp_path / "set")


def read(root: Path, **options: Any) -> list[dict[str, Any]]:
    return [dict(episode) for episode in SOURCE.task(NAME).read(root, **options)]


def refused(root: Path, *parts: str, **options: Any) -> str:
    with pytest.raises(UserError) as error:
        read(root, **options)
    said = one_line(error, *parts)
    assert "damaged" not in said
    return said


def change_info(root: Path, **changes: Any) -> None:
    info = json.loads((root / INFO).read_text())
    (root / INFO).write_text(json.dumps({**info, **changes}))


def v2(root: Path, version: str, chunk_size: int = 1000) -> Path:
    """Write the episodes of `foreign` as LeRobot's older versions keep them: a file for each, and lines of JSON."""
    info = json.loads((foreign(root.with_name("v3")) / INFO).read_text())
    info |= {
        "codebase_version": version, "chunks_size": chunk_size, "total_videos": 4, "total_chunks": 4 // chunk_size + 1,
        "splits": {"train": "0:4"},
        "data_path": "data/chunk-{episode_chunk:03d}/episode_{episode_index:06d}.parquet",
        "video_path": "videos/chunk-{episode_chunk:03d}/{video_key}/episode_{episode_index:06d}.mp4",
    }  # fmt: skip
    lines = []
    for number, length in enumerate(LENGTHS):
        at = {"episode_chunk": number // chunk_size, "episode_index": number}
        file = root / info["data_path"].format(**at)
        file.parent.mkdir(parents=True, exist_ok=True)
        rows_of(number).to_parquet(file, index=False)
        video(root / info["video_path"].format(video_key=CAMERA, **at), scene(length, number))
        lines.append({"episode_index": number, "tasks": [TEXTS[number % 2]], "length": length})
    (root / "meta").mkdir()
    (root / INFO).write_text(json.dumps(info))
    jsonl(root / "meta/episodes.jsonl", lines)
    jsonl(root / "meta/tasks.jsonl", [{"task_index": number, "task": text} for number, text in enumerate(TEXTS)])
    if version == "v2.1":
        jsonl(root / "meta/episodes_stats.jsonl", [{"episode_index": n, "stats": {}} for n in range(4)])
    return root


def jsonl(file: Path, rows: list[dict[str, Any]]) -> None:
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))


@pytest.mark.parametrize(("version", "chunk_size"), [("v2.0", 1000), ("v2.1", 1000), ("v2.1", 3)])
def test_the_older_versions_give_the_same_episodes(whole, tmp_path, version, chunk_size) -> None:
    root = v2(tmp_path / "set", version, chunk_size)
    found, wanted = read(root), read(whole)
    for number, (one, other) in enumerate(zip(found, wanted, strict=True)):
        assert one["language"] == other["language"] == TEXTS[number % 2]
        files = sorted(root.glob(f"videos/*/{CAMERA}/episode_{number:06d}.mp4"))
        np.testing.assert_array_equal(one.pop("images/top"), decoded(files[0]))
        other.pop("images/top")
        other = {name: value for name, value in other.items() if not name.startswith("mask/")}
        same_episodes([one], [other])
    store = import_file(task_of(NAME), root, tmp_path / "stores")
    assert store.manifest.provenance["codebase_version"] == version
    assert store.manifest.provenance["cameras"] == {"images/top": f"{W} x {H}, video"}


@pytest.mark.parametrize(
    ("file", "content", "said"),
    [
        ("meta/episodes.jsonl", "", "no episode 0, meta/info.json says there are 4"),
        ("meta/episodes.jsonl", '{"episode_index": 0, "tas', "line 1 is no JSON"),
        ("meta/episodes.jsonl", "[1]\n", "line 1 is list, an object is expected"),
        ("meta/episodes.jsonl", '{"episode_index": 0}\n', "no 'length' in it"),
        ("meta/tasks.jsonl", '{"task_index": 0}\n', "no 'task' in it"),
        ("meta/tasks.jsonl", '{"task_index": 0, "task": null}\n', "the text of task 0 is None"),
    ],
)
def test_lines_that_say_something_else_are_named(tmp_path, file, content, said) -> None:
    root = v2(tmp_path / "set", "v2.1")
    (root / file).write_text(content)
    with pytest.raises(DatasetError) as error:
        read(root)
    one_line(error, said)


def test_nothing_is_added_to_an_older_version(tmp_path) -> None:
    root = v2(tmp_path / "set", "v2.1")
    with pytest.raises(DatasetError) as error:
        LeRobotWriter(root, fps=FPS)
    one_line(error, "is LeRobot v2.1; only v3.0 is added to")


def index_and_column() -> pd.DataFrame:
    return pd.DataFrame({"task_index": [0, 1], "task": TEXTS}, index=pd.Index(TEXTS))


TABLES = {
    "index named task": lambda: pd.DataFrame({"task_index": [0, 1]}, index=pd.Index(TEXTS, name="task")),
    "index without a name": lambda: pd.DataFrame({"task_index": [0, 1]}, index=pd.Index(TEXTS)),
    "column": lambda: pd.DataFrame({"task_index": [0, 1], "task": TEXTS}),
    "column, numbers as index": lambda: pd.DataFrame({"task_index": [0, 1], "task": TEXTS}, index=[5, 6]),
    "index and column": index_and_column,
    "index and column and more": lambda: index_and_column().assign(category=["pick", "put"], difficulty=[1, 2]),
    "another order": lambda: index_and_column().iloc[::-1],
    "a category": lambda: pd.DataFrame({"task_index": [0, 1], "task": pd.Categorical(TEXTS)}),
    "a column of another name": lambda: pd.DataFrame({"task_index": [0, 1], "instruction": TEXTS}),
    "numbers as index of the table": lambda: pd.DataFrame({"task": TEXTS}, index=pd.Index([0, 1], name="task_index")),
}


@pytest.mark.parametrize("table", TABLES)
def test_the_texts_of_tasks_are_found_wherever_they_stand(root, table) -> None:
    TABLES[table]().to_parquet(root / TASKS)
    assert [episode["language"] for episode in read(root)] == [TEXTS[number % 2] for number in range(4)]


@pytest.mark.parametrize(
    ("table", "said"),
    [
        (
            index_and_column().assign(task=["task 0 ✓", "other"]),
            "task 1 is 'task 1 ✓' in the index and 'other' in the column 'task'",
        ),
        (pd.DataFrame({"task": TEXTS}), "no 'task_index' in it"),
        (pd.DataFrame({"task_index": [0, 1]}), "the text of a task is expected as index of the table"),
        (pd.DataFrame({"task_index": [0, 1], "a": TEXTS, "b": TEXTS}), "columns task_index, a, b; the text of a task"),
        (pd.DataFrame({"task_index": [0, 0], "task": TEXTS}), "task 0 is both 'task 0 ✓' and 'task 1 ✓'"),
        (pd.DataFrame({"task_index": [0, 1], "task": ["a", None]}), "the text of task 1 is None"),
    ],
    ids=lambda value: value[:20] if isinstance(value, str) else "",
)
def test_tasks_that_contradict_themselves_are_named_and_not_called_damaged(root, table, said) -> None:
    table.to_parquet(root / TASKS)
    refused(root, str(root / TASKS), said)


@pytest.mark.parametrize(
    ("splits", "masks"),
    [
        ({"train": "0:4"}, {}),
        ({"train": [0, 4]}, {}),
        (None, {}),
        ({}, {}),
        ({"train": "0:3", "val": "3:4"}, {"train": [1, 1, 1, 0], "val": [0, 0, 0, 1]}),
        ({"train": [0, 1, 2], "val": [3]}, {"train": [1, 1, 1, 0], "val": [0, 0, 0, 1]}),
        ({"train": ["0:1", "2:4"], "val": "1"}, {"train": [1, 0, 1, 1], "val": [0, 1, 0, 0]}),
        ({"train": "0:1,2:4"}, {"train": [1, 0, 1, 1]}),
        ({"train": ":3", "val": "3:"}, {"train": [1, 1, 1, 0], "val": [0, 0, 0, 1]}),
        ({"train": [], "all": "0:9"}, {"train": [0, 0, 0, 0], "all": [1, 1, 1, 1]}),
    ],
    ids=str,
)
def test_splits_are_ranges_or_lists(root, splits, masks) -> None:
    change_info(root, splits=splits)
    found = read(root)
    assert {name for name in found[0] if name.startswith("mask/")} == {f"mask/{name}" for name in masks}
    for name, wanted in masks.items():
        assert [int(episode[f"mask/{name}"]) for episode in found] == wanted


@pytest.mark.parametrize(
    "splits",
    [{"train": "all"}, {"train": 3}, {"train": None}, {"train": {"from": 0}}, {"train": "3:1"}, {"train": [-1]}, "0:4"],
    ids=str,
)
def test_splits_that_are_something_else_are_named(root, splits) -> None:
    change_info(root, splits=splits)
    refused(root, str(root / INFO), "split")


def test_statistics_may_be_missing_or_anything(whole, root) -> None:
    (root / "meta/stats.json").write_text("not JSON")
    same_episodes(read(root), read(whole))
    assert not (whole / "meta/stats.json").exists()


def shift_starts(root: Path, seconds: float) -> None:
    """Move the starts of episodes in their videos, as sums of rounded lengths do."""
    for file in sorted(root.glob("meta/episodes/*/*.parquet")):
        rows = pd.read_parquet(file)
        rows[f"videos/{CAMERA}/from_timestamp"] += seconds
        rows.to_parquet(file)


@pytest.mark.parametrize("seconds", [0.0002, -0.0004, 0.004, -0.01])
def test_times_a_little_off_are_refused_with_the_key_that_allows_them(whole, root, tmp_path, seconds) -> None:
    shift_starts(root, seconds)
    said = refused(root, "no frame within 0.0001 s of", "--tolerance_s")
    tolerance = float(said.partition("--tolerance_s ")[2].split("`")[0])
    assert abs(seconds) < tolerance < 0.5 / FPS
    store = import_file(task_of(NAME), root, tmp_path / "stores", ImportOptions(reading={"tolerance_s": tolerance}))
    same_episodes(episodes_of(store), read(whole))
    assert store.manifest.provenance["reading"] == {"tolerance_s": tolerance}


def test_times_between_two_frames_are_refused_for_good(root) -> None:
    shift_starts(root, 0.5 / FPS)
    assert "tolerance" not in refused(root, "no frame within")


def test_time_stamps_a_little_off_are_refused_with_the_key_that_allows_them(whole, root) -> None:
    for file in sorted(root.glob("data/*/*.parquet")):
        rows = pd.read_parquet(file)
        rows["timestamp"] += np.float32(0.0003)
        rows.to_parquet(file)
    refused(root, "0.0001 s is tolerated", "--tolerance_s 0.001")
    same_episodes(read(root, tolerance_s=0.001), read(whole))


@pytest.mark.parametrize("tolerance", [0.0, -1.0, 0.5 / FPS, 9.0, float("nan")])
def test_a_tolerance_that_makes_no_sense_is_refused(root, tolerance) -> None:
    refused(root, "tolerance_s=", "below half a frame", tolerance_s=tolerance)


@pytest.mark.parametrize("note", [True, "h264", [1], 0.5])
def test_a_cameras_note_that_is_no_object_changes_nothing(root, tmp_path, note) -> None:
    features = json.loads((root / INFO).read_text())["features"]
    features[CAMERA]["info"] = note
    change_info(root, features=features)
    assert import_file(task_of(NAME), root, tmp_path / "stores").lengths.tolist() == list(LENGTHS)
