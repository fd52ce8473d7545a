"""Write LeRobot v3 datasets: each episode is closed on disk as it ends, and a cut-off recording goes on where it was.

`meta/info.json` is renamed into place last, and counts the episodes that are whole. What a killed writer left beyond
them is not read, and is dropped when the dataset is opened for writing again.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from understudy.envs.sources.lerobot.columns import (
    AUTOMATIC,
    DONE,
    TRUNCATED,
    Feature,
    features_of,
    note_of,
    noted_codec,
)
from understudy.envs.sources.lerobot.encoding import ENCODERS, find_encoder
from understudy.envs.sources.lerobot.episode import Encoded, Position, encode_episode, our_columns
from understudy.envs.sources.lerobot.meta import OURS, VERSION, Dataset, is_dataset, open_dataset, read_note
from understudy.envs.sources.lerobot.progress import MEGABYTE, RecordingState, Sizes
from understudy.envs.sources.lerobot.tasks import row_tasks
from understudy.envs.sources.lerobot.video import require_vision
from understudy.envs.store.episode import check_same_columns, prepare_episode
from understudy.envs.store.row_texts import TASK_TEXTS
from understudy.errors import DatasetError, UserError, did_you_mean
from understudy.files import held, made_folder, storage_errors, user_path
from understudy.folders import replaced_folder

IMAGE = "image"
"""Pictures without loss, as PNGs in the parquet files."""
OPEN = ".recording"
"""Folder of the episodes that no file of the dataset holds yet."""


class LeRobotWriter:
    """Add episodes to a new dataset, or to one that was written here: `with LeRobotWriter(root, fps=10) as writer`.

    `features` are entries of info.json that the episodes must have, by key; `names` of their dims are kept. `pictures`
    is av1, h264 or image (without loss). `note` goes to meta/understudy.json: env_name, environment, made_by. An
    episode is on disk when `add_episode` returns, unless `buffer_mb` of them may wait for `flush`.
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
        sizes: Sizes | None = None,
    ) -> None:
        if pictures not in (*ENCODERS, IMAGE):
            raise UserError(f"pictures={pictures!r} is not known{did_you_mean(pictures, (*ENCODERS, IMAGE))}")
        if not 0 < fps < 10_000:
            raise UserError(f"fps={fps!r}: frames a second must be more than 0")
        self.root = user_path(root)
        self._wanted, self._pictures, self._task = dict(features or {}), pictures, task
        self._note, self._buffer = dict(note or {}), buffer_mb * MEGABYTE
        self._features: dict[str, Feature] = {}
        self._first: dict[str, np.ndarray] = {}
        self._waiting: list[Encoded] = []
        self._waiting_frames = self._waiting_bytes = 0
        self._tasks: dict[str, int] = {}
        _check_folder(self.root)
        self._lock = ExitStack()
        self._lock.enter_context(_claimed(self.root))
        try:
            self._progress = RecordingState.new(self.root, fps, robot_type, sizes or Sizes())
            if is_dataset(self.root):
                self._go_on(open_dataset(self.root), fps)
        except BaseException:
            self.close()
            raise

    @property
    def num_episodes(self) -> int:
        """Episodes of the dataset, those that wait included."""
        return self._progress.info["total_episodes"] + len(self._waiting)

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
        column, where it does not fit the others; nothing of it is written then.
        """
        number = self.num_episodes
        rows = prepare_episode(episode, number)
        self._check(rows, number)
        said = str(rows["language"][0]) if "language" in rows else (self._task if task is None else task)
        told = row_tasks(rows, self._note.get(TASK_TEXTS, {}), said)
        numbers = np.array([self._tasks.setdefault(text, len(self._tasks)) for text in told])
        frame = self._progress.info["total_frames"] + self._waiting_frames
        position = Position(number, frame, numbers, tuple(dict.fromkeys(told)))
        fps, folder = float(self._progress.info["fps"]), self.root / OPEN
        with storage_errors(self.root):
            encoded = encode_episode(rows, self._features, position, fps, self._pictures, folder)
        self._waiting.append(encoded)
        self._waiting_frames += encoded.length
        self._waiting_bytes += encoded.size
        if self._waiting_bytes >= self._buffer:
            self.flush()

    def flush(self) -> None:
        """Bring the episodes that wait into the dataset's files."""
        if not self._waiting:
            return
        note = {**self._note, "columns": note_of(self._features), "language": "language" in self._first}
        note["tasks"] = list(self._tasks)
        with storage_errors(self.root):
            self._progress = self._progress.append(self._waiting, self._tasks, note)
        for episode in self._waiting:
            episode.discard()
        self._waiting, self._waiting_frames, self._waiting_bytes = [], 0, 0

    def close(self) -> None:
        """Drop what waits, and let others write the dataset."""
        shutil.rmtree(self.root / OPEN, ignore_errors=True)
        self._lock.close()

    def _go_on(self, present: Dataset, fps: float) -> None:
        """Take over where the last whole episode ended."""
        if present.info["codebase_version"] != VERSION:
            raise DatasetError(
                f"{self.root}: is LeRobot {present.info['codebase_version']}; only {VERSION} is added to"
            )
        if present.fps != fps:
            raise DatasetError(f"{self.root}: has {present.fps:g} frames a second, not {fps:g}")
        for feature in present.features:
            if feature.dtype == "video":
                codec = noted_codec(present.info["features"][feature.key]) or self._pictures
                if codec != self._pictures:
                    raise DatasetError(f"{self.root}: its videos are {codec}; go on with pictures={codec}")
        if present.left_out:
            raise DatasetError(f"{self.root}: has what understudy cannot add to ({present.left_out[0]})")
        self._progress = RecordingState.of(present)
        _remove_others(present)
        self._features = {feature.key: feature for feature in present.features}
        self._note = {**read_note(self.root), **self._note}
        self._tasks = {text: number for number, text in sorted(present.tasks.items())}

    def _check(self, rows: Mapping[str, np.ndarray], number: int) -> None:
        """Check an episode against the first one, and the first one against what was asked for or is there."""
        if self._first:
            check_same_columns(rows, self._first, number)
            return
        found = features_of(rows, IMAGE if self._pictures == IMAGE else "video")
        for key, entry in self._wanted.items():
            wanted = f"{entry['dtype']} {list(entry['shape'])}"
            if key not in found or _described(found[key]) != wanted:
                has = f"is {_described(found[key])}" if key in found else f"is not there{did_you_mean(key, found)}"
                raise DatasetError(f"episode {number}: feature {key!r} {has}; {wanted} is asked for")
        if any(feature.is_picture for feature in found.values()):
            require_vision(str(self.root))
        for feature in found.values():
            if feature.dtype == "video":
                find_encoder(self._pictures, *feature.picture_size)
        if self._features:
            self._check_going_on(rows, found, number)
        else:
            self._progress.info["features"] = _describe(found, self._wanted)
        self._features = self._features or found
        self._first = {name: array[:1] for name, array in rows.items()}

    def _check_going_on(self, rows: Mapping[str, np.ndarray], found: Mapping[str, Feature], number: int) -> None:
        for key in dict.fromkeys((*found, *self._features)):
            one, other = found.get(key), self._features.get(key)
            if one != other:
                has = [_described(feature) if feature else "not there" for feature in (one, other)]
                column = next(feature.column for feature in (one, other) if feature)
                raise DatasetError(f"episode {number}: column {column!r} is {has[0]}, in {self.root} it is {has[1]}")
        there = {name for name in self._progress.rows[-1] if name.startswith(OURS)}
        there |= {"language"} if self._note.get("language", True) else set()
        new = set(our_columns(rows)) | ({"language"} if "language" in rows else set())
        for name in sorted(there ^ new):
            raise DatasetError(f"episode {number}: {name.removeprefix(OURS)!r} is not in every episode of {self.root}")


@contextmanager
def new_dataset(path: Path) -> Iterator[Path]:
    """Give a folder for a dataset, which is put at `path` when the block ends well and vanishes when it does not.

    A dataset that is there is replaced; a folder of anything else is refused.
    """
    _check_folder(path)
    with replaced_folder(path) as folder:
        yield folder


def _check_folder(root: Path) -> None:
    """Refuse a folder that holds something else than a dataset, or one that was begun."""
    if root.exists() and not is_dataset(root):
        begun = ("data/**/*.parquet", "meta/**/*.parquet", "meta/*.json", "videos/**/*.mp4", f"{OPEN}/*", "**/.*.tmp")
        ours = {file for pattern in begun for file in root.glob(pattern)}
        odd = next((file for file in sorted(root.rglob("*")) if not file.is_dir() and file not in ours), None)
        if odd is not None or not root.is_dir():
            raise DatasetError(
                f"{root}: is no LeRobot dataset, and not empty ({(odd or root).name}); choose another folder"
            )


@contextmanager
def _claimed(root: Path) -> Iterator[None]:
    """Make the folder and keep others from writing it; what a killed writer left open is removed."""
    lock = root / OPEN / "lock"
    with made_folder(lock.parent), held(lock, f"{root}: another process is writing it ({{holder}})"):
        for left in (*(root / OPEN).glob("*.mp4"), *root.rglob(".*.tmp")):
            left.unlink(missing_ok=True)
        yield


def _remove_others(dataset: Dataset) -> None:
    """Remove the files that no whole episode lies in: LeRobot reads all there are."""
    kept = {record.data for record in dataset.records} | {record.meta[0] for record in dataset.records}
    kept |= {file for record in dataset.records for file, _ in record.videos.values()}
    for folder in ("data", "meta/episodes", "videos"):
        for file in dataset.root.joinpath(folder).rglob("file-*"):
            if file not in kept:
                file.unlink()


def _described(feature: Feature) -> str:
    return f"{feature.dtype} {list(feature.shape)}"


def _describe(features: Mapping[str, Feature], wanted: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Return the entries of info.json, LeRobot's automatic features last."""
    entries = {key: feature.describe(wanted.get(key, {}).get("names")) for key, feature in features.items()}
    if DONE in entries:
        entries[TRUNCATED] = dict(entries[DONE])
    return entries | {key: {"dtype": dtype, "shape": [1], "names": None} for key, dtype in AUTOMATIC.items()}
