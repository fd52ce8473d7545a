"""Turn one episode into what a LeRobot dataset keeps of it: rows of a table, an mp4 for each camera, statistics."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from understudy.envs.sources.lerobot.columns import DONE, TRUNCATED, Feature
from understudy.envs.sources.lerobot.encoding import encode_video
from understudy.envs.sources.lerobot.meta import OURS
from understudy.envs.sources.lerobot.series import data_table, encode_png, image_column, number_columns
from understudy.envs.sources.lerobot.statistics import Statistics, number_statistics, picture_statistics
from understudy.envs.store.episode import is_episode_column
from understudy.envs.store.store import TEXTS


@dataclass(frozen=True)
class Encoded:
    """An episode of T frames that is ready to be appended to the dataset's files."""

    number: int
    table: pa.Table
    """Its rows of a data file."""
    videos: dict[str, Path]
    """An mp4 of its own for each video feature."""
    statistics: dict[str, Statistics]
    tasks: tuple[str, ...]
    """The texts of its rows, each once."""
    ours: dict[str, Any]
    """What goes to our columns of meta/episodes."""

    @property
    def length(self) -> int:
        """Frames."""
        return self.table.num_rows

    @cached_property
    def size(self) -> int:
        """Bytes, about."""
        return self.table.nbytes + sum(file.stat().st_size for file in self.videos.values())

    def discard(self) -> None:
        """Remove its files."""
        for file in self.videos.values():
            file.unlink(missing_ok=True)


@dataclass(frozen=True)
class Position:
    """Where an episode stands in the dataset: its number, its first frame's, its rows' tasks by number and text."""

    episode: int
    first_frame: int
    task_index: np.ndarray
    """[T]"""
    tasks: tuple[str, ...]


def encode_episode(
    rows: Mapping[str, np.ndarray],
    features: Mapping[str, Feature],
    position: Position,
    fps: float,
    codec: str,
    folder: Path,
) -> Encoded:
    """Encode columns [T, ...] (as `prepare_episode` returns them); videos are written to `folder`."""
    length = len(rows["actions"])
    automatic = _automatic(position, length, fps)
    columns = number_columns(rows, features)
    if DONE in columns:
        columns = _with_ends(columns, rows["terminals"] != 0)
    statistics: dict[str, Statistics] = {}
    videos: dict[str, Path] = {}
    for key, feature in features.items():
        array = rows[feature.column]
        if feature.is_picture:
            statistics[key] = picture_statistics(array)
        elif len(feature.shape) == 1:  # not of saliency maps, whose statistics would be as large as they are
            ends = np.asarray(columns[key]) if key == DONE else array
            statistics[key] = number_statistics(ends.reshape(length, -1))
        if feature.dtype == "image":
            columns[key] = image_column(array, feature)
        elif feature.dtype == "video":
            videos[key] = folder / f"{position.episode}.{key}.mp4"
            encode_video(videos[key], array, fps, codec)
    statistics |= {key: number_statistics(values[:, None]) for key, values in automatic.items()}
    table = data_table(columns, features, automatic)
    return Encoded(position.episode, table, videos, statistics, position.tasks, our_columns(rows))


def _automatic(position: Position, length: int, fps: float) -> dict[str, np.ndarray]:
    frames = np.arange(length)
    return {
        "timestamp": (frames / fps).astype(np.float32),
        "frame_index": frames,
        "episode_index": np.full(length, position.episode),
        "index": frames + position.first_frame,
        "task_index": position.task_index,
    }


def _with_ends(columns: Mapping[str, pa.Array], terminals: np.ndarray) -> dict[str, pa.Array]:
    """Return the columns with `next.done` on the last frame, and `next.truncated` there if that is no terminal state.

    So `done and not truncated` is what was in `terminals`.
    """
    last = np.arange(len(terminals)) == len(terminals) - 1
    return {**columns, DONE: pa.array(terminals | last), TRUNCATED: pa.array(last & ~terminals)}


def our_columns(rows: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """Return, for meta/episodes, the columns with one row an episode: numbers as lists, pictures as PNGs."""
    found: dict[str, Any] = {}
    for column, array in rows.items():
        if is_episode_column(column) and column not in TEXTS:
            name = OURS + ("final_observation" if column == "final_observations" else column)
            value = array[0]
            found[name] = encode_png(value) if value.dtype == np.uint8 and value.ndim == 3 else value.tolist()
    return found
