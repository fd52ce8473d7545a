"""What the `meta/` folder of a LeRobot dataset says: info.json, tasks, where each episode lies, and our own note.

`meta/understudy.json` is a file that LeRobot ignores. It keeps what LeRobot has no place for: the name and settings of
the environment that the episodes come from, and which column each feature was. What there is one of an episode beside
LeRobot's own (the observation after the last action, masks) is in columns `understudy/...` of meta/episodes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from understudy.envs.files.reading import WrongContent, check_readable, damage, read_json, understood
from understudy.envs.sources.lerobot.columns import ACTION, REWARD, STATE, WRITTEN_TASK, Feature, read_features
from understudy.envs.sources.lerobot.variants import (
    EPISODE_LINES,
    OLDER,
    TASK_LINES,
    older_episodes,
    split_masks,
    task_lines,
    task_table,
)
from understudy.envs.store.row_texts import TASK_INDEX, TASK_TEXTS
from understudy.envs.store.store import IMAGES
from understudy.errors import DatasetError
from understudy.folders import restore_folder

VERSION = "v3.0"
INFO, STATS, TASKS, NOTE = "meta/info.json", "meta/stats.json", "meta/tasks.parquet", "meta/understudy.json"
PLACE = "chunk-{chunk_index:03d}/file-{file_index:03d}"
EPISODES, DATA = f"meta/episodes/{PLACE}.parquet", f"data/{PLACE}.parquet"
VIDEO = f"videos/{{video_key}}/{PLACE}.mp4"
OURS = "understudy/"
"""Prefix of our columns in meta/episodes."""


@dataclass(frozen=True)
class Record:
    """Where one episode lies: T rows of a parquet file, and for each video a file and the second it starts at."""

    number: int
    length: int
    data: Path
    videos: dict[str, tuple[Path, float]]
    tasks: list[str]
    meta: tuple[Path, int]
    """The file and row of meta/episodes."""


@dataclass(frozen=True)
class Dataset:
    """A dataset's folder and what its meta files say, checked."""

    root: Path
    info: dict[str, Any]
    note: dict[str, Any]
    features: list[Feature]
    left_out: list[str]
    tasks: dict[int, str]
    records: list[Record]

    @property
    def fps(self) -> float:
        """Frames a second."""
        return float(self.info["fps"])

    def masks(self) -> dict[str, np.ndarray]:
        """Return the splits as masks of episodes, uint8 [E] by column name; none where all is one split."""
        with understood(self.root / INFO, "LeRobot"):
            found = split_masks(self.info["splits"], len(self.records))
        return {} if len(found) == 1 and all(mask.all() for mask in found.values()) else found


def is_dataset(path: Path) -> bool:
    """Return whether `path` is a folder with meta/info.json."""
    return (restore_folder(path) / INFO).is_file()


def open_dataset(path: Path) -> Dataset:
    """Read and check the meta files; whatever is wrong is a DatasetError that names the file."""
    info = read_info(path)
    note, tasks = read_note(path), read_tasks(path)
    with understood(path / INFO, "LeRobot"):
        features, left_out = read_features(info["features"], note.get("columns") or {})
    records = _read_records(path, info, features)
    if _tasks_edited(note, tasks, records):
        note = {key: value for key, value in note.items() if key not in (TASK_TEXTS, "language")}
        features, left_out = read_features(info["features"], note.get("columns") or {}, edited=True)
    elif tasks and set(tasks.values()) != set(note.get("tasks", list(tasks.values())[:1])):
        note.pop("language", None)  # others gave whole episodes their tasks
    keys = {feature.key for feature in features}
    if ACTION not in keys:
        raise DatasetError(f"{path / INFO}: no feature {ACTION!r}; it has {', '.join(sorted(keys)) or 'none'}")
    if not any(feature.column == "observations" or feature.column.startswith(IMAGES) for feature in features):
        raise DatasetError(f"{path / INFO}: neither {STATE!r} nor pictures; nothing is observed")
    return Dataset(path, info, note, features, left_out, tasks, records)


def _tasks_edited(note: Mapping[str, Any], tasks: Mapping[int, str], records: Sequence[Record]) -> bool:
    """Return whether rows of a dataset that was written here are of other tasks within an episode than were written."""
    if not note or len(tasks) < 2:
        return False
    texts = note.get(TASK_TEXTS)
    names = ["episode_index", TASK_INDEX, *([WRITTEN_TASK] if texts else [])]
    for file in dict.fromkeys(record.data for record in records):
        table = read_table(file, names)
        with damage(file, "LeRobot"):
            rows = np.unique(np.stack([table[name].to_numpy() for name in names]), axis=1)
        if texts and any(tasks.get(int(task)) != texts.get(str(int(was))) for _, task, was in rows.T):
            return True
        if not texts and len(np.unique(rows[0])) < rows.shape[1]:
            return True
    return False


def read_info(path: Path) -> dict[str, Any]:
    """Return info.json after a check of its version and counts."""
    if not is_dataset(path):
        raise DatasetError(f"{path}: no LeRobot dataset, which is a folder with {INFO}")
    info, file = read_json(path / INFO, "LeRobot"), path / INFO
    version = info.get("codebase_version")
    if version not in (*OLDER, VERSION):
        how = "; LeRobot converts older ones" if str(version).startswith("v1") else ""
        raise DatasetError(f"{file}: LeRobot version {version!r}, this understudy reads v2.0, v2.1 and {VERSION}{how}")
    with understood(file, "LeRobot"):
        if float(info["fps"]) <= 0 or not np.isfinite(float(info["fps"])):
            raise WrongContent(f"fps {info['fps']}; more than 0 frames a second are expected")
        for key in ("total_episodes", "total_frames"):
            info[key] = int(info[key])
        for key, kind in (("features", dict), ("data_path", str)):
            if not isinstance(info[key], kind):
                raise WrongContent(f"{key} is {info[key]!r}, {'an object' if kind is dict else 'a text'} is expected")
        info["splits"] = info.get("splits") or {"train": f"0:{info['total_episodes']}"}
    if info["total_episodes"] < 1:
        raise DatasetError(f"{path}: holds no episodes")
    return info


def read_tasks(path: Path) -> dict[int, str]:
    """Return the texts of the tasks by their numbers."""
    if (path / TASK_LINES).is_file() and not (path / TASKS).exists():
        return task_lines(path / TASK_LINES)
    return task_table(read_table(path / TASKS), path / TASKS)


def read_note(path: Path) -> dict[str, Any]:
    """Return our own note, empty where there is none."""
    return read_json(path / NOTE, "LeRobot") if (path / NOTE).is_file() else {}


def read_table(file: Path, columns: list[str] | None = None) -> Any:
    """Return a parquet file as an Arrow table; a damaged one is a DatasetError."""
    with open_parquet(file) as parquet, damage(file, "parquet"):
        return parquet.read(columns)


@contextmanager
def open_parquet(file: Path) -> Iterator[Any]:
    """Open a parquet file; checksums are checked where there are any."""
    import pyarrow.parquet as pq

    check_readable(file, "parquet")
    with damage(file, "parquet"):
        parquet = pq.ParquetFile(file, page_checksum_verification=True)
    with parquet:
        yield parquet


def place(root: Path, template: Any, chunk: Any, file: Any, video_key: str = "") -> Path:
    """Return the path that a template of info.json gives; one outside of the dataset raises WrongContent."""
    numbers = {"chunk_index": int(chunk), "file_index": int(file)}
    older = {"episode_chunk": int(chunk), "episode_index": int(file)}
    said = str(template).format(**numbers, **older, video_key=video_key)
    inside = PurePosixPath(said)
    if inside.is_absolute() or ".." in inside.parts:
        raise WrongContent(f"{template!r} leads out of the dataset")
    return root / inside


def episode_files(root: Path) -> list[Path]:
    """Return the files of meta/episodes, in order."""
    return sorted((root / "meta" / "episodes").glob("*/*.parquet"))


def _read_records(root: Path, info: Mapping[str, Any], features: list[Feature]) -> list[Record]:
    """Return the records of the episodes that info.json counts; more are of a recording that was cut off."""
    records: dict[int, Record] = {}
    count, videos = info["total_episodes"], [feature.key for feature in features if feature.dtype == "video"]
    for file, number, row in _episode_rows(root, info, videos):
        with understood(file, "LeRobot"):
            record = _record(root, info, row, videos, (file, number))
            if record.number < count and record.number in records:
                raise WrongContent(f"episode {record.number} is there twice")
            records[record.number] = record
    missing = [number for number in range(count) if number not in records]
    if missing:
        raise DatasetError(f"{root}/meta/episodes: no episode {missing[0]}, {INFO} says there are {count}")
    found = [records[number] for number in range(count)]
    frames = sum(record.length for record in found)
    if frames != info["total_frames"]:
        raise DatasetError(f"{root}/meta/episodes: {frames} frames, {INFO} says {info['total_frames']}")
    return found


def _episode_rows(root: Path, info: Mapping[str, Any], videos: list[str]) -> Iterator[tuple[Path, int, dict[str, Any]]]:
    """Yield each episode's file and row of the meta files, and what that row says."""
    if info["codebase_version"] in OLDER:
        with understood(root / EPISODE_LINES, "LeRobot"):
            yield from ((root / EPISODE_LINES, line, row) for line, row in older_episodes(root, info, videos))
        return
    for file in episode_files(root):
        with open_parquet(file) as parquet, damage(file, "parquet"):
            names = [name for name in parquet.schema_arrow.names if not name.startswith(("stats/", OURS))]
            rows = parquet.read(names).to_pylist()
        yield from ((file, number, row) for number, row in enumerate(rows))


def _record(
    root: Path, info: Mapping[str, Any], row: Mapping[str, Any], videos: list[str], meta: tuple[Path, int]
) -> Record:
    shown = {}
    for key in videos:
        at = f"videos/{key}/"
        file = place(root, info["video_path"], row[at + "chunk_index"], row[at + "file_index"], key)
        shown[key] = (file, float(row[at + "from_timestamp"]))
    length = int(row["length"])
    if length < 1:
        raise WrongContent(f"episode {row['episode_index']} has {length} frames")
    data = place(root, info["data_path"], row["data/chunk_index"], row["data/file_index"])
    return Record(int(row["episode_index"]), length, data, shown, list(row.get("tasks") or []), meta)


def has_rewards(dataset: Dataset) -> bool:
    """Return whether the dataset keeps rewards."""
    return any(feature.key == REWARD for feature in dataset.features)
