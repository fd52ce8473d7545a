"""What the `meta/` folder of a LeRobot dataset says: info.json, tasks, where each episode lies, and our own note.

`meta/understudy.json` is a file that LeRobot ignores. It keeps what LeRobot has no place for: the name and settings of
the environment that the episodes come from, and which column each feature was. What there is one of an episode beside
LeRobot's own (the observation after the last action, masks) is in columns `understudy/...` of meta/episodes.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from understudy.envs.files.reading import damage
from understudy.envs.sources.lerobot.columns import ACTION, REWARD, STATE, Feature, read_features
from understudy.envs.store.store import IMAGES, MASK
from understudy.errors import DatasetError
from understudy.files import restore_folder

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
        with damage(self.root / INFO, "LeRobot"):
            splits = {name: [int(n) for n in str(part).split(":")] for name, part in self.info["splits"].items()}
            count = len(self.records)
            numbers = np.arange(count)
            found = {MASK + name: (numbers >= first) & (numbers < end) for name, (first, end) in splits.items()}
        return {} if len(found) == 1 and all(mask.all() for mask in found.values()) else found


def is_dataset(path: Path) -> bool:
    """Return whether `path` is a folder with meta/info.json."""
    return (restore_folder(path) / INFO).is_file()


def open_dataset(path: Path) -> Dataset:
    """Read and check the meta files; whatever is wrong is a DatasetError that names the file."""
    info = read_info(path)
    note = _read_json(path / NOTE) if (path / NOTE).is_file() else {}
    with damage(path / INFO, "LeRobot"):
        features, left_out = read_features(info["features"], note.get("columns") or {})
    keys = {feature.key for feature in features}
    if ACTION not in keys:
        raise DatasetError(f"{path / INFO}: no feature {ACTION!r}; it has {', '.join(sorted(keys)) or 'none'}")
    if not any(feature.column == "observations" or feature.column.startswith(IMAGES) for feature in features):
        raise DatasetError(f"{path / INFO}: neither {STATE!r} nor pictures; nothing is observed")
    tasks = {number: text for text, number in read_tasks(path).items()}
    return Dataset(path, info, note, features, left_out, tasks, _read_records(path, info, features))


def read_info(path: Path) -> dict[str, Any]:
    """Return info.json after a check of its version and counts."""
    if not is_dataset(path):
        raise DatasetError(f"{path}: no LeRobot dataset, which is a folder with {INFO}")
    info, file = _read_json(path / INFO), path / INFO
    version = info.get("codebase_version")
    if version != VERSION:
        how = "; LeRobot converts older ones (lerobot.scripts.convert_dataset_v21_to_v30)" if version else ""
        raise DatasetError(f"{file}: LeRobot version {version!r}, this understudy reads {VERSION}{how}")
    with damage(file, "LeRobot"):
        if float(info["fps"]) <= 0 or not np.isfinite(float(info["fps"])):
            raise ValueError(f"fps {info['fps']}")
        for key in ("total_episodes", "total_frames"):
            info[key] = int(info[key])
        for key, kind in (("features", dict), ("data_path", str)):
            if not isinstance(info[key], kind):
                raise TypeError(f"{key} is {info[key]!r}")
        info["splits"] = dict(info.get("splits") or {"train": f"0:{info['total_episodes']}"})
    if info["total_episodes"] < 1:
        raise DatasetError(f"{path}: holds no episodes")
    return info


def read_tasks(path: Path) -> dict[str, int]:
    """Return the number of each task's text; the text is the pandas index of tasks.parquet."""
    table = read_table(path / TASKS)
    with damage(path / TASKS, "LeRobot"):
        texts = [name for name in table.column_names if name != "task_index"]
        if len(texts) != 1:
            raise ValueError(f"columns {', '.join(table.column_names)}; task_index and the text are expected")
        numbers = [int(number) for number in table["task_index"].to_pylist()]
        return dict(zip((str(text) for text in table[texts[0]].to_pylist()), numbers, strict=True))


def read_note(path: Path) -> dict[str, Any]:
    """Return our own note, empty where there is none."""
    return _read_json(path / NOTE) if (path / NOTE).is_file() else {}


def read_table(file: Path, columns: list[str] | None = None) -> Any:
    """Return a parquet file as an Arrow table; a damaged one is a DatasetError."""
    with open_parquet(file) as parquet, damage(file, "parquet"):
        return parquet.read(columns)


@contextmanager
def open_parquet(file: Path) -> Iterator[Any]:
    """Open a parquet file; checksums are checked where there are any."""
    import pyarrow.parquet as pq

    if not file.is_file():
        raise DatasetError(f"{file}: no such file")
    with damage(file, "parquet"):
        parquet = pq.ParquetFile(file, page_checksum_verification=True)
    with parquet:
        yield parquet


def place(root: Path, template: Any, chunk: Any, file: Any, video_key: str = "") -> Path:
    """Return the path that a template of info.json gives; one outside of the dataset raises ValueError."""
    said = str(template).format(chunk_index=int(chunk), file_index=int(file), video_key=video_key)
    inside = PurePosixPath(said)
    if inside.is_absolute() or ".." in inside.parts:
        raise ValueError(f"{template!r} leads out of the dataset")
    return root / inside


def episode_files(root: Path) -> list[Path]:
    """Return the files of meta/episodes, in order."""
    return sorted((root / "meta" / "episodes").glob("*/*.parquet"))


def _read_records(root: Path, info: Mapping[str, Any], features: list[Feature]) -> list[Record]:
    """Return the records of the episodes that info.json counts; more are of a recording that was cut off."""
    records: dict[int, Record] = {}
    count, videos = info["total_episodes"], [feature.key for feature in features if feature.dtype == "video"]
    for file in episode_files(root):
        with open_parquet(file) as parquet, damage(file, "parquet"):
            names = [name for name in parquet.schema_arrow.names if not name.startswith(("stats/", OURS))]
            rows = parquet.read(names).to_pylist()
        with damage(file, "LeRobot"):
            for number, row in enumerate(rows):
                record = _record(root, info, row, videos, (file, number))
                if record.number < count and record.number in records:
                    raise ValueError(f"episode {record.number} is there twice")
                records[record.number] = record
    missing = [number for number in range(count) if number not in records]
    if missing:
        raise DatasetError(f"{root}/meta/episodes: no episode {missing[0]}, {INFO} says there are {count}")
    found = [records[number] for number in range(count)]
    frames = sum(record.length for record in found)
    if frames != info["total_frames"]:
        raise DatasetError(f"{root}/meta/episodes: {frames} frames, {INFO} says {info['total_frames']}")
    return found


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
        raise ValueError(f"episode {row['episode_index']} has {length} frames")
    data = place(root, info["data_path"], row["data/chunk_index"], row["data/file_index"])
    return Record(int(row["episode_index"]), length, data, shown, list(row.get("tasks") or []), meta)


def _read_json(file: Path) -> dict[str, Any]:
    with damage(file, "LeRobot"):
        found = json.loads(file.read_text(encoding="utf-8"))
        if not isinstance(found, dict):
            raise TypeError(f"{type(found).__name__}, an object is expected")
        return found


def has_rewards(dataset: Dataset) -> bool:
    """Say whether the dataset keeps rewards."""
    return any(feature.key == REWARD for feature in dataset.features)
