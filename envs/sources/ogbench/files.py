"""OGBench's npz files: rows of all trajectories after another, the last row of each only its final state."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from understudy.envs.files.reading import read_npz
from understudy.envs.sources.ogbench.npz_rows import RowReader, RowWriter, open_rows
from understudy.envs.sources.task import Episode
from understudy.envs.store.episode import check_same_columns, prepare_episode
from understudy.envs.store.store import IMAGES
from understudy.errors import DatasetError

STATE_KEYS = ("qpos", "qvel", "button_states")
KEPT = (*STATE_KEYS, "executed_actions")
"""Columns beside the usual ones that a file may have and a store keeps."""
LABELS = ("rewards", "masks")
"""OGBench's own files have none; they are what a single task's rewards are where no states are stored."""


@contextmanager
def open_trajectories(file: Path) -> Iterator[Trajectories]:
    """Open a file and check that its arrays fit together; a damaged one raises DatasetError."""
    rows = read_npz(file, ("actions", "terminals"), (*KEPT, *LABELS))
    for name in ("qpos", "qvel"):
        if name in rows and rows[name].dtype == np.float64:  # stores and published files have float32
            rows[name] = rows[name].astype(np.float32)
    with open_rows(file, "observations") as observations:
        yield Trajectories(observations, rows, _check_rows(rows, len(observations), file))


@dataclass(frozen=True)
class Trajectories:
    """A file that is open: the observations are read in their order, everything else is in `rows` [rows, ...]."""

    observations: RowReader
    rows: dict[str, np.ndarray]
    ends: np.ndarray
    """The rows that end a trajectory."""

    def episodes(self) -> Iterator[Episode]:
        """Yield the episodes, once, of labelled rows: `masks` are 0 where the environment terminated."""
        keep = [name for name in (*KEPT, "achieved_goals") if name in self.rows]
        begin = 0
        for end in self.ends:
            steps = slice(begin, end)  # row `end` is the state after the last action
            seen = self.observations.take(end + 1 - begin)
            yield {
                "observations": seen[:-1],
                "actions": self.rows["actions"][steps],
                "rewards": self.rows["rewards"][steps],
                "terminals": self.rows["masks"][steps] == 0,
                "final_observation": seen[-1],
                **{name: self.rows[name][steps] for name in keep},
            }
            begin = end + 1


def write_npz(path: Path, episodes: Iterable[Episode], name: str, notes: Mapping[str, str]) -> None:
    """Write trajectories as OGBench's scripts do, and the rewards and masks beside them, which its loader leaves.

    `notes` are texts that the file carries too. Pictures are compressed, as in the published files.
    """
    kept: list[dict[str, np.ndarray]] = []
    first: dict[str, np.ndarray] = {}
    observations = RowWriter(path)
    try:
        for number, episode in enumerate(episodes):
            rows = _extended(number, episode)
            first = first or {key: array[:1] for key, array in rows.items()}
            check_same_columns(rows, first, number)
            observations.append(rows.pop("observations"))
            kept.append(rows)
        if not kept:
            raise DatasetError(f"{name}: no episodes, nothing to write")
        arrays: dict[str, Any] = {key: np.concatenate([rows[key] for rows in kept]) for key in kept[0]}
        notes_kept = {key: np.asarray(text) for key, text in notes.items() if text}
        observations.write_npz("observations", {**arrays, **notes_kept}, compress=first["observations"].ndim > 2)
    finally:
        observations.close()


def _extended(number: int, episode: Episode) -> dict[str, np.ndarray]:
    """Return an episode's rows and one more, of which only the observation counts: the others repeat the last."""
    if "observations" not in episode or any(key.startswith(IMAGES) for key in episode):
        raise DatasetError(f"episode {number}: has named cameras, an OGBench file holds one picture as `observations`")
    if "final_observation" not in episode:
        raise DatasetError(f"episode {number}: has no final observation, which the OGBench format needs")
    observations = prepare_episode(episode, number)["observations"]  # float32 or uint8, whatever came
    rows = {key: np.asarray(episode[key]) for key in ("actions", "rewards", *KEPT) if key in episode}
    rows["observations"] = observations
    rows["masks"] = 1.0 - (np.asarray(episode["terminals"]) != 0)
    if "button_states" in rows:
        rows["button_states"] = rows["button_states"].astype(np.int64)
    for key, array in rows.items():
        last = np.asarray(episode["final_observation"]) if key == "observations" else array[-1]
        rows[key] = np.concatenate([array, last[None].astype(array.dtype)])
        if rows[key].dtype == np.float64:
            rows[key] = rows[key].astype(np.float32)
    rows["terminals"] = np.arange(len(rows["actions"])) == len(rows["actions"]) - 1
    return rows


def _check_rows(rows: dict[str, np.ndarray], count: int, file: Path) -> np.ndarray:
    """Return the rows that end a trajectory, after checking that the arrays fit together."""
    for name, array in rows.items():
        if array.ndim == 0 or len(array) != count:
            raise DatasetError(f"{file}: {name} has shape {array.shape}, observations have {count} rows")
    for name, dims in (("actions", 2), ("terminals", 1), ("rewards", 1), ("masks", 1)):
        if name in rows and rows[name].ndim != dims:
            raise DatasetError(f"{file}: {name} has shape {rows[name].shape}, {dims} dims are needed")
    ends = np.flatnonzero(rows["terminals"])
    if len(ends) == 0 or ends[-1] != count - 1:
        raise DatasetError(f"{file}: the last row does not end a trajectory; the file is cut short or not OGBench's")
    empty = ends[np.diff(ends, prepend=-1) < 2]
    if len(empty):
        raise DatasetError(f"{file}: a trajectory has a final state but no step (row {empty[0]})")
    return ends
