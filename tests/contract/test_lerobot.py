"""LeRobot's format as others write it is read right; damage and contradictions are one line; names are places."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import av
import numpy as np
import pandas as pd
import pytest
from tests.contract.lerobot_examples import (
    CAMERA,
    FINGERS,
    FPS,
    LENGTHS,
    PLACES,
    SOURCE,
    STATE,
    H,
    W,
    decoded,
    foreign,
    read,
    rows_of,
    scene,
    video,
    written,
)
from tests.contract.source_examples import copy, one_line, same_episodes

from understudy.envs.sources.lerobot.video import FrameReader, read_frames
from understudy.envs.sources.source import task_of
from understudy.envs.store.inspection import describe_store
from understudy.envs.store.transfer import import_file
from understudy.errors import DatasetError, UserError
from understudy.spec.keys import build_run
from understudy.spec.run import RunSpec
from understudy.trainables.loops.data import environment_of, open_data


def refused(root: Path, *parts: str) -> str:
    """Return the one line that reading `root` is refused with."""
    with pytest.raises(DatasetError) as error:
        import_file(task_of("lerobot:any/thing"), root, root.parent / "stores")
    assert not (root.parent / "stores").exists() or not list((root.parent / "stores").iterdir())
    return one_line(error, str(root), *parts)


@pytest.mark.parametrize("codec", ["libx264", "libsvtav1"])
def test_a_dataset_of_lerobots_is_read_with_its_frames_in_their_places(tmp_path, codec) -> None:
    root = foreign(tmp_path / "set", codec)
    found = read(root)
    by_file = {
        place: decoded(root / f"videos/{CAMERA}/chunk-{place[0]:03d}/file-{place[1]:03d}.mp4") for place in PLACES
    }
    for number, episode in enumerate(found):
        rows = rows_of(number)
        before = sum(LENGTHS[other] for other in range(number) if PLACES[other] == PLACES[number])
        frames = by_file[PLACES[number]][before : before + LENGTHS[number]]
        np.testing.assert_array_equal(episode.pop("images/top"), frames)
        wanted = {
            "observations": np.stack(rows["observation.state"].tolist()),
            "environment_state": np.stack(rows["observation.environment_state"].tolist()),
            "actions": np.stack(rows["action"].tolist()),
            "rewards": rows["next.reward"].to_numpy(),
            "terminals": rows["next.done"].to_numpy(),
            "task_index": np.full(LENGTHS[number], number % 2),
            "language": f"task {number % 2} ✓",
            "mask/train": np.uint8(number < 3),
            "mask/val": np.uint8(number == 3),
        }
        same_episodes([episode], [wanted])


def test_what_is_left_out_is_said(tmp_path) -> None:
    found = SOURCE.task("lerobot:any/thing").provenance(foreign(tmp_path / "set"))
    assert found == {
        "codebase_version": "v3.0", "fps": FPS, "robot_type": "so101", "cameras": {"images/top": "48 x 32, video"},
        "tasks": 2, "rewards": "as in the dataset",
        "left_out": ["subtask: string", "observation.images.depth: a depth map"],
    }  # fmt: skip


def test_frames_read_at_random_are_those_of_an_independent_decode(tmp_path) -> None:
    for codec, options in {"libx264": {}, "libsvtav1": {"g": "2"}}.items():
        video(tmp_path / "long.mp4", scene(70, 0), codec, **options)
        wanted = decoded(tmp_path / "long.mp4")
        rng = np.random.default_rng(0)
        with FrameReader(tmp_path / "long.mp4") as reader:
            for _ in range(12):
                places = rng.integers(0, 70, 3)
                times = places / FPS + rng.uniform(-9e-5, 9e-5, 3)
                np.testing.assert_array_equal(reader.read(times), wanted[places])
                np.testing.assert_array_equal(read_frames(tmp_path / "long.mp4", times), wanted[places])


@pytest.mark.parametrize("time", [0.10012, 2.3334, -0.0002, 100.0])
def test_a_time_without_a_frame_is_refused_and_the_next_is_found(tmp_path, time) -> None:
    video(tmp_path / "x.mp4", scene(70, 0))
    with FrameReader(tmp_path / "x.mp4") as reader:
        with pytest.raises(DatasetError) as error:
            reader.read([time])
        one_line(error, "no frame within 0.0001 s of", f"{time:.4f} s; the nearest")
        np.testing.assert_array_equal(reader.read([0.5]), decoded(tmp_path / "x.mp4")[15:16])


def edit(file: Path, change: Callable[[Any], Any]) -> None:
    """Change a JSON file, or a parquet file through pandas."""
    if file.suffix == ".json":
        data = json.loads(file.read_text())
        file.write_text(json.dumps(change(data) or data))
    else:
        frame = pd.read_parquet(file)
        (frame if (changed := change(frame)) is None else changed).to_parquet(file)


def put(key: str, value: Any, row: int | None = None) -> Callable[[Any], None]:
    """Return a change that sets a key, or a cell."""

    def change(data: Any) -> None:
        if row is None:
            data[key] = value
        else:
            data[key] = [value if number == row else old for number, old in enumerate(data[key])]

    return change


def feature(key: str, **values: Any) -> Callable[[Any], None]:
    return lambda info: info["features"][key].update(values)


INFO, TASKS, EPISODES = "meta/info.json", "meta/tasks.parquet", "meta/episodes/chunk-000/file-000.parquet"
DATA, MP4 = "data/chunk-000/file-000.parquet", f"videos/{CAMERA}/chunk-000/file-000.mp4"
CHANGES = [
    (
        INFO,
        put("codebase_version", "v1.6"),
        "LeRobot version 'v1.6', this understudy reads v2.0, v2.1 and v3.0; LeRobot converts",
    ),
    (INFO, put("codebase_version", "v4.0"), "LeRobot version 'v4.0', this understudy reads v2.0, v2.1 and v3.0"),
    (INFO, put("fps", 0), "fps 0"),
    (
        INFO,
        put("fps", 25),
        "0.0333333 s, 0.04 s is expected at 25 frames a second; 0.0001 s is tolerated",
    ),
    (INFO, put("total_episodes", 5), "no episode 4"),
    (INFO, put("total_frames", 26), "25 frames, meta/info.json says 26"),
    (INFO, put("total_episodes", 0), "holds no episodes"),
    (INFO, put("features", []), "features is []"),
    (INFO, put("splits", {"train": "all"}), "split 'train' is 'all'; a range of episodes like '0:4'"),
    (INFO, put("splits", ["train"]), "splits is ['train']; an object like"),
    (INFO, put("data_path", "../{chunk_index}/{file_index}"), "leads out of the dataset"),
    (INFO, put("video_path", "/etc/passwd"), "leads out of the dataset"),
    (INFO, put("video_path", "{video_key.__class__}"), ""),
    (INFO, feature("action", shape=[3]), "action has 2 numbers a row, info.json says shape [3]"),
    (INFO, feature(CAMERA, shape=[3, W, H]), "frames are 48 x 32, info.json says 32 x 48"),
    (INFO, feature(CAMERA, dtype="image"), f"no column '{CAMERA}'"),
    (INFO, lambda info: info["features"].pop("action") and None, "no feature 'action'"),
    (INFO, lambda info: info["features"].update({"images.a": info["features"][CAMERA]}), "videos/images.a/"),
    (TASKS, put("task_index", 8, 0), "is of task 0, which meta/tasks has not"),
    (EPISODES, put("length", 6, 0), "frames, meta/info.json says 25"),
    (EPISODES, lambda rows: rows.assign(length=[6, 6, 9]), "episode 0 has 7 rows, meta/episodes says 6"),
    (EPISODES, lambda rows: rows.assign(length=[9, 3, 9]), "episode 0 has 7 rows, meta/episodes says 9"),
    (EPISODES, lambda rows: rows.iloc[:2], "no episode 2"),
    (EPISODES, lambda rows: rows.assign(episode_index=[0, 0, 2]), "episode 0 is there twice"),
    (EPISODES, put("data/file_index", 7, 1), "file-007.parquet: no such file"),
    (EPISODES, put(f"videos/{CAMERA}/file_index", 7, 1), "file-007.mp4: no such file"),
    (EPISODES, put(f"videos/{CAMERA}/from_timestamp", 0.2335, 1), "no frame within 0.0001 s of 0.2335 s; the nearest"),
    (EPISODES, put(f"videos/{CAMERA}/from_timestamp", 8 / FPS, 1), "no frame within 0.0001 s of 0.4000 s; the nearest"),
    (EPISODES, lambda rows: rows.drop(columns="data/file_index"), "data/file_index"),
    (DATA, put("timestamp", 0.0335, 1), "frame 1 is at 0.0335 s, 0.0333333 s is expected"),
    (DATA, put("timestamp", float("nan"), 3), "frame 3 is at nan s"),
    (DATA, put("frame_index", 9, 3), "frame_index does not count from 0 to 6"),
    (DATA, lambda rows: rows.iloc[:9], "episode 1 has 2 rows, meta/episodes says 5"),
    (DATA, lambda rows: rows.drop(columns="action"), "no column 'action'"),
    (DATA, put("action", None, 2), "action has rows with nothing in them"),
    (DATA, put("action", np.array([1.0], np.float32), 2), "action has"),
    (DATA, lambda rows: rows.assign(action="left"), "action"),
    (DATA, put("observation.state", np.full(STATE, np.nan, np.float32), 2), "observation.state has missing numbers"),
]


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    """A whole dataset of others, which no test may change."""
    return foreign(tmp_path_factory.mktemp("whole") / "set")


@pytest.mark.parametrize(("file", "change", "said"), CHANGES)
def test_files_that_contradict_each_other_are_one_line(whole, tmp_path, file, change, said) -> None:
    root = copy(whole, tmp_path / "set")
    edit(root / file, change)
    refused(root, said)


@pytest.mark.parametrize("file", [INFO, TASKS, EPISODES, DATA, MP4])
@pytest.mark.parametrize("damage", ["missing", "empty", "cut", "half", "noise", "folder"])
def test_damage_of_any_file_is_one_line_that_names_it(whole, tmp_path, file, damage) -> None:
    root = copy(whole, tmp_path / "set")
    path = root / file
    data = path.read_bytes()
    path.unlink()
    if damage == "folder":
        path.mkdir()
    elif damage != "missing":
        noise = np.random.default_rng(0).bytes(len(data))
        cut = {"empty": b"", "cut": data[: len(data) * 9 // 10], "half": data[: len(data) // 2], "noise": noise}
        path.write_bytes(cut[damage])
    refused(root, str(root / "meta/episodes") if file == EPISODES else "" if file == INFO else str(path))


def test_a_video_with_its_index_in_front_that_was_cut_short_is_refused(tmp_path) -> None:
    root = foreign(tmp_path / "set")
    with (
        av.open(str(root / MP4)) as old,
        av.open(str(tmp_path / "new.mp4"), "w", options={"movflags": "faststart"}) as new,
    ):
        stream = new.add_stream_from_template(old.streams.video[0], opaque=True)
        for packet in old.demux(video=0):
            if packet.dts is not None:
                packet.stream = stream
                new.mux(packet)
    data = (tmp_path / "new.mp4").read_bytes()
    (root / MP4).write_bytes(data[: int(len(data) * 0.7)])
    refused(root, str(root / MP4))


def test_a_playlist_that_calls_itself_a_video_is_not_followed(whole, tmp_path) -> None:
    root = copy(whole, tmp_path / "set")
    (root / MP4).write_text(f"ffconcat version 1.0\nfile '{whole / MP4}'\n")
    refused(root, str(root / MP4))


@pytest.mark.parametrize("damage", ["empty", "text", "small", "none"])
def test_embedded_pictures_that_cannot_be_decoded_are_one_line(tmp_path, damage) -> None:
    root = written(tmp_path / "set", 2, pictures="image")
    small = written(tmp_path / "other", 1, pictures="image") if damage == "small" else root
    picture = pd.read_parquet(small / DATA)[FINGERS][0]["bytes"]
    data = {"empty": b"", "text": b"no picture", "small": picture[:90], "none": None}[damage]

    def change(rows: pd.DataFrame) -> None:
        rows[FINGERS] = [{"bytes": data, "path": "x.png"}, *rows[FINGERS][1:]]

    edit(root / DATA, change)
    refused(root, str(root / DATA), FINGERS, "picture 0")


def test_names_are_places(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("UNDERSTUDY_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("HF_LEROBOT_HOME", str(tmp_path / "hub"))
    first, second = written(tmp_path / "home/lerobot/me/pick", 1), written(tmp_path / "hub/you/place", 1)
    assert SOURCE.task("lerobot:me/pick").local() == first
    assert SOURCE.task("lerobot:you/place").local() == second
    assert SOURCE.task(f"lerobot:{first}").local() == first
    monkeypatch.setenv("HOME", str(tmp_path / "hub"))
    assert SOURCE.task("lerobot:~/you/place").local() == second
    with pytest.raises(DatasetError) as error:
        SOURCE.task("lerobot:me/pck").local()
    one_line(error, "did you mean 'lerobot:me/pick'?")
    with pytest.raises(DatasetError) as error:
        SOURCE.task(f"lerobot:{tmp_path}").local()
    one_line(error, "is no LeRobot dataset")
    assert not any(SOURCE.matches(name) for name in ("lerobot:", "lerobot:pick", "lerobot:a/b/c", "LeRobot:a/b", "a/b"))


def spec(root: Path, folder: Path, **more: Any) -> RunSpec:
    return build_run({"algo": "bc", "env_name": f"lerobot:{root}", "data_dir": str(folder), **more})


def test_training_by_name_alone_imports_the_dataset_and_again_when_it_has_grown(tmp_path) -> None:
    root = written(tmp_path / "set", 2)
    first = open_data(spec(root, tmp_path / "stores")).content_hash
    assert open_data(spec(root, tmp_path / "stores")).content_hash == first
    written(root, 1, first=2)
    second = open_data(spec(root, tmp_path / "stores")).content_hash
    assert second != first
    shutil.rmtree(root)  # what was imported stays
    assert open_data(spec(root, tmp_path / "stores")).content_hash == second


def test_policies_are_evaluated_in_the_environment_that_the_dataset_keeps(tmp_path) -> None:
    note = {"env_name": "hopper-medium-v2", "environment": {"cameras": ["front"]}}
    root = written(tmp_path / "set", 1, note=note)
    open_data(spec(root, tmp_path / "stores"))
    environment = environment_of(spec(root, tmp_path / "stores"))
    assert (environment.env_name, json.loads(environment.settings)) == ("hopper-medium-v2", note["environment"])


@pytest.mark.parametrize(
    ("named", "played"),
    [("gym_hil/PandaPickCube-state-v0", "gym_hil/PandaPickCube-v0"), ("Pendulum-v1", "Pendulum-v1")],
)
def test_the_environment_that_a_dataset_names_is_its_own_not_the_folder(tmp_path, named, played) -> None:
    root = written(tmp_path / "set", 1, note={"env_name": named})
    store = import_file(task_of(f"lerobot:{root}"), root, tmp_path / "stores")
    assert store.manifest.env_id == played
    assert f"lerobot, environment {played}" in describe_store(store).text()
    environment = environment_of(spec(root, tmp_path / "stores"))
    assert (environment.env_name, environment.playable) == (named, True)


@pytest.mark.parametrize("named", ["lerobot:any/thing", "tests.contract.test_lerobot:never_called"])
def test_a_dataset_names_no_other_dataset_and_no_code_as_its_environment(tmp_path, named) -> None:
    root = written(tmp_path / "set", 1, note={"env_name": named})
    store = import_file(task_of(f"lerobot:{root}"), root, tmp_path / "stores")
    assert store.manifest.env_id == ""
    assert "without an environment" in describe_store(store).text()
    assert not environment_of(spec(root, tmp_path / "stores")).playable


def never_called() -> None:
    raise AssertionError("a dataset had this called")


def test_a_dataset_without_a_simulator_says_so_in_one_line(tmp_path) -> None:
    for number, note in enumerate(({}, {"env_name": "a real robot"})):
        root = written(tmp_path / str(number), 1, note=note)
        open_data(spec(root, tmp_path / "stores"))
        with pytest.raises(UserError) as error:
            environment_of(spec(root, tmp_path / "stores"))()
        one_line(error, f"lerobot:{root}: its files name no simulator", "eval_episodes=0")
