"""The rows of an expert buffer: arrays of transitions under one name each, and where their episodes end."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from understudy.envs.sources.episode_ends import breaks_in, episode_ends
from understudy.envs.sources.expert_buffer.unpickling import load_tensors
from understudy.errors import DatasetError, did_you_mean

SPELLINGS = {
    "observations": ("observation", "obs", "observations", "state"),
    "actions": ("action", "actions"),
    "rewards": ("next/reward", "reward", "rewards"),
    "next_observations": ("next/observation", "next/obs", "next_observation", "next_obs", "next_observations"),
    "done": ("next/done", "done", "dones"),
    "terminated": ("next/terminated", "terminated", "terminations", "terminals"),
    "truncated": ("next/truncated", "truncated", "truncations", "timeouts"),
    "step_count": ("step_count",),
    "pixels": ("pixels",),
    "next_pixels": ("next/pixels",),
}
"""What a key may be called, the first one found is taken; nested keys with a slash."""
FLAGS = ("done", "terminated", "truncated")
LOGS = ("next/step_count", "is_init", "next/is_init", "collector/traj_ids", "traj_ids", "index")
"""Keys of torchrl's collectors that say nothing which is not in the others."""


def read_rows(file: Path) -> dict[str, np.ndarray]:
    """Return the buffer's arrays under this module's names, checked against each other."""
    found = load_tensors(file)
    if not isinstance(found, dict):
        raise DatasetError(f"{file}: holds a {type(found).__name__}, not a TensorDict of transitions")
    arrays = dict(_flattened(found))
    rows: dict[str, np.ndarray] = {}
    for name, spellings in SPELLINGS.items():
        spelling = next((item for item in spellings if item in arrays), None)
        if spelling is not None:
            rows[name] = arrays[spelling]
        elif name in ("actions", "rewards") or (name == "observations" and "pixels" not in arrays):
            raise DatasetError(f"{file}: no key {spellings[0]!r}{did_you_mean(spellings[0], arrays)}")
    for name in ("rewards", "step_count", *FLAGS):
        if name in rows and rows[name].ndim == 2 and rows[name].shape[1] == 1:
            rows[name] = rows[name][:, 0]
    _check_rows(rows, file)
    return {name: array.astype(bool) if name in FLAGS else array for name, array in rows.items()}


def _flattened(tree: Mapping[str, Any], before: str = "") -> Iterator[tuple[str, np.ndarray]]:
    import torch

    for key, value in tree.items():
        name = f"{before}{key}"
        if isinstance(value, Mapping):
            yield from _flattened(value, f"{name}/")
        elif isinstance(value, torch.Tensor):
            value = value.detach()
            yield name, (value.float() if value.dtype == torch.bfloat16 else value).numpy()


def _check_rows(rows: dict[str, np.ndarray], file: Path) -> None:
    count = len(rows["actions"]) if rows["actions"].ndim else 0
    if rows["actions"].ndim != 2 or rows["rewards"].ndim != 1 or count == 0:
        shapes = f"action {rows['actions'].shape}, reward {rows['rewards'].shape}"
        raise DatasetError(f"{file}: {shapes}: must be [N, A] and [N] or [N, 1] with N at least 1")
    for name, array in rows.items():
        if array.ndim == 0 or len(array) != count:
            raise DatasetError(f"{file}: {name} have shape {array.shape}, the actions have {count} rows")
        if name in FLAGS and array.ndim != 1:
            raise DatasetError(f"{file}: {name} have shape {array.shape}, one flag a row is needed")
    for after, name in (("next_observations", "observations"), ("next_pixels", "pixels")):
        if after in rows and (name not in rows or rows[after].shape != rows[name].shape):
            own = rows[name].shape if name in rows else "none"
            raise DatasetError(f"{file}: {after.replace('_', ' ')} {rows[after].shape}, {name} {own}: must be alike")


def seen(rows: dict[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray | None]:
    """Return what is observed in each row, states where there are some, and what comes after it, if that is kept."""
    if "observations" in rows:
        return rows["observations"], rows.get("next_observations")
    return rows["pixels"], rows.get("next_pixels")


def unread_keys(file: Path) -> list[str]:
    """Return the keys of a buffer that nothing is read from."""
    known = {spelling for spellings in SPELLINGS.values() for spelling in spellings} | set(LOGS)
    return sorted(name for name, _ in _flattened(load_tensors(file)) if name not in known)


def repeats_itself(rows: dict[str, np.ndarray]) -> bool:
    """Return whether each next observation is its own observation although the observations change."""
    looks, after = seen(rows)
    if after is None or not np.array_equal(after, looks):
        return False
    return bool(breaks_in(len(looks), lambda begin, stop: (looks[begin:stop], looks[begin:stop])).any())


def flags_of(rows: dict[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Return where episodes are done, for whatever reason, and where the environment terminated, bool [N] each."""
    nothing = np.zeros(len(rows["actions"]), bool)
    done = rows.get("done", rows.get("terminated", nothing) | rows.get("truncated", nothing))
    return done, rows["terminated"] if "terminated" in rows else done & ~rows.get("truncated", nothing)


def ends_of(rows: dict[str, np.ndarray], usable: bool, file: Path) -> tuple[np.ndarray, str]:
    """Return the last row of each episode, and what is to be said of how they were found, or ""."""
    over = flags_of(rows)[0]
    if usable:
        looks, after = seen(rows)
        assert after is not None
        breaks = breaks_in(len(over), lambda begin, stop: (looks[begin:stop], after[begin:stop]))
        return episode_ends(over, breaks, complete="done" in rows or "truncated" in rows)
    if "step_count" in rows:
        over = over | np.append(np.diff(rows["step_count"].astype(np.int64)) <= 0, True)
    elif not over.any() and len(over) > 1:
        why = "no next observations" if seen(rows)[1] is None else "its next observations repeat the observations"
        raise DatasetError(
            f"{file}: {why} and no done flag is set: where episodes end cannot be told; collect it again"
        )
    return episode_ends(over, None, complete=True)
