"""What is written in LeRobot's format is what LeRobot expects, survives kills, and refuses what does not fit."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import av
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tests.contract.lerobot_examples import FINGERS, SOURCE, H, W, check, made, read, scene, written
from tests.contract.source_examples import copy, one_line, same_episodes

from understudy.envs.sources.lerobot.encoding import ENCODERS, VideoEncoder, encode_video, priorities_kept
from understudy.envs.sources.lerobot.progress import Sizes
from understudy.envs.sources.lerobot.writer import LeRobotWriter
from understudy.envs.sources.source import task_of
from understudy.envs.store.transfer import episodes_of, import_file
from understudy.errors import DatasetError, UserError

QUANTILES = {"q01": 0.01, "q10": 0.1, "q50": 0.5, "q90": 0.9, "q99": 0.99}


@pytest.mark.parametrize(("pictures", "tolerance"), [("av1", 3.0), ("h264", 3.0), ("image", 0.0)])
def test_episodes_are_read_back_exactly_but_for_what_a_video_loses(tmp_path, pictures, tolerance) -> None:
    check(read(written(tmp_path / "set", 4, pictures=pictures)), list(range(4)), tolerance)


def test_a_store_of_images_becomes_the_same_store_again(tmp_path) -> None:
    store = import_file(task_of("lerobot:a/b"), written(tmp_path / "a", 3, pictures="image"), tmp_path / "stores")
    provenance = {**store.manifest.provenance, "pictures": "image"}
    SOURCE.write(tmp_path / "b", episodes_of(store), "lerobot:a/b", provenance)
    again = import_file(task_of("lerobot:a/b"), tmp_path / "b", tmp_path / "more")
    assert again.manifest.content_hash == store.manifest.content_hash


def test_a_dataset_of_one_picture_a_step_and_nothing_else_stays_that(tmp_path) -> None:
    steps = {"actions": np.zeros((5, 1)), "rewards": np.zeros(5), "terminals": np.zeros(5)}
    episode = {**steps, "observations": scene(5, 0), "final_observation": scene(1, 1)[0]}
    SOURCE.write(tmp_path / "set", [episode], "lerobot:a/b", {"pictures": "image"})
    same_episodes(read(tmp_path / "set"), [episode])
    assert "observation.images.pixels" in json.loads((tmp_path / "set/meta/info.json").read_text())["features"]


def test_info_says_what_lerobot_wants_to_know(tmp_path) -> None:
    wanted = {"action": {"dtype": "float32", "shape": [3], "names": ["x", "y", "z"]}}
    info = json.loads((written(tmp_path, 3, features=wanted, robot_type="panda") / "meta/info.json").read_text())
    features = info.pop("features")
    assert info == {
        "codebase_version": "v3.0", "robot_type": "panda", "fps": 10, "splits": {"train": "0:3"},
        "total_episodes": 3, "total_frames": 15, "total_tasks": 3,
        "chunks_size": 1000, "data_files_size_in_mb": 100, "video_files_size_in_mb": 200,
        "data_path": "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet",
        "video_path": "videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4",
    }  # fmt: skip
    assert features["action"] == wanted["action"]
    assert features["observation.state"] == {"dtype": "float32", "shape": [6], "names": None}
    assert features["next.done"]["dtype"] == features["next.success"]["dtype"] == "bool"
    assert (features[FINGERS]["dtype"], features[FINGERS]["shape"]) == ("video", [H, W, 3])
    assert features[FINGERS]["names"] == ["height", "width", "channels"]
    assert features[FINGERS]["info"] == {
        "video.height": H, "video.width": W, "video.codec": "av1", "video.pix_fmt": "yuv420p",
        "video.is_depth_map": False, "video.fps": 10, "video.channels": 3, "has_audio": False,
    }  # fmt: skip
    automatic = {"timestamp": "float32"} | dict.fromkeys(
        ("frame_index", "episode_index", "index", "task_index"), "int64"
    )
    for key, dtype in automatic.items():
        assert features[key] == {"dtype": dtype, "shape": [1], "names": None}
    assert all("/" not in key for key in features)  # which LeRobot forbids


def test_rows_lie_as_lerobot_writes_them(tmp_path) -> None:
    root = written(tmp_path, 3, pictures="image")
    file = root / "data/chunk-000/file-000.parquet"
    schema = pq.read_schema(file)
    assert schema.field("observation.state").type == pa.list_(pa.float32(), 6)
    assert schema.field("next.reward").type == pa.float32()
    assert schema.field("next.done").type == pa.bool_()
    assert schema.field(FINGERS).type == pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    hints = json.loads(schema.metadata[b"huggingface"])["info"]["features"]
    assert hints[FINGERS] == {"_type": "Image"}
    assert hints["action"] == {"feature": {"dtype": "float32", "_type": "Value"}, "length": 3, "_type": "Sequence"}
    assert list(hints) == schema.names
    parquet = pq.ParquetFile(file)
    lengths = [len(made(number)["actions"]) for number in range(3)]
    assert [parquet.metadata.row_group(number).num_rows for number in range(3)] == lengths
    assert parquet.metadata.row_group(0).column(0).compression == "SNAPPY"
    rows = pd.read_parquet(file)
    assert rows["index"].tolist() == list(range(sum(lengths)))
    assert rows["episode_index"].tolist() == [number for number in range(3) for _ in range(lengths[number])]
    assert rows["frame_index"].tolist() == [step for length in lengths for step in range(length)]
    np.testing.assert_array_equal(rows["timestamp"], (rows["frame_index"] / 10).astype(np.float32))
    ends = np.cumsum(lengths) - 1
    assert np.flatnonzero(rows["next.done"]).tolist() == ends.tolist()
    assert np.flatnonzero(rows["next.truncated"]).tolist() == [ends[0], ends[2]]
    shapes = {"observation.state": (6,), "action": (3,)}
    for key, shape in shapes.items():
        assert np.stack(rows[key].tolist()).shape == (sum(lengths), *shape)


def test_tasks_are_the_index_of_a_pandas_table(tmp_path) -> None:
    tasks = pd.read_parquet(written(tmp_path, 5) / "meta/tasks.parquet")
    assert tasks.index.name == "task"
    assert list(tasks.columns) == ["task_index"]
    assert tasks.index.tolist() == [made(number)["language"] for number in range(4)]
    assert tasks.loc["拿起方块"].task_index == 2
    rows = pd.read_parquet(tmp_path / "data/chunk-000/file-000.parquet")
    assert rows.groupby("episode_index")["task_index"].first().tolist() == [0, 1, 2, 3, 0]


def test_each_episode_says_where_it_lies(tmp_path) -> None:
    root = written(tmp_path, 4)
    rows = pd.read_parquet(root / "meta/episodes/chunk-000/file-000.parquet")
    lengths = np.array([len(made(number)["actions"]) for number in range(4)])
    ends = np.cumsum(lengths)
    assert rows["length"].tolist() == lengths.tolist()
    assert rows["dataset_to_index"].tolist() == ends.tolist()
    assert rows["dataset_from_index"].tolist() == (ends - lengths).tolist()
    assert [list(tasks) for tasks in rows["tasks"]] == [[made(number)["language"]] for number in range(4)]
    for name in ("data/", "meta/episodes/", f"videos/{FINGERS}/"):
        assert set(rows[f"{name}chunk_index"]) | set(rows[f"{name}file_index"]) == {0}
    np.testing.assert_allclose(rows[f"videos/{FINGERS}/to_timestamp"], ends / 10, atol=1e-12)
    np.testing.assert_allclose(rows[f"videos/{FINGERS}/from_timestamp"], (ends - lengths) / 10, atol=1e-12)


def numbers_of(key: str, numbers: range) -> np.ndarray:
    if key.startswith("observation.images."):
        name = key.replace("observation.images.", "images/")
        return np.concatenate([made(number)[name] for number in numbers]).reshape(-1, 3) / 255
    name = {"observation.state": "observations", "action": "actions", "next.reward": "rewards"}[key]
    return np.concatenate([made(number)[name].reshape(len(made(number)[name]), -1) for number in numbers])


@pytest.mark.parametrize("key", ["observation.state", "action", "next.reward", FINGERS])
def test_statistics_are_numpys_over_all_frames(tmp_path, key) -> None:
    root = written(tmp_path, 3)
    whole = json.loads((root / "meta/stats.json").read_text())[key]
    rows = pd.read_parquet(root / "meta/episodes/chunk-000/file-000.parquet")
    frames = [len(made(number)["actions"]) for number in range(3)]
    per_episode = []
    for number in range(3):
        found = {name: rows[f"stats/{key}/{name}"][number] for name in whole}
        per_episode.append({name: nested(value) for name, value in found.items()})
    for found, numbers in ((whole, range(3)), *((per_episode[i], range(i, i + 1)) for i in range(3))):
        values = numbers_of(key, numbers).astype(np.float64)
        assert found["count"] == [sum(frames[number] for number in numbers)]
        for name in ("min", "max", "mean", "std"):
            np.testing.assert_allclose(np.ravel(found[name]), getattr(values, name)(axis=0), rtol=1e-6, atol=1e-9)
        if len(numbers) == 1:
            for name, share in QUANTILES.items():
                np.testing.assert_allclose(np.ravel(found[name]), np.quantile(values, share, axis=0), rtol=1e-6)
    for name in QUANTILES:  # LeRobot's aggregate: the episodes' quantiles, weighted by their frames
        parts = [np.ravel(found[name]) for found in per_episode]
        np.testing.assert_allclose(np.ravel(whole[name]), np.average(parts, axis=0, weights=frames), rtol=1e-6)
    shape = (3, 1, 1) if key == FINGERS else (numbers_of(key, range(1)).shape[1],)
    assert all(np.shape(whole[name]) == shape for name in whole if name != "count")


def nested(value: Any) -> Any:
    return [nested(item) for item in value] if isinstance(value, np.ndarray) else value


def test_files_roll_over_at_their_limits_and_chunks_at_theirs(tmp_path) -> None:
    sizes = Sizes(chunks_size=2, data_files_size_in_mb=0.006, video_files_size_in_mb=0.0025)
    for first in range(0, 12, 3):  # closed and opened again on the way
        written(tmp_path, 3, first, sizes=sizes)
    for pattern in ("data/*/*.parquet", f"videos/{FINGERS}/*/*.mp4"):
        files = sorted(str(file.relative_to(tmp_path)) for file in tmp_path.glob(pattern))
        assert len(files) > 3
        assert files[2].endswith(("chunk-001/file-000.parquet", "chunk-001/file-000.mp4"))
    check(read(tmp_path), list(range(12)), 3.0)


def recording(root: Path) -> None:
    """Add episodes for ever, and say so after each."""
    with LeRobotWriter(root, fps=10) as writer:
        while True:
            writer.add_episode(made(writer.num_episodes))
            print(writer.num_episodes, flush=True)


def test_a_killed_recording_loses_at_most_the_open_episode_and_goes_on(tmp_path) -> None:
    root, told = tmp_path / "set", 0
    here = Path(__file__).resolve()
    environment = {**os.environ, "PYTHONPATH": f"{here.parents[2] / 'platform'}:{here.parents[2]}"}
    program = (
        "from pathlib import Path; from tests.contract.test_lerobot_writing import recording;"
        f"recording(Path({str(root)!r}))"
    )
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, env=environment, text=True) as child:
        assert child.stdout is not None
        while told < 7:
            told = int(child.stdout.readline())
        child.send_signal(signal.SIGKILL)
    found = len(read(root))
    assert found >= told
    check(read(written(root, 3, found)), list(range(found + 3)), 3.0)
    assert not list(root.rglob(".*"))


@pytest.mark.parametrize(
    "behind", ["meta/info.json", "meta/info.json meta/episodes", "meta/info.json meta/episodes data"]
)
@pytest.mark.parametrize("pictures", ["av1", "image"])
def test_what_was_written_before_info_counted_it_is_neither_read_nor_kept(tmp_path, behind, pictures) -> None:
    root = written(tmp_path / "set", 2, pictures=pictures)
    before = copy(root, tmp_path / "before")
    written(root, 1, first=4, pictures=pictures)  # the episode that was open when the power went
    for name in behind.split():
        shutil.rmtree(root / name) if (root / name).is_dir() else (root / name).unlink()
        copy(before / name, root / name)
    (root / ".recording").mkdir()
    (root / ".recording/5.mp4").write_bytes(b"half of it")
    (root / "data/chunk-000/.file-000.parquet.tmp").write_bytes(b"half of it")
    copy(root / "data/chunk-000/file-000.parquet", root / "data/chunk-000/file-001.parquet")  # begun for that episode
    assert len(read(root)) == 2
    check(read(written(root, 2, first=2, pictures=pictures)), [0, 1, 2, 3], 3.0)
    rows = pd.concat([pd.read_parquet(file) for file in sorted(root.glob("data/*/*.parquet"))])  # as LeRobot reads
    assert rows["index"].tolist() == list(range(len(rows)))
    assert not list(root.rglob(".*"))
    stats = json.loads((root / "meta/stats.json").read_text())
    values = numbers_of("observation.state", range(4))
    np.testing.assert_allclose(stats["observation.state"]["std"], values.std(axis=0), rtol=1e-5)


def test_two_writers_of_one_dataset_are_one_too_many(tmp_path) -> None:
    with LeRobotWriter(tmp_path / "set") as writer:
        writer.add_episode(made(0))
        module = "understudy.envs.sources.lerobot.writer"
        program = f"from {module} import LeRobotWriter; LeRobotWriter({str(tmp_path / 'set')!r})"
        platform = Path(__file__).resolve().parents[2] / "platform"
        done = subprocess.run(
            [sys.executable, "-c", program], capture_output=True, text=True, check=False,
            env={**os.environ, "PYTHONPATH": str(platform)},
        )  # fmt: skip
        assert "another process is writing it" in done.stderr.splitlines()[-1]
        writer.add_episode(made(1))
    assert len(read(tmp_path / "set")) == 2


def test_a_full_disk_in_the_middle_of_a_recording_keeps_what_was_there(tmp_path) -> None:
    root = written(tmp_path / "set", 2)
    program = (
        "import resource, signal; from pathlib import Path; from tests.contract.lerobot_examples import written\n"
        "from understudy.errors import StorageError\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, resource.RLIM_INFINITY))\n"
        f"try: written(Path({str(root)!r}), 40, first=2)\n"
        "except StorageError as error: print(error)\n"
    )
    here = Path(__file__).resolve()
    environment = {**os.environ, "PYTHONPATH": f"{here.parents[2] / 'platform'}:{here.parents[2]}"}
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, env=environment, check=False)
    assert done.stdout.startswith("no space left while writing"), done.stderr
    found = len(read(root))
    assert found >= 2
    check(read(written(root, 1, found)), list(range(found + 1)), 3.0)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"fps": 30}, "has 10 frames a second, not 30"),
        ({"pictures": "h264"}, "its videos are av1; go on with pictures=av1"),
        ({"pictures": "image"}, "its videos are av1"),
        ({"pictures": "mpeg"}, "pictures='mpeg' is not known"),
        ({"features": {"action": {"dtype": "float32", "shape": [4]}}}, "'action' is float32 [3]; float32 [4] is asked"),
        ({"features": {"acton": {"dtype": "float32", "shape": [3]}}}, "did you mean 'action'?"),
    ],
)
def test_going_on_in_another_way_is_refused_in_one_line(tmp_path, options, said) -> None:
    root = written(tmp_path / "set", 2)
    with pytest.raises(UserError) as error, LeRobotWriter(root, **{"fps": 10, **options}) as writer:
        writer.add_episode(made(2))
    one_line(error, said)
    assert len(read(root)) == 2


@pytest.mark.parametrize("change", ["actions", "images/front", "language", "final_observation", "success"])
def test_an_episode_that_does_not_fit_is_refused_and_the_others_stay(tmp_path, change) -> None:
    episode = made(2)
    if change in ("actions", "images/front"):
        episode[change] = episode[change][:, :2]
    elif change == "success":
        episode[change] = episode[change] + 0.5
    else:
        del episode[change]
    root = written(tmp_path / "set", 1)
    for again in range(2):  # as the first of a writer, and as a later one
        with LeRobotWriter(root, fps=10) as writer:
            if again:
                writer.add_episode(made(1))
            with pytest.raises(DatasetError) as error:
                writer.add_episode(episode)
            one_line(error, change.removeprefix("images/"))
            writer.add_episode(made(1 + again))
    check(read(root), [0, 1, 1, 2], 3.0)


@pytest.mark.parametrize(
    ("pictures", "shape", "said"),
    [("h264", (33, 48), "even sides"), ("av1", (2, 48), "at least 4"), ("image", None, "LeRobot's have 3")],
)
def test_pictures_that_cannot_be_encoded_are_refused_before_anything_is_written(
    tmp_path, pictures, shape, said
) -> None:
    front = np.zeros((4, 8, 8, 4), np.uint8) if shape is None else scene(4, 0, *shape)
    with pytest.raises(UserError) as error, LeRobotWriter(tmp_path / "set", pictures=pictures) as writer:
        writer.add_episode({**made(0), "images/front": front, "final_images/front": front[0]})
    one_line(error, said)
    assert list((tmp_path / "set").iterdir()) == []


def test_an_encoder_that_pyav_lacks_is_one_line_with_those_there_are(monkeypatch, tmp_path) -> None:
    monkeypatch.setitem(ENCODERS, "av2", VideoEncoder("libnone", {}, 1, 1, "AV2"))
    with pytest.raises(UserError) as error, LeRobotWriter(tmp_path, pictures="av2") as writer:
        writer.add_episode(made(0))
    one_line(error, "has no AV2 encoder (libnone); there is: av1, h264, image")


def test_a_folder_of_something_else_is_never_replaced(tmp_path) -> None:
    (tmp_path / "home").mkdir()
    (tmp_path / "home/thesis.tex").write_text("five years of work")
    for write in (
        lambda: SOURCE.write(tmp_path / "home", [made(0)], "lerobot:a/b", {}),
        lambda: written(tmp_path / "home", 1),
    ):
        with pytest.raises(DatasetError) as error:
            write()
        one_line(error, "not empty (thesis.tex)")
    assert (tmp_path / "home/thesis.tex").read_text() == "five years of work"


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="this system does not tell of a process's threads")
def test_writing_video_leaves_every_thread_scheduled_as_it_was(tmp_path) -> None:
    policy = os.sched_getscheduler(0)
    encode_video(tmp_path / "one.mp4", np.zeros((3, 64, 64, 3), np.uint8), 10)
    assert os.sched_getscheduler(0) == policy
    with av.open(str(tmp_path / "two.mp4"), "w") as output:
        stream: Any = output.add_stream(ENCODERS["av1"].name, rate=10)
        stream.width, stream.height, stream.pix_fmt = 64, 64, "yuv420p"
        with priorities_kept():
            stream.codec_context.open()
        threads = os.listdir("/proc/self/task")
        assert len(threads) > 10
        assert os.SCHED_FIFO not in {os.sched_getscheduler(int(thread)) for thread in threads}
