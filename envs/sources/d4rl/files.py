"""D4RL's HDF5 layout: one row a step, all episodes after another.

Datasets: observations [N, O], actions [N, A], rewards and terminals [N]; in some files timeouts [N] and
next_observations [N, O]; under infos/ the simulator's qpos and qvel and AntMaze's goal. The group `metadata` (how a
published policy was made) is not read.

Where episodes end: at a terminal and at a time-out; without these, and where there are no time-outs, also where the
next row's observation does not follow (see `episode_ends`). A file with neither time-outs nor next observations is cut
at the time limit too, as d4rl's own reader does. In AntMaze terminals mark every row inside the goal region and end
nothing; files written here from episodes with a terminal before their last row say that of themselves
(`terminals_end_episodes` of `metadata`).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from understudy import __version__
from understudy.envs.files.hdf5 import new_hdf5
from understudy.envs.files.reading import damage, open_hdf5
from understudy.envs.sources.episode_ends import breaks_in, episode_ends
from understudy.envs.sources.task import Episode
from understudy.envs.store.episode import check_same_columns, prepare_episode
from understudy.errors import DatasetError, did_you_mean

MAIN = ("observations", "actions", "rewards", "terminals")
INFOS = {"qpos": "infos/qpos", "qvel": "infos/qvel", "goals": "infos/goal"}
"""Columns of the store and where the published files hold them."""
BLOCK_ROWS = 65536
CHUNK_ROWS = 4096
MARK = "terminals_end_episodes"


@dataclass(frozen=True)
class Layout:
    """What the rows of a task's files are."""

    task: str = ""
    """The dataset's name, for messages."""
    dims: tuple[int, int] | None = None
    """Observation and action dims."""
    limit: int | None = None
    """Steps that an episode has at most."""
    loose: bool = False
    """Whether terminals end nothing."""


ANY = Layout()
"""Layout of files whose task is not known."""


def read_episodes(path: Path, layout: Layout = ANY) -> Iterator[dict[str, np.ndarray]]:
    """Yield a file's episodes, a block of rows at a time, so that memory does not grow with the file.

    Raises DatasetError in one line for whatever is wrong with the file.
    """
    with open_hdf5(path) as file:
        columns, ends, _ = _opened(path, file, layout)
        begin = 0
        while len(ends):
            count = max(1, int(np.searchsorted(ends, begin + BLOCK_ROWS)))  # whole episodes, at least one
            with damage(path, "HDF5"):
                rows = _rows(columns, begin, int(ends[count - 1]) + 1)
            yield from _episodes(rows, ends[:count] - begin)
            begin, ends = int(ends[count - 1]) + 1, ends[count:]


def described(path: Path, layout: Layout) -> dict[str, Any]:
    """Return what is to be known of a file: who made it, if it was made here, and `notes` on where episodes end."""
    with open_hdf5(path) as file:
        said = _opened(path, file, layout)[2]
        found = _attributes(file)
    return {
        **{name: str(found[name]) for name in ("made_by",) if name in found},
        **({"notes": [said]} if said else {}),
    }


def _opened(path: Path, file: Any, layout: Layout) -> tuple[dict[str, Any], np.ndarray, str]:
    """Return a file's columns, the last row of each episode, and what is to be said of these."""
    with damage(path, "HDF5"):
        columns = _columns(path, file, layout.dims, layout.task)
        loose = layout.loose or not _attributes(file).get(MARK, True)
        return columns, *find_ends(columns, loose, layout.limit)


def find_ends(columns: Mapping[str, Any], loose: bool, limit: int | None) -> tuple[np.ndarray, str]:
    """Return the last row of each episode of open columns, and what is to be said of how they were found, or ""."""
    count = len(columns["actions"])
    flags = {name: _flat(columns[name]) for name in ("terminals", "timeouts") if name in columns}
    over = np.zeros(count, bool) if loose else flags["terminals"].astype(bool)
    if "timeouts" in flags:
        over |= flags["timeouts"].astype(bool)
    breaks = None
    if "next_observations" in columns:
        pair = columns["observations"], columns["next_observations"]
        breaks = breaks_in(count, lambda begin, stop: (pair[0][begin:stop], pair[1][begin:stop]))
    timed = bool(flags.get("timeouts", np.zeros(1)).any())
    ends, said = episode_ends(over, breaks, complete=timed)
    if limit is None or breaks is not None or ("timeouts" in flags and over.any()):
        return ends, said
    begins = np.concatenate([[0], ends[:-1] + 1])
    cut = [row for begin, end in zip(begins, ends, strict=True) for row in (*range(begin + limit - 1, end, limit), end)]
    return np.asarray(cut, np.int64), said


def write_episodes(path: Path, episodes: Iterable[Episode], *, reward_shift: float, loose: bool, made_by: str) -> None:
    """Write episodes as one file, `reward_shift` added to the rewards; memory does not grow with their number.

    next_observations are left out unless every episode has a final observation. Columns that D4RL has no place for go
    to infos/ under their own names.
    """
    with new_hdf5(path) as (file, check):
        writer = _Writer(file, path, reward_shift)
        for episode in episodes:
            writer.add(episode)
            check()
        writer.finish(loose, made_by)


class _Writer:
    def __init__(self, file: Any, path: Path, reward_shift: float) -> None:
        self._file, self._path, self._shift = file, path, np.float32(reward_shift)
        self._waiting: dict[str, list[np.ndarray]] = {}
        self._waiting_rows = 0
        self._first: dict[str, np.ndarray] = {}
        self._lengths: list[int] = []
        self._all_final, self._terminals_inside = True, False

    def add(self, episode: Episode) -> None:
        """Take one episode; rows are written some thousand at a time."""
        number = len(self._lengths)
        rows = prepare_episode(episode, number)
        if rows["observations"].ndim != 2:
            raise DatasetError(f"episode {number}: D4RL files hold flat observations, not {rows['observations'].shape}")
        final = rows.pop("final_observations", None)
        self._all_final &= final is not None
        ended = rows["terminals"] != 0
        self._terminals_inside |= bool(ended[:-1].any())
        rows["rewards"] = self._shifted(rows["rewards"], number)
        rows["terminals"], rows["timeouts"] = ended, np.zeros(len(ended), bool)
        rows["timeouts"][-1] = not ended[-1]
        last = rows["observations"][-1:] if final is None else final
        rows["next_observations"] = np.concatenate([rows["observations"][1:], last])
        self._first = self._first or {name: array[:1] for name, array in rows.items()}
        check_same_columns(rows, self._first, number)
        for name, array in rows.items():
            self._waiting.setdefault(name, []).append(array)
        self._lengths.append(len(ended))
        self._waiting_rows += len(ended)
        if self._waiting_rows >= CHUNK_ROWS:
            self._flush()

    def finish(self, loose: bool, made_by: str) -> None:
        """Write what waits, and what only the whole tells."""
        if not self._lengths:
            raise DatasetError(f"{self._path.name}: no episodes, nothing to write")
        self._flush()
        if not self._all_final:
            del self._file["next_observations"]
        note = self._file.create_group("metadata").attrs  # attributes: d4rl takes every dataset for a column
        note["made_by"] = made_by or f"understudy {__version__}"
        note["columns"] = [name for name in self._waiting if _place(name).startswith("infos/")]
        note[MARK] = not (loose or self._terminals_inside)
        if not note[MARK]:
            self._file["timeouts"][...] = np.isin(np.arange(sum(self._lengths)), np.cumsum(self._lengths) - 1)

    def _shifted(self, rewards: np.ndarray, number: int) -> np.ndarray:
        if not self._shift:
            return rewards
        shifted = rewards + self._shift
        if not np.array_equal(shifted - self._shift, rewards):
            raise DatasetError(f"episode {number}: rewards plus {self._shift:g} are not exact; they must be 0 or -1")
        return shifted

    def _flush(self) -> None:
        if not self._waiting_rows:
            return
        for name, parts in self._waiting.items():
            array = np.concatenate(parts)
            parts.clear()
            place = _place(name)
            if place not in self._file:
                shape = array.shape[1:]
                self._file.create_dataset(
                    place, (0, *shape), array.dtype, maxshape=(None, *shape), chunks=(CHUNK_ROWS, *shape)
                )
            dataset = self._file[place]
            if dataset.shape[1:] != array.shape[1:] or dataset.dtype != array.dtype:
                said = f"{array.shape[1:]} {array.dtype}, earlier ones {dataset.shape[1:]} {dataset.dtype}"
                raise DatasetError(f"column {name!r} has rows {said}")
            dataset.resize(len(dataset) + len(array), axis=0)
            dataset[-len(array) :] = array
        self._waiting_rows = 0


def _place(name: str) -> str:
    if name in (*MAIN, "timeouts", "next_observations"):
        return name
    return INFOS.get(name, f"infos/{name}")


def _attributes(file: Any) -> dict[str, Any]:
    return dict(file["metadata"].attrs) if "metadata" in file else {}


def _columns(path: Path, file: Any, dims: tuple[int, int] | None, task: str) -> dict[str, Any]:
    """Return the open HDF5 datasets by column name, after checking that they fit together."""
    places = {name: name for name in MAIN}
    places |= {name: name for name in ("timeouts", "next_observations") if name in file}
    extra = [str(name) for name in _attributes(file).get("columns", INFOS)]
    places |= {name: _place(name) for name in extra if _place(name) in file}
    columns = {name: _dataset(path, file, place) for name, place in places.items()}
    count = len(columns["actions"])
    if count == 0:
        raise DatasetError(f"{path}: holds no transitions")
    for name, column in columns.items():
        if len(column) != count:
            raise DatasetError(f"{path}: {name} has {len(column)} rows, actions have {count}; the file is cut short")
        if name in ("rewards", "terminals", "timeouts") and column.size != count:
            raise DatasetError(f"{path}: {name} has shape {column.shape}, one number a row is expected")
    observations, actions = columns["observations"].shape, columns["actions"].shape
    if len(observations) != 2 or len(actions) != 2:
        raise DatasetError(f"{path}: observations {observations}, actions {actions}: both must have 2 dims")
    if dims is not None and (observations[1], actions[1]) != dims:
        raise DatasetError(
            f"{path}: observations have {observations[1]} dims and actions {actions[1]}, {task} has {dims[0]} and "
            f"{dims[1]}; is it the file of another task?"
        )
    if "next_observations" in columns and columns["next_observations"].shape != observations:
        found = columns["next_observations"].shape
        raise DatasetError(f"{path}: next_observations {found} are not shaped like observations {observations}")
    return columns


def _dataset(path: Path, file: Any, place: str) -> Any:
    import h5py

    if place not in file:
        raise DatasetError(f"{path}: no dataset {place!r}{did_you_mean(place, list(file))}")
    found = file[place]
    if not isinstance(found, h5py.Dataset):
        raise DatasetError(f"{path}: {place} is a group, not a dataset")
    try:
        dtype = found.dtype
    except TypeError as error:  # a type that numpy does not have
        raise DatasetError(f"{path}: {place} does not hold numbers ({error})") from error
    if dtype.kind not in "biuf" or not found.shape:
        raise DatasetError(f"{path}: {place} holds {dtype} of shape {found.shape}, not rows of numbers")
    return found


def _rows(columns: dict[str, Any], begin: int, stop: int) -> dict[str, np.ndarray]:
    rows = {name: column[begin:stop] for name, column in columns.items()}
    return rows | {name: rows[name].reshape(-1) for name in ("rewards", "terminals", "timeouts") if name in rows}


def _flat(column: Any) -> np.ndarray:
    return np.asarray(column[:]).reshape(-1)


def _episodes(rows: dict[str, np.ndarray], ends: np.ndarray) -> Iterator[dict[str, np.ndarray]]:
    begin = 0
    for end in ends:
        episode = {name: rows[name][begin : end + 1] for name in rows if name not in ("timeouts", "next_observations")}
        if "next_observations" in rows:
            episode["final_observation"] = rows["next_observations"][end]
        yield episode
        begin = end + 1
