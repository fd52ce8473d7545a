"""Write LeRobot v3 datasets: each episode is closed on disk as it ends, and a cut-off recording goes on where it was.

`meta/info.json` is renamed into place last, and counts the episodes that are whole. What a killed writer left beyond
them is not read, and is dropped when the dataset is opened for writing again.
"""

from __future__ import annotations

import fcntl
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import pyarrow as pa

from understudy.envs.lerobot_appending import (
    Place,
    Series,
    append_tables,
    append_videos,
    data_table,
    encode_png,
    image_column,
    number_columns,
    write_tasks,
)
from understudy.envs.lerobot_columns import AUTOMATIC, DONE, TRUNCATED, Feature, features_of, note_of
from understudy.envs.lerobot_meta import (
    DATA,
    EPISODES,
    INFO,
    NOTE,
    OURS,
    STATS,
    TASKS,
    VERSION,
    VIDEO,
    Dataset,
    is_dataset,
    open_dataset,
    read_table,
)
from understudy.envs.lerobot_statistics import (
    Statistics,
    as_lists,
    number_statistics,
    picture_statistics,
    pool_all,
)
from understudy.envs.lerobot_video import ENCODERS, encode_video, find_encoder, video_info
from understudy.envs.preparing import check_alike, is_episode_column, prepare_episode
from understudy.errors import DatasetError, UserError, did_you_mean
from understudy.files import storage_errors, write_json

IMAGE = "image"
"""Pictures without loss, as PNGs in the parquet files."""
MEGABYTE = 1024**2
EPISODES_A_FILE = 500
"""In meta/episodes, whose last file is written anew for each episode."""
OPEN = ".recording"
"""Folder of the episodes that no file of the dataset holds yet."""


@dataclass(frozen=True)
class Sizes:
    """When a new file is begun; LeRobot's own limits."""

    chunks_size: int = 1000
    data_files_size_in_mb: float = 100
    video_files_size_in_mb: float = 200


@dataclass(frozen=True)
class _Episode:
    """An episode that is encoded, but in no file of the dataset yet."""

    table: pa.Table
    videos: dict[str, Path]
    statistics: dict[str, Statistics]
    task: str
    ours: dict[str, Any]

    @property
    def size(self) -> int:
        return self.table.nbytes + sum(file.stat().st_size for file in self.videos.values())


class LeRobotWriter:
    """Add episodes to a new dataset, or to one that was written here: `with LeRobotWriter(root, fps=10) as writer`.

    `features` are entries of info.json that the episodes must have, by key, with `names` of their dims. `pictures` is
    av1, h264 or image (without loss). `note` goes to meta/understudy.json: env_name, environment, made_by. An episode
    is on disk when `add_episode` returns, unless `buffer_mb` of them may wait for `flush`.
    """

    def __init__(
        self,
        root: str | Path,
        features: Mapping[str, Mapping[str, Any]] | None = None,
        fps: float = 10,
        *,
        pictures: str = "av1",
        robot_type: str | None = None,
        task: str = "",
        note: Mapping[str, Any] | None = None,
        buffer_mb: float = 0.0,
        sizes: Sizes = Sizes(),
    ) -> None:
        if pictures not in (*ENCODERS, IMAGE):
            raise UserError(f"pictures={pictures!r} is not known{did_you_mean(pictures, (*ENCODERS, IMAGE))}")
        if not 0 < fps < 10_000:
            raise UserError(f"fps={fps} must be more than 0")
        self.root = Path(root).expanduser()
        self._wanted, self._pictures, self._task = dict(features or {}), pictures, task
        self._note, self._buffer = dict(note or {}), buffer_mb * MEGABYTE
        self._features: dict[str, Feature] = {}
        self._first: dict[str, np.ndarray] = {}
        self._waiting: list[_Episode] = []
        self._encoded = 0
        self._meta: pa.Table | None = None
        self._statistics: dict[str, Statistics] = {}
        self._tasks: dict[str, int] = {}
        self._info = _new_info(fps, robot_type, sizes)
        present = open_dataset(self.root) if is_dataset(self.root) else None
        if present is not None:
            self._info = present.info
            if present.fps != fps:
                raise DatasetError(f"{self.root}: has {present.fps:g} frames a second, not {fps:g}")
        elif self.root.is_dir() and (odd := _strangers(self.root)):
            raise DatasetError(f"{self.root}: is no LeRobot dataset, and not empty ({odd[0]}); choose another folder")
        self._lock = self._claim()
        self._data = self._series(DATA, "data_files_size_in_mb")
        self._episodes = Series(self.root, EPISODES, float("inf"), self._info["chunks_size"])
        self._videos: dict[str, Series] = {}
        if present is not None:
            self._go_on(present)

    @property
    def num_episodes(self) -> int:
        """Episodes of the dataset, those that wait included."""
        return self._info["total_episodes"] + len(self._waiting)

    def __enter__(self) -> LeRobotWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if kind is None:
                self.flush()
        finally:
            self.close()

    def add_episode(self, episode: Mapping[str, Any], task: str | None = None) -> None:
        """Add an episode of columns as sources yield them (`envs.source.Episode`).

        `task` says what it is of where the episode has no `language`. DatasetError, naming the episode and the
        column, where it does not fit the others; then nothing was written.
        """
        number = self.num_episodes
        rows = prepare_episode(episode, number)
        self._check(rows, number)
        said = str(rows["language"][0]) if "language" in rows else (self._task if task is None else task)
        with storage_errors(self.root):
            self._waiting.append(self._encode(rows, said))
        if sum(waiting.size for waiting in self._waiting) >= self._buffer:
            self.flush()

    def flush(self) -> None:
        """Bring the episodes that wait into the dataset's files; info.json is the last to change."""
        if not self._waiting:
            return
        with storage_errors(self.root):
            self._flush()
        for episode in self._waiting:
            for file in episode.videos.values():
                file.unlink(missing_ok=True)
        self._waiting = []

    def close(self) -> None:
        """Drop what waits, and let others write the dataset."""
        shutil.rmtree(self.root / OPEN, ignore_errors=True)
        self._lock.close()

    def _claim(self) -> Any:
        """Make the folder, and keep others from writing it; what a killed writer left open is removed."""
        folder = self.root / OPEN
        with storage_errors(self.root):
            folder.mkdir(parents=True, exist_ok=True)
            lock = open(folder / "lock", "w")  # noqa: SIM115  (closed by close)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            lock.close()
            raise DatasetError(f"{self.root}: is being written by another process") from error
        for left in (*folder.glob("*.mp4"), *self.root.rglob(".*.tmp")):
            left.unlink(missing_ok=True)
        return lock

    def _series(self, template: str, limit: str, video_key: str = "") -> Series:
        template = self._info["video_path" if video_key else "data_path"] if template != EPISODES else template
        return Series(self.root, template, self._info[limit] * MEGABYTE, self._info["chunks_size"], video_key)

    def _go_on(self, present: Dataset) -> None:
        """Take over where the last whole episode ended."""
        self._features = {feature.key: feature for feature in present.features}
        self._tasks = {text: number for number, text in sorted(present.tasks.items())}
        last = present.records[-1]
        table = read_table(last.meta[0])
        self._meta = table.filter(pa.array(table["episode_index"].to_numpy() <= last.number))
        row = self._meta.slice(self._meta.num_rows - 1).to_pylist()[0]
        there = [record for record in present.records if record.data == last.data]
        self._data = self._at(self._data, row, "data/", sum(record.length for record in there))
        self._episodes = self._at(self._episodes, row, "meta/episodes/", self._meta.num_rows)
        for key in last.videos:
            series = self._series(VIDEO, "video_files_size_in_mb", key)
            self._videos[key] = self._at(
                series, row, f"videos/{key}/", round(float(row[f"videos/{key}/to_timestamp"]) * present.fps)
            )
            found = str((self._info["features"][key].get("info") or {}).get("video.codec", self._pictures))
            if found != self._pictures:
                raise DatasetError(f"{self.root}: its videos are {found}; go on with pictures={found}")
        for file in dict.fromkeys(record.meta[0] for record in present.records):
            for item in read_table(file).to_pylist():
                if item["episode_index"] <= last.number:
                    self._statistics = pool_all(self._statistics, _statistics_of(item))

    @staticmethod
    def _at(series: Series, row: Mapping[str, Any], prefix: str, count: int) -> Series:
        place = {"chunk": int(row[prefix + "chunk_index"]), "file": int(row[prefix + "file_index"])}
        return Series(**{**vars(series), **place, "count": count})
