"""LeRobot datasets of other converters: depth in 16-bit PNGs, pictures kept as plain numbers, tasks that change."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from understudy.envs.sources.source import task_of
from understudy.envs.store.inspection import notes_of
from understudy.envs.store.row_texts import row_texts
from understudy.envs.store.store import EpisodeStore
from understudy.envs.store.transfer import export_store, import_file
from understudy.envs.store.writer import StoreWriter

STEPS = 6
RNG = np.random.default_rng(0)
PICTURES = RNG.integers(0, 256, (STEPS, 16, 24, 3)).astype(np.uint8)


def imported(tmp_path: Path, feature: dict[str, Any] | None = None, values: list[Any] | None = None) -> EpisodeStore:
    """Import a dataset of one episode, with a further feature, whose task changes after two steps."""
    root = tmp_path / "set"
    for folder in ("meta/episodes/chunk-000", "data/chunk-000"):
        (root / folder).mkdir(parents=True)
    numbers = {
        "timestamp": "float32",
        **dict.fromkeys(("frame_index", "episode_index", "index", "task_index"), "int64"),
    }
    features: dict[str, Any] = {key: {"dtype": kind, "shape": [1], "names": None} for key, kind in numbers.items()}
    features["observation.state"] = {"dtype": "float32", "shape": [4], "names": None}
    features["action"] = {"dtype": "float32", "shape": [2], "names": None}
    steps = np.arange(STEPS)
    columns: dict[str, Any] = {
        **{"timestamp": pa.array((steps / 10).astype(np.float32)), "frame_index": pa.array(steps)},
        **{"episode_index": pa.array(steps * 0), "index": pa.array(steps), "task_index": pa.array((steps > 1) * 1)},
        "observation.state": pa.array(RNG.normal(size=(STEPS, 4)).astype(np.float32).tolist(), pa.list_(pa.float32())),
        "action": pa.array(RNG.uniform(-1, 1, (STEPS, 2)).astype(np.float32).tolist(), pa.list_(pa.float32())),
    }
    if feature is not None:
        features["observation.images.front"], columns["observation.images.front"] = feature, pa.array(values)
    pq.write_table(pa.table(columns), root / "data/chunk-000/file-000.parquet")
    episode = {
        **{"episode_index": 0, "tasks": ["pick the cup up"], "length": STEPS, "data/chunk_index": 0},
        **{"data/file_index": 0, "dataset_from_index": 0, "dataset_to_index": STEPS},
    }
    pq.write_table(pa.Table.from_pylist([episode]), root / "meta/episodes/chunk-000/file-000.parquet")
    texts = {"task_index": [0, 1], "task": ["pick the cup up", "put the cup down"]}
    pq.write_table(pa.table(texts), root / "meta/tasks.parquet")
    place = "chunk-{chunk_index:03d}/file-{file_index:03d}"
    info = {
        **{"codebase_version": "v3.0", "robot_type": "arm", "total_episodes": 1, "total_frames": STEPS, "fps": 10},
        **{"total_tasks": 2, "chunks_size": 1000, "splits": {"train": "0:1"}, "features": features},
        **{"data_path": f"data/{place}.parquet", "video_path": "videos/{video_key}/" + place + ".mp4"},
    }
    (root / "meta/info.json").write_text(json.dumps(info))
    (root / "meta/stats.json").write_text("{}")
    return import_file(task_of(f"lerobot:{root}"), root, tmp_path / "data")


def png(picture: np.ndarray) -> dict[str, Any]:
    """Return a picture as LeRobot embeds it."""
    return {"bytes": cv2.imencode(".png", picture)[1].tobytes(), "path": None}


def image(channels: int) -> dict[str, Any]:
    """Return a feature of embedded pictures."""
    return {"dtype": "image", "shape": [16, 24, channels], "names": ["height", "width", "channels"]}


def test_depth_in_16_bit_pngs_is_left_out_and_said(tmp_path) -> None:
    store = imported(tmp_path, image(1), [png(RNG.integers(300, 4000, (16, 24)).astype(np.uint16))] * STEPS)
    assert "images/front" not in store.manifest.columns
    assert any("images/front" in note and "left out" in note for note in notes_of(store))


def test_light_in_16_bit_pngs_becomes_8_bits(tmp_path) -> None:
    store = imported(tmp_path, image(3), [png(one[..., ::-1].astype(np.uint16) * 257) for one in PICTURES])
    np.testing.assert_array_equal(store.frames("images/front").gather(np.arange(STEPS)), PICTURES)
    assert any("images/front" in note and "uint16" in note for note in notes_of(store))


@pytest.mark.parametrize("names", [None, ["channel", "height", "width"], ["height", "width", "rgb"]])
def test_pictures_that_a_converter_kept_as_numbers_are_a_camera(tmp_path, names) -> None:
    first = names is not None and names[0] == "channel"
    rows = np.moveaxis(PICTURES, -1, 1) if first else PICTURES
    feature = {"dtype": "uint8", "shape": list(rows.shape[1:]), "names": names}
    store = imported(tmp_path, feature, rows.tolist())
    np.testing.assert_array_equal(store.frames("images/front").gather(np.arange(STEPS)), PICTURES)


def test_a_task_that_changes_within_an_episode_is_kept_row_by_row(tmp_path) -> None:
    store = imported(tmp_path)
    texts = ["pick the cup up"] * 2 + ["put the cup down"] * 4
    assert row_texts(store, np.arange(STEPS)) == texts
    assert row_texts(store, np.array([5, 0])) == [texts[5], texts[0]]
    assert store.texts("language") == ["pick the cup up"]
    (note,) = [note for note in notes_of(store) if "task" in note]
    assert "'pick the cup up', 'put the cup down'" in note
    assert "left out" not in note


def test_tasks_of_rows_come_back_when_exported(tmp_path) -> None:
    store = imported(tmp_path)
    back = export_store(store, tmp_path / "back", "lerobot", settings={"pictures": "image"})
    tasks = pq.read_table(back / "meta/tasks.parquet").to_pylist()
    texts = {row["task_index"]: row["task"] for row in tasks}
    rows = pq.read_table(next(back.glob("data/*/*.parquet")))["task_index"].to_pylist()
    assert [texts[number] for number in rows] == ["pick the cup up"] * 2 + ["put the cup down"] * 4
    assert pq.read_table(next(back.glob("meta/episodes/*/*.parquet")))["tasks"].to_pylist() == [list(texts.values())]
    again = import_file(task_of(f"lerobot:{back}"), back, tmp_path / "again")
    assert row_texts(again, np.arange(STEPS)) == row_texts(store, np.arange(STEPS))
    assert again.manifest.content_hash == store.manifest.content_hash
    assert again.manifest.provenance["task_texts"] == store.manifest.provenance["task_texts"]


def test_episodes_of_one_task_each_have_its_text_in_every_row(tmp_path) -> None:
    rows = {"observations": np.zeros((2, 3)), "actions": np.zeros((2, 1)), "rewards": np.zeros(2), "terminals": [0, 1]}
    with StoreWriter(tmp_path / "s", name="s", source="lerobot", env_id="x") as writer:
        for text in ("push", "pull"):
            writer.add_episode({**rows, "language": text})
    store = EpisodeStore.open(tmp_path / "s")
    assert row_texts(store, np.array([0, 3, 1])) == ["push", "pull", "push"]
    assert "task_texts" not in store.manifest.provenance


@pytest.mark.parametrize("told", [{}, {"language": "reach"}, {"language": "reach", "rows": True}])
def test_tasks_that_others_gave_the_rows_of_what_was_exported_are_kept(tmp_path, told) -> None:
    if told.get("rows"):  # its own tasks change too
        store = imported(tmp_path)
    else:
        rows = {"observations": np.zeros((STEPS, 3)), "actions": np.zeros((STEPS, 1)), "rewards": np.zeros(STEPS)}
        with StoreWriter(tmp_path / "s", name="s", source="lerobot", env_id="x") as writer:
            for _ in range(2):
                writer.add_episode({**rows, **told, "terminals": np.arange(STEPS) == STEPS - 1})
        store = EpisodeStore.open(tmp_path / "s")
    back = export_store(store, tmp_path / "back", "lerobot", settings={"pictures": "image"})
    unchanged = import_file(task_of(f"lerobot:{back}"), back, tmp_path / "unchanged")
    assert unchanged.manifest.content_hash == store.manifest.content_hash

    file, data = back / "meta/tasks.parquet", next(back.glob("data/*/*.parquet"))
    held = {row["task_index"]: row["task"] for row in pq.read_table(file).to_pylist()}
    new = len(held)
    texts = {**held, new: "lift it"}
    pq.write_table(pa.table({"task_index": list(texts), "task": list(texts.values())}), file)
    table = pq.read_table(data)
    numbers = np.where(np.arange(table.num_rows) == 3, new, table["task_index"].to_numpy())
    place = table.schema.get_field_index("task_index")
    pq.write_table(table.set_column(place, "task_index", pa.array(numbers)), data)
    edited = import_file(task_of(f"lerobot:{back}"), back, tmp_path / "edited")
    assert row_texts(edited, np.arange(table.num_rows)) == [texts[number] for number in numbers.tolist()]
    assert any("'lift it'" in note and "changes within 1 episodes" in note for note in notes_of(edited))


def test_a_task_that_others_gave_a_whole_episode_of_what_was_exported_is_kept(tmp_path) -> None:
    rows = {"observations": np.zeros((STEPS, 3)), "actions": np.zeros((STEPS, 1)), "rewards": np.zeros(STEPS)}
    with StoreWriter(tmp_path / "s", name="s", source="lerobot", env_id="x") as writer:
        writer.add_episode({**rows, "terminals": np.arange(STEPS) == STEPS - 1})
    back = export_store(EpisodeStore.open(tmp_path / "s"), tmp_path / "back", "lerobot")
    pq.write_table(pa.table({"task_index": [0], "task": ["lift it"]}), back / "meta/tasks.parquet")
    edited = import_file(task_of(f"lerobot:{back}"), back, tmp_path / "edited")
    assert edited.texts("language") == ["lift it"]
