"""Read the episodes of a LeRobot v3 dataset: rows of its parquet files and the frames that belong to them.

Files are read from start to end, whatever their size; of each only what the present episode needs is in memory.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from understudy.envs.files.pictures import decode
from understudy.envs.files.reading import WrongContent, damage
from understudy.envs.sources.lerobot.columns import AUTOMATIC, DONE, TRUNCATED, Feature, from_arrow, noted_codec
from understudy.envs.sources.lerobot.meta import (
    INFO,
    OURS,
    Dataset,
    Record,
    has_rewards,
    is_dataset,
    open_dataset,
    open_parquet,
    read_table,
)
from understudy.envs.sources.lerobot.tasks import changing_tasks
from understudy.envs.sources.lerobot.video import TOLERANCE, FrameReader, require_vision, tolerance_advice
from understudy.envs.sources.task import Episode
from understudy.envs.store.column_kinds import Declared
from understudy.envs.store.store import MASK
from understudy.errors import DatasetError, UserError

BATCH_ROWS = 512
KEPT = ("environment", "env_name", "made_by")


def data_files(path: Path) -> list[Path]:
    """Return the dataset's files, sorted."""
    if not is_dataset(path):
        raise DatasetError(f"{path}: no LeRobot dataset, which is a folder with {INFO}")
    folders = [path / name for name in ("meta", "data", "videos")]
    return sorted(file for folder in folders for file in folder.rglob("[!.]*") if file.is_file())


def provenance(path: Path) -> dict[str, Any]:
    """Return what the meta files say: rate, robot, cameras; and environment and maker, where understudy wrote it."""
    dataset = open_dataset(path)
    pictures = [feature for feature in dataset.features if feature.is_picture]
    found: dict[str, Any] = {
        "codebase_version": dataset.info["codebase_version"],
        "fps": dataset.info["fps"],
        "robot_type": dataset.info.get("robot_type"),
        "cameras": {feature.column: _how_kept(feature, dataset) for feature in pictures},
        "tasks": len(dataset.tasks),
        "rewards": "as in the dataset" if has_rewards(dataset) else "0 everywhere: the dataset has none",
        "left_out": dataset.left_out,
        **changing_tasks(dataset),
        **{key: dataset.note[key] for key in KEPT if dataset.note.get(key)},
    }
    return {key: value for key, value in found.items() if value not in (None, {}, [])}


def declared(path: Path) -> dict[str, Declared]:
    """Return what info.json says of the axes of pictures that are kept as plain numbers."""
    dataset = open_dataset(path)
    found: dict[str, Declared] = {}
    for feature in dataset.features:
        names = dataset.info["features"][feature.key].get("names")
        if not feature.is_picture and isinstance(names, list) and len(names) == len(feature.shape) == 3:
            layout = "".join(str(name).lower()[:1] for name in names).replace("r", "c")  # rgb, channels
            if layout in ("hwc", "chw"):
                found[feature.column] = Declared(layout)
    return found


def read_episodes(path: Path, tolerance_s: float = TOLERANCE) -> Iterator[Episode]:
    """Yield the dataset's episodes, in their order; damage and times that do not fit are DatasetErrors.

    Frames may be up to `tolerance_s` seconds from the time that they are looked for at.
    """
    dataset = open_dataset(path)
    if not 0 < tolerance_s < 0.5 / dataset.fps:
        raise UserError(
            f"tolerance_s={tolerance_s:g}: must be above 0 and below half a frame, {0.5 / dataset.fps:.4g} s at"
            f" {dataset.fps:g} frames a second"
        )
    if any(feature.is_picture for feature in dataset.features):
        require_vision(str(path))
    masks = {} if dataset.note else dataset.masks()
    with ExitStack() as opened:
        rows = _Rows(dataset, opened)
        frames = _Videos(opened)
        finals = _Finals()
        for record in dataset.records:
            table = rows.take(record)
            episode = _columns(dataset, record, table)
            times = _times(dataset, record, table, tolerance_s)
            for feature in dataset.features:
                if feature.dtype == "video":
                    episode[feature.column] = frames.read(feature, record, times, tolerance_s)
            episode |= {name: mask[record.number] for name, mask in masks.items()}
            episode |= finals.read(record)
            yield episode


def _how_kept(feature: Feature, dataset: Dataset) -> str:
    codec = noted_codec(dataset.info["features"][feature.key]) or "video"
    height, width = feature.picture_size
    return f"{width} x {height}, {codec if feature.dtype == 'video' else 'images'}"


def _columns(dataset: Dataset, record: Record, table: pa.Table) -> dict[str, Any]:
    """Return the columns of an episode that the parquet file holds, and what follows from them."""
    episode: dict[str, Any] = {}
    with damage(record.data, "LeRobot"):
        for feature in dataset.features:
            if feature.dtype == "image":
                episode[feature.column] = _decode_images(table[feature.key], feature)
            elif feature.dtype != "video":
                episode[feature.column] = from_arrow(table[feature.key], feature)
        if DONE in table.column_names and TRUNCATED in table.column_names:
            late = np.asarray(table[TRUNCATED].to_numpy(zero_copy_only=False)).reshape(-1) != 0
            episode["terminals"] = (episode["terminals"] != 0) & ~late
        task = int(table["task_index"][0].as_py())
    for name in ("rewards", "terminals"):
        episode.setdefault(name, np.zeros(record.length, np.float32))
    if dataset.note.get("language", True):
        if task not in dataset.tasks:
            raise DatasetError(f"{record.data}: episode {record.number} is of task {task}, which meta/tasks has not")
        episode["language"] = dataset.tasks[task]
    return episode


def _times(dataset: Dataset, record: Record, table: pa.Table, tolerance_s: float) -> np.ndarray:
    """Return the times [T] of an episode's frames in seconds, checked to be frame / fps."""
    with damage(record.data, "LeRobot"):
        times = table["timestamp"].to_numpy().astype(np.float64)
        frames = table["frame_index"].to_numpy()
        if not np.array_equal(frames, np.arange(record.length)):
            raise WrongContent(f"episode {record.number}: frame_index does not count from 0 to {record.length - 1}")
        expected = frames / dataset.fps
        # LeRobot keeps times as float32, which after 20 minutes is coarser than what it tolerates
        near = np.abs(times - expected) <= tolerance_s + np.spacing(expected.astype(np.float32))
        if not near.all():
            first = int(np.argmin(near))
            raise WrongContent(
                f"episode {record.number}: frame {first} is at {times[first]:.6g} s, {expected[first]:.6g} s is"
                f" expected at {dataset.fps:g} frames a second; {tolerance_s:g} s is tolerated"
                f"{tolerance_advice(float(np.abs(times - expected).max()), dataset.fps)}"
            )
    return expected


def _decode_images(column: Any, feature: Feature) -> np.ndarray:
    """Return the pictures [T, H, W, 3] of a column of {bytes, path}; what cannot be decoded raises WrongContent."""
    import cv2

    array = column.combine_chunks()
    array = array.storage if isinstance(array, pa.ExtensionArray) else array
    encoded = array.field("bytes") if pa.types.is_struct(array.type) else array
    size, frames = feature.picture_size, np.empty(0)
    for number, item in enumerate(encoded):
        data = item.as_py()
        if not data:
            raise WrongContent(f"{feature.key}: picture {number} is not in the file")
        frame = decode(data, cv2.IMREAD_COLOR_RGB | cv2.IMREAD_ANYDEPTH)
        if frame is None or frame.shape[:2] != size:
            found = "cannot be decoded" if frame is None else f"is {frame.shape[1]} x {frame.shape[0]}"
            raise WrongContent(f"{feature.key}: picture {number} {found}, info.json says {size[1]} x {size[0]}")
        if number == 0:
            frames = np.empty((len(encoded), *frame.shape), frame.dtype)
        if frame.dtype != frames.dtype:
            raise WrongContent(f"{feature.key}: picture {number} is of {frame.dtype}, those before of {frames.dtype}")
        frames[number] = frame
    grey = frames.dtype != np.uint8 and bool((frames == frames[..., :1]).all())
    return frames[..., :1] if grey else frames  # 16 bits of one channel are a depth camera's


class _Rows:
    """The rows of one episode after the other; a file is read in batches, and once where episodes lie in order."""

    def __init__(self, dataset: Dataset, opened: ExitStack) -> None:
        kept = [feature.key for feature in dataset.features if feature.dtype != "video"]
        self._columns = list(dict.fromkeys([*kept, *AUTOMATIC]))
        self._opened = opened.enter_context(ExitStack())
        self._file: Path | None = None
        self._batches: Iterator[Any] = iter(())
        self._rest: pa.Table = pa.table({})

    def take(self, record: Record) -> pa.Table:
        """Return the T rows of an episode."""
        if record.data != self._file:
            self._open(record.data)
        with damage(record.data, "parquet"):
            while True:
                numbers = self._rest["episode_index"].to_numpy()
                found = np.flatnonzero(numbers == record.number)
                start = int(found[0]) if len(found) else len(numbers)
                self._rest = self._rest.slice(start)
                # one row more than needed shows that the episode ends there
                if self._rest.num_rows > record.length or not self._more():
                    break
            numbers = self._rest["episode_index"].to_numpy()
            has = int(np.argmin(numbers == record.number)) if (numbers != record.number).any() else len(numbers)
            if has != record.length:
                raise WrongContent(f"episode {record.number} has {has} rows, meta/episodes says {record.length}")
            table, self._rest = self._rest.slice(0, has), self._rest.slice(has)
        return table

    def _open(self, file: Path) -> None:
        self._opened.close()
        parquet = self._opened.enter_context(open_parquet(file))
        with damage(file, "parquet"):
            names = parquet.schema_arrow.names
            missing = [name for name in self._columns if name not in names]
            if missing:
                raise WrongContent(f"no column {missing[0]!r}, which info.json lists")
            wanted = [*self._columns, *([TRUNCATED] if TRUNCATED in names else [])]
            self._batches = parquet.iter_batches(BATCH_ROWS, columns=wanted)
            self._rest = pa.Table.from_batches([], schema=pa.schema([parquet.schema_arrow.field(n) for n in wanted]))
        self._file = file

    def _more(self) -> bool:
        batch = next(self._batches, None)
        if batch is not None:
            added = pa.Table.from_batches([batch]).select(self._rest.column_names)
            self._rest = pa.concat_tables([self._rest.replace_schema_metadata(), added.replace_schema_metadata()])
        return batch is not None


class _Videos:
    """The frames of one episode after the other; one file of each camera is open."""

    def __init__(self, opened: ExitStack) -> None:
        self._opened = opened
        self._readers: dict[str, FrameReader] = {}

    def read(self, feature: Feature, record: Record, times: np.ndarray, tolerance_s: float) -> np.ndarray:
        """Return the frames [T, H, W, 3] of one camera."""
        file, start = record.videos[feature.key]
        reader = self._readers.get(feature.key)
        if reader is None or reader.file != file:
            if reader is not None:
                reader.close()
            reader = FrameReader(file, feature.picture_size, ahead=True)
            self._opened.callback(reader.close)
            self._readers[feature.key] = reader
        return reader.read(start + times, tolerance_s)


class _Finals:
    """Our own columns of meta/episodes; one file is in memory."""

    def __init__(self) -> None:
        self._file: Path | None = None
        self._table: Any = None

    def read(self, record: Record) -> dict[str, Any]:
        """Return masks, and what came after the last action."""
        file, row = record.meta
        if file.suffix != ".parquet":  # of an older version, which is never ours
            return {}
        if file != self._file:
            with open_parquet(file) as parquet, damage(file, "parquet"):
                names = [name for name in parquet.schema_arrow.names if name.startswith(OURS)]
            self._file, self._table = file, read_table(file, names)
        found = {name.removeprefix(OURS): self._table[name][row].as_py() for name in self._table.column_names}
        with damage(file, "LeRobot"):
            return {name: _final(name, value) for name, value in found.items() if value is not None}


def _final(name: str, value: Any) -> np.ndarray:
    import cv2

    if name.startswith(MASK):
        return np.uint8(value)  # pyright: ignore[reportReturnType]
    if not isinstance(value, bytes):
        return np.asarray(value, np.float32)
    frame = decode(value, cv2.IMREAD_COLOR_RGB)
    if frame is None:
        raise WrongContent(f"{name}: a picture that cannot be decoded")
    return frame
