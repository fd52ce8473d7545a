"""OGBench's npz files: rows of all trajectories after another, the last row of each only its final state."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from understudy.envs.preparing import check_alike, prepare_episode
from understudy.envs.reading import read_npz
from understudy.envs.source import Episode
from understudy.errors import DatasetError
from understudy.files import write_atomic

STATE_KEYS = ("qpos", "qvel", "button_states")
KEPT = (*STATE_KEYS, "executed_actions")
"""Columns beside the usual ones that a file may have and a store keeps."""
LABELS = ("rewards", "masks")
"""OGBench's own files have none; they are what a single task's rewards are where no states are stored."""


def read_rows(file: Path) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Return the file's arrays [rows, ...] and the rows that end a trajectory; a damaged file raises DatasetError."""
    rows = read_npz(file, ("observations", "actions", "terminals"), (*KEPT, *LABELS))
    for name in ("qpos", "qvel"):
        if name in rows and rows[name].dtype == np.float64:  # stores and published files have float32
            rows[name] = rows[name].astype(np.float32)
    return rows, _check_rows(rows, file)


def trajectories(rows: dict[str, np.ndarray], ends: np.ndarray) -> Iterator[Episode]:
    """Yield the episodes of labelled rows: `masks` are 0 where the environment terminated."""
    keep = [name for name in (*KEPT, "achieved_goals") if name in rows]
    begin = 0
    for end in ends:
        steps = slice(begin, end)  # row `end` is the state after the last action
        yield {
            "observations": rows["observations"][steps],
            "actions": rows["actions"][steps],
            "rewards": rows["rewards"][steps],
            "terminals": rows["masks"][steps] == 0,
            "final_observation": rows["observations"][end],
            **{name: rows[name][steps] for name in keep},
        }
        begin = end + 1


def write_npz(path: Path, episodes: Iterable[Episode], name: str, made_by: str) -> None:
    """Write trajectories as OGBench's scripts do, and the rewards and masks beside them, which its loader leaves."""
    kept: list[dict[str, np.ndarray]] = []
    for number, episode in enumerate(episodes):
        kept.append(_extended(number, episode))
        check_alike(kept[-1], kept[0], number)
    if not kept:
        raise DatasetError(f"{name}: no episodes, nothing to write")
    arrays: dict[str, Any] = {key: np.concatenate([rows[key] for rows in kept]) for key in kept[0]}
    if made_by:
        arrays["made_by"] = np.asarray(made_by)
    write_atomic(path, lambda stream: np.savez(stream, allow_pickle=False, **arrays))


def _extended(number: int, episode: Episode) -> dict[str, np.ndarray]:
    """Return an episode's rows and one more, of which only the observation counts: the others repeat the last."""
    if "final_observation" not in episode:
        raise DatasetError(f"episode {number}: has no final observation, which the OGBench format needs")
    prepare_episode(episode, number)
    rows = {key: np.asarray(episode[key]) for key in ("observations", "actions", "rewards", *KEPT) if key in episode}
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


def _check_rows(rows: dict[str, np.ndarray], file: Path) -> np.ndarray:
    """Return the rows that end a trajectory, after checking that the arrays fit together."""
    count = len(rows["observations"]) if rows["observations"].ndim else 0
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
