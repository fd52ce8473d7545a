"""Check an episode and give its arrays the store's dtypes, before it is written anywhere."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from understudy.envs.store import MASK, REQUIRED
from understudy.errors import DatasetError


def prepare_episode(episode: Mapping[str, np.ndarray], number: int) -> dict[str, np.ndarray]:
    """Return contiguous arrays of the store's dtypes, checked; `final_observation` becomes a row [1, *O]."""
    missing = [name for name in REQUIRED if name not in episode]
    if missing:
        raise DatasetError(f"episode {number}: no column {missing[0]!r}; needed are {', '.join(REQUIRED)}")
    rows: dict[str, np.ndarray] = {}
    for key, value in episode.items():
        name = "final_observations" if key == "final_observation" else key
        array = np.asarray(value)
        array = array[None] if key == "final_observation" or key.startswith(MASK) else array
        rows[name] = _as_stored(array, name, number)
    steps = len(rows["actions"])
    if steps == 0:
        raise DatasetError(f"episode {number}: has no steps")
    for name, array in rows.items():
        expected = 1 if is_episode_column(name) else steps
        if len(array) != expected:
            raise DatasetError(f"episode {number}: column {name!r} has {len(array)} rows, 'actions' has {steps}")
        if array.size == 0:
            raise DatasetError(f"episode {number}: column {name!r} has rows of shape {array.shape[1:]}, no numbers")
    if rows["observations"].ndim < 2:
        raise DatasetError(f"episode {number}: column 'observations' has one number a step, a row of them is needed")
    masks = [(name, 1) for name in rows if name.startswith(MASK)]
    for name, dims in (("actions", 2), ("rewards", 1), ("terminals", 1), *masks):
        if rows[name].ndim != dims:
            raise DatasetError(f"episode {number}: column {name!r} has shape {rows[name].shape}, {dims} dims expected")
    if "final_observations" in rows and rows["final_observations"].shape[1:] != rows["observations"].shape[1:]:
        shape = rows["final_observations"].shape[1:]
        raise DatasetError(f"episode {number}: final observation {shape} is not shaped like the others")
    return rows


def check_alike(rows: Mapping[str, np.ndarray], first: Mapping[str, np.ndarray], number: int) -> None:
    """Raise DatasetError where an episode has other columns than the first one, or rows of another shape."""
    for name in sorted({*rows, *first}):
        if name not in rows or name not in first:
            raise DatasetError(f"episode {number}: column {name!r} is not in every episode")
        if rows[name].shape[1:] != first[name].shape[1:]:
            shapes = f"{rows[name].shape[1:]}, earlier ones {first[name].shape[1:]}"
            raise DatasetError(f"episode {number}: column {name!r} has rows {shapes}")


def is_episode_column(name: str) -> bool:
    """Say whether a column has one row an episode."""
    return name == "final_observations" or name.startswith(MASK)


def _as_stored(array: np.ndarray, name: str, number: int) -> np.ndarray:
    if array.dtype.kind not in "biuf":
        raise DatasetError(f"episode {number}: column {name!r} holds {array.dtype}, not numbers")
    if array.ndim == 0:
        raise DatasetError(f"episode {number}: column {name!r} is one number, an array with a row a step is needed")
    if name == "terminals" or name.startswith(MASK):
        array = array.astype(np.uint8)
    elif array.dtype != np.uint8 or name in ("actions", "rewards"):
        with np.errstate(over="ignore"):
            array = array.astype(np.float32)
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        where = np.argwhere(~np.isfinite(array))[0]
        place = f"at step {where[0]}, index {where[1:].tolist()}"
        raise DatasetError(
            f"episode {number}: column {name!r} has NaN or infinity {place}: drop or repair that episode in the file"
        )
    return np.ascontiguousarray(array)
