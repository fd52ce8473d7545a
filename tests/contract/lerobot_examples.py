"""LeRobot datasets for the tests: episodes of every kind of column, and datasets as others write them.

Those of "others" are made with pandas and PyAV alone, as LeRobot makes them: pandas frames to parquet, FFmpeg's own
encoder settings, several episodes in a file.
"""

from __future__ import annotations

import json
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pandas as pd
from tests.contract.source_examples import same_episodes

from understudy.envs.sources.lerobot.encoding import priorities_kept
from understudy.envs.sources.lerobot.writer import LeRobotWriter
from understudy.registry import sources

SOURCE = sources.get("lerobot")
H, W = 32, 48
FINGERS = "observation.images.hand"


def scene(steps: int, seed: int, height: int = H, width: int = W) -> np.ndarray:
    """Return smooth pictures [T, H, W, 3] that move: what a video codec is for."""
    rng = np.random.default_rng(seed)
    x, y, t = np.arange(width), np.arange(height)[:, None], np.arange(steps)[:, None, None]
    waves = [np.sin(x / 19 + y / 15 + t / 9 + rng.uniform(0, 6)) * 60 + 127 for _ in range(3)]
    return np.stack(waves, axis=-1).astype(np.uint8)


def made(number: int, steps: int | None = None) -> dict[str, Any]:
    """Return episode `number`, the same at every call: two cameras, texts, and every kind of other column."""
    steps = 4 + number % 5 if steps is None else steps
    rng = np.random.default_rng(number)
    terminals = np.zeros(steps, bool)
    terminals[-1] = number % 2
    return {
        "observations": rng.normal(size=(steps, 6)).astype(np.float32),
        "actions": rng.uniform(-1, 1, (steps, 3)).astype(np.float32),
        "rewards": terminals.astype(np.float32) - number,
        "terminals": terminals,
        "success": terminals.astype(np.float32),
        "images/front": scene(steps, number),
        "images/hand": scene(steps, number + 100),
        "final_observation": rng.normal(size=6).astype(np.float32),
        "final_images/front": scene(1, number + 200)[0],
        "final_images/hand": scene(1, number + 300)[0],
        "saliency/front": rng.random((steps, 4, 5, 1)).astype(np.float32),
        "time_stamp": np.arange(steps) / 10 + 1e9,
        "task_index": np.full(steps, 7),
        "scalars": rng.normal(size=(steps, 1)).astype(np.float32),
        "language": ["pick up the cube", "lève le cube 🧊", "拿起方块", 'a "quoted", one\tline'][number % 4],
        "mask/train": np.uint8(number % 3 != 0),
    }


def written(root: Path, count: int, first: int = 0, **options: Any) -> Path:
    with LeRobotWriter(root, fps=10, **options) as writer:
        for number in range(first, first + count):
            writer.add_episode(made(number))
    return root


def read(root: Path) -> list[dict[str, Any]]:
    return [dict(episode) for episode in SOURCE.task("lerobot:any/thing").read(root)]


def check(found: list[dict[str, Any]], numbers: list[int], tolerance: float) -> None:
    """Compare episodes with the made ones: pictures within a mean absolute error, all else bit for bit."""
    assert len(found) == len(numbers)
    for episode, number in zip(found, numbers, strict=True):
        wanted = made(number)
        assert set(episode) == set(wanted)
        for column in [name for name in wanted if name.startswith("images/")]:
            one, other = episode[column], wanted[column]
            assert one.shape == other.shape
            assert one.dtype == np.uint8
            assert np.abs(one.astype(int) - other).mean() <= tolerance, column
            episode[column] = other
        same_episodes([episode], [wanted])


STATE, CAMERA, FPS, LENGTHS = 5, "observation.images.top", 30, (7, 5, 9, 4)
PLACES = ((0, 0), (0, 0), (0, 1), (1, 0))
"""Chunk and file of each episode."""


def video(file: Path, frames: np.ndarray, codec: str = "libx264", **options: str) -> None:
    """Encode with FFmpeg's own settings: long groups of pictures, and frames that are not in their order."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(file), "w") as output:
        stream: Any = output.add_stream(codec, rate=Fraction(FPS), options=options)
        stream.width, stream.height, stream.pix_fmt = frames.shape[2], frames.shape[1], "yuv420p"
        with priorities_kept():
            stream.codec_context.open()
        for frame in frames:
            output.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        output.mux(stream.encode())


def decoded(file: Path) -> np.ndarray:
    """Decode a whole file, frame after frame."""
    with av.open(str(file)) as container:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])


def rows_of(number: int) -> pd.DataFrame:
    """Return an episode's rows as LeRobot's converter leaves them: lists of no fixed length, scalars as numbers."""
    rng, length = np.random.default_rng(number), LENGTHS[number]
    start = sum(LENGTHS[:number])
    return pd.DataFrame({
        "observation.state": list(rng.normal(size=(length, STATE)).astype(np.float32)),
        "observation.environment_state": list(rng.normal(size=(length, 2)).astype(np.float64)),
        "action": list(rng.normal(size=(length, 2)).astype(np.float32)),
        "timestamp": (np.arange(length) / FPS).astype(np.float32),
        "frame_index": np.arange(length),
        "episode_index": np.full(length, number),
        "index": np.arange(start, start + length),
        "task_index": np.full(length, number % 2),
        "next.reward": rng.normal(size=length).astype(np.float32),
        "next.done": np.arange(length) == length - 1,
        "subtask": ["reach"] * length,
    })  # fmt: skip


def foreign(root: Path, codec: str = "libx264") -> Path:
    """Write a dataset of four episodes in three data files and three videos, without understudy."""
    numbers = {"observation.state": [STATE], "observation.environment_state": [2], "action": [2], "next.reward": [1]}
    dtypes = {"observation.environment_state": "float64", "next.done": "bool", "subtask": "string"}
    counters = ("frame_index", "episode_index", "index", "task_index")
    shapes = {**numbers, "next.done": [1], "subtask": [1], "timestamp": [1], **{key: [1] for key in counters}}
    features: dict[str, Any] = {
        key: {"dtype": dtypes.get(key, "int64" if key in counters else "float32"), "shape": shape, "names": None}
        for key, shape in shapes.items()
    }
    features[CAMERA] = {"dtype": "video", "shape": [3, H, W], "names": ["channels", "height", "width"]}
    features["observation.images.depth"] = {**features[CAMERA], "info": {"video.is_depth_map": True}}
    places = [{"chunk_index": chunk, "file_index": file} for chunk, file in PLACES]
    rows = []
    for number, (place, length) in enumerate(zip(places, LENGTHS, strict=True)):
        before = sum(LENGTHS[other] for other in range(number) if PLACES[other] == PLACES[number]) / FPS
        times = {"from_timestamp": before, "to_timestamp": before + length / FPS}
        rows.append({
            "episode_index": number, "tasks": [f"task {number % 2} ✓"], "length": length,
            **{f"data/{name}": value for name, value in place.items()},
            **{f"videos/{CAMERA}/{name}": value for name, value in {**place, **times}.items()},
            "dataset_from_index": sum(LENGTHS[:number]), "dataset_to_index": sum(LENGTHS[: number + 1]),
            "stats/action/mean": [0.0, 0.0],
        })  # fmt: skip
    info = {
        "codebase_version": "v3.0", "robot_type": "so101", "total_episodes": 4, "total_frames": sum(LENGTHS),
        "total_tasks": 2, "chunks_size": 1000, "fps": FPS, "splits": {"train": "0:3", "val": "3:4"},
        "data_path": "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet",
        "video_path": "videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4", "features": features,
    }  # fmt: skip
    for place in sorted(set(PLACES)):
        at = {"chunk_index": place[0], "file_index": place[1]}
        inside = [number for number in range(4) if PLACES[number] == place]
        data = root / info["data_path"].format(**at)
        data.parent.mkdir(parents=True, exist_ok=True)
        pd.concat([rows_of(number) for number in inside]).to_parquet(data, index=False)
        frames = np.concatenate([scene(LENGTHS[number], number) for number in inside])
        video(root / info["video_path"].format(video_key=CAMERA, **at), frames, codec)
    (root / "meta/episodes/chunk-000").mkdir(parents=True)
    pd.DataFrame(rows[:3]).to_parquet(root / "meta/episodes/chunk-000/file-000.parquet")
    pd.DataFrame(rows[3:]).to_parquet(root / "meta/episodes/chunk-000/file-001.parquet")
    tasks = pd.DataFrame({"task_index": [0, 1]}, index=pd.Index(["task 0 ✓", "task 1 ✓"], name="task"))
    tasks.to_parquet(root / "meta/tasks.parquet")
    (root / "meta/info.json").write_text(json.dumps(info))
    return root
