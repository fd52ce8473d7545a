"""How far a LeRobot dataset has been written, and the step from there to some episodes more."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from understudy.envs.sources.lerobot.episode import Encoded
from understudy.envs.sources.lerobot.meta import (
    DATA,
    EPISODES,
    INFO,
    NOTE,
    STATS,
    TASKS,
    VERSION,
    VIDEO,
    Dataset,
    read_table,
)
from understudy.envs.sources.lerobot.series import Place, Series, append_tables, append_videos, write_table, write_tasks
from understudy.envs.sources.lerobot.statistics import Statistics, as_lists, pool_all
from understudy.envs.sources.lerobot.video import video_info
from understudy.files import write_json

MEGABYTE = 1024**2
EPISODES_A_FILE = 500
"""Most episodes in one file of meta/episodes, whose last file is written anew for each episode."""


@dataclass(frozen=True)
class Sizes:
    """When a new file is begun; LeRobot's own limits."""

    chunks_size: int = 1000
    data_files_size_in_mb: float = 100
    video_files_size_in_mb: float = 200


@dataclass(frozen=True)
class RecordingState:
    """The state of a dataset's files. `append` returns another one: an error on the way leaves this one valid."""

    root: Path
    info: dict[str, Any]
    data: Series
    episodes: Series
    videos: dict[str, Series] = field(default_factory=dict)
    rows: list[dict[str, Any]] = field(default_factory=list)
    """Rows of the last file of meta/episodes."""
    statistics: dict[str, Statistics] = field(default_factory=dict)

    @classmethod
    def new(cls, root: Path, fps: float, robot_type: str | None, sizes: Sizes) -> RecordingState:
        """Return the state of a dataset without episodes."""
        counts = dict.fromkeys(("total_episodes", "total_frames", "total_tasks"), 0)
        info = {
            "codebase_version": VERSION,
            "robot_type": robot_type,
            **counts,
            **vars(sizes),
            "fps": int(fps) if float(fps).is_integer() else fps,
            "splits": {},
            "data_path": DATA,
            "video_path": VIDEO,
            "features": {},
        }
        return cls(root, info, _series(root, info, "data/"), _series(root, info, "meta/episodes/"))

    @classmethod
    def of(cls, dataset: Dataset) -> RecordingState:
        """Return the state after the last whole episode of a dataset."""
        info, last = {**vars(Sizes()), **dataset.info}, dataset.records[-1]
        statistics: dict[str, Statistics] = {}
        rows: list[dict[str, Any]] = []
        for file in dict.fromkeys(record.meta[0] for record in dataset.records):
            rows = [row for row in read_table(file).to_pylist() if row["episode_index"] <= last.number]
            for row in rows:
                statistics = pool_all(statistics, _statistics_of(row))
        row = next(row for row in rows if row["episode_index"] == last.number)
        there = sum(record.length for record in dataset.records if record.data == last.data)
        ends = {key: round(float(row[f"videos/{key}/to_timestamp"]) * dataset.fps) for key in last.videos}
        return cls(
            dataset.root,
            info,
            _series(dataset.root, info, "data/", row, there),
            _series(dataset.root, info, "meta/episodes/", row),
            {key: _series(dataset.root, info, f"videos/{key}/", row, count) for key, count in ends.items()},
            rows,
            statistics,
        )

    def append(self, added: Sequence[Encoded], tasks: Mapping[str, int], note: Mapping[str, Any]) -> RecordingState:
        """Bring episodes into the dataset's files and return the state after them; info.json is the last to change."""
        info = {**self.info, "features": dict(self.info["features"])}
        rows = [_row(episode) for episode in added]
        videos = self._append_videos(added, rows, info)
        places, data = append_tables(self.data, [episode.table for episode in added])
        for row, place in zip(rows, places, strict=True):
            row |= _where("data/", place)
        kept, episodes = self._append_rows(rows)
        statistics = self.statistics
        for episode in added:
            statistics = pool_all(statistics, episode.statistics)
        info["total_episodes"] += len(rows)
        info["total_frames"] += sum(row["length"] for row in rows)
        info |= {"total_tasks": len(tasks), "splits": {"train": f"0:{info['total_episodes']}"}}
        write_tasks(self.root / TASKS, tasks)
        write_json(self.root / STATS, as_lists(statistics))
        write_json(self.root / NOTE, note)
        write_json(self.root / INFO, info)
        return RecordingState(self.root, info, data, episodes, videos, kept, statistics)

    def _append_videos(
        self, added: Sequence[Encoded], rows: list[dict[str, Any]], info: dict[str, Any]
    ) -> dict[str, Series]:
        """Add the episodes' videos to their series; what `rows` and `info` say about them is filled in."""
        fps, videos = float(info["fps"]), dict(self.videos)
        for key in added[0].videos:
            series = videos.get(key) or _series(self.root, info, f"videos/{key}/")
            parts = [episode.videos[key] for episode in added]
            places, videos[key] = append_videos(series, parts, [row["length"] for row in rows], fps)
            for row, place in zip(rows, places, strict=True):
                row |= _where(f"videos/{key}/", place)
                row[f"videos/{key}/from_timestamp"] = place[2] / fps
                row[f"videos/{key}/to_timestamp"] = (place[2] + row["length"]) / fps
            if not info["features"][key].get("info"):
                info["features"][key] = {**info["features"][key], "info": video_info(videos[key].path)}
        return videos

    def _append_rows(self, rows: list[dict[str, Any]]) -> tuple[list[dict[str, Any]], Series]:
        """Add rows to meta/episodes; return the rows of its last file, and the series."""
        kept, series, frame = list(self.rows), self.episodes, self.info["total_frames"]
        for number, row in enumerate(rows, start=1):
            if len(kept) >= EPISODES_A_FILE:
                series, kept = series.next(), []
            row |= {"dataset_from_index": frame, "dataset_to_index": frame + row["length"]}
            row |= _where("meta/episodes/", (series.chunk, series.file, 0))
            frame += row["length"]
            kept.append(row)
            if len(kept) == EPISODES_A_FILE or number == len(rows):
                write_table(series.path, pa.Table.from_pylist(kept))
        return kept, series


def _series(
    root: Path, info: Mapping[str, Any], prefix: str, row: Mapping[str, Any] | None = None, count: int = 0
) -> Series:
    """Return the series of data/, meta/episodes/ or videos/KEY/, whose last file is where a row of meta says."""
    limit, template, key = float("inf"), EPISODES, ""
    if prefix == "data/":
        limit, template = info["data_files_size_in_mb"], info["data_path"]
    elif prefix.startswith("videos/"):
        limit, template = info["video_files_size_in_mb"], info["video_path"]
        key = prefix.removeprefix("videos/").removesuffix("/")
    chunk, file = (int((row or {}).get(f"{prefix}{name}_index", 0)) for name in ("chunk", "file"))
    return Series(root, template, float(limit) * MEGABYTE, int(info["chunks_size"]), key, chunk, file, count)


def _where(prefix: str, place: Place) -> dict[str, int]:
    return {f"{prefix}chunk_index": place[0], f"{prefix}file_index": place[1]}


def _row(episode: Encoded) -> dict[str, Any]:
    """Return an episode's row of meta/episodes, without what its place in the files says."""
    row: dict[str, Any] = {"episode_index": episode.number, "tasks": list(episode.tasks), "length": episode.length}
    for key, part in as_lists(episode.statistics).items():
        row |= {f"stats/{key}/{name}": value for name, value in part.items()}
    return row | episode.ours


def _statistics_of(row: Mapping[str, Any]) -> dict[str, Statistics]:
    """Return the statistics in a row of meta/episodes."""
    found: dict[str, Statistics] = {}
    for column, value in row.items():
        if column.startswith("stats/"):
            _, key, name = column.split("/", 2)
            found.setdefault(key, {})[name] = np.asarray(value)
    return found
