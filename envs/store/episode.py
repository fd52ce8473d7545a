"""Check an episode and give its arrays the store's dtypes, before it is written anywhere."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from understudy.envs.store.store import FINAL, IMAGES, MASK, REQUIRED, SALIENCY, TEXTS
from understudy.errors import DatasetError

EXACT = ("_index", "time_stamp")
"""Endings of columns that keep int64 and float64: counters and clocks lose their meaning as float32."""


def completed(episode: Mapping[str, Any], number: int) -> tuple[dict[str, Any], list[str]]:
    """Return an episode with what was seen last apart, and zeros for the columns, second, that it lacks.

    With a row more of observations (or of a camera) than of actions, the last one is what was seen last.
    """
    if "actions" not in episode:
        raise DatasetError(f"episode {number}: no column 'actions'")
    steps = len(episode["actions"])
    filled: list[str] = []
    whole = dict(episode)
    for column in [key for key in episode if key == "observations" or key.startswith(IMAGES)]:
        rows = np.asarray(episode[column])
        last = "final_observation" if column == "observations" else FINAL + column
        if len(rows) == steps + 1 and last not in episode:
            whole[column], whole[last] = rows[:-1], rows[-1]
    for column in ("rewards", "terminals"):
        if column not in episode:
            whole[column] = np.zeros(steps, np.float32)
            filled.append(column)
    return whole, filled


def prepare_episode(episode: Mapping[str, Any], number: int) -> dict[str, np.ndarray]:
    """Return contiguous arrays of the store's dtypes, checked; what there is one of an episode becomes a row [1, ...].

    `final_observation` is kept as `final_observations`.
    """
    pictures = [name for name in episode if name.startswith(IMAGES)]
    missing = [name for name in REQUIRED if name not in episode and not (name == "observations" and pictures)]
    if missing:
        raise DatasetError(f"episode {number}: no column {missing[0]!r}; needed are {', '.join(REQUIRED)}")
    rows: dict[str, np.ndarray] = {}
    for key, value in episode.items():
        name = "final_observations" if key == "final_observation" else key
        array = np.asarray(value)
        rows[name] = _as_stored(array[None] if is_episode_column(name) else array, name, number)
    _check_pictures(rows, number)
    _check_rows(rows, number)
    return rows


def _check_rows(rows: Mapping[str, np.ndarray], number: int) -> None:
    steps = len(rows["actions"])
    if steps == 0:
        raise DatasetError(f"episode {number}: has no steps")
    for name, array in rows.items():
        expected = 1 if is_episode_column(name) else steps
        if len(array) != expected:
            raise DatasetError(f"episode {number}: column {name!r} has {len(array)} rows, 'actions' has {steps}")
        if array.size == 0:
            raise DatasetError(f"episode {number}: column {name!r} has rows of shape {array.shape[1:]}, no numbers")
    if "observations" in rows and rows["observations"].ndim < 2:
        raise DatasetError(f"episode {number}: column 'observations' has one number a step, a row of them is needed")
    singles = [(name, 1) for name in rows if name.startswith(MASK) or name in TEXTS]
    for name, dims in (("actions", 2), ("rewards", 1), ("terminals", 1), *singles):
        if rows[name].ndim != dims:
            raise DatasetError(f"episode {number}: column {name!r} has shape {rows[name].shape}, {dims} dims expected")
    for name in rows:
        of = steps_of_final(name)
        if of is not None and (of not in rows or rows[name].shape[1:] != rows[of].shape[1:]):
            shape = rows[name].shape[1:]
            raise DatasetError(f"episode {number}: {name} {shape} is not shaped like the others")


def _check_pictures(rows: Mapping[str, np.ndarray], number: int) -> None:
    for name, array in rows.items():
        pictures = (steps_of_final(name) or name).startswith(IMAGES)
        if pictures and (array.ndim != 4 or array.dtype != np.uint8):
            raise DatasetError(
                f"episode {number}: column {name!r} holds {array.dtype} {array.shape}, pictures are uint8 [T, H, W, C]"
            )
        if name.startswith(SALIENCY) and (array.ndim != 4 or array.min() < 0 or array.max() > 1):
            raise DatasetError(f"episode {number}: column {name!r} must hold values in [0, 1] of shape [T, H, W, 1]")


def check_same_columns(rows: Mapping[str, np.ndarray], first: Mapping[str, np.ndarray], number: int) -> None:
    """Raise DatasetError where an episode has other columns than the first one, or rows of another shape."""
    for name in sorted({*rows, *first}):
        if name not in rows or name not in first:
            raise DatasetError(f"episode {number}: column {name!r} is not in every episode")
        if rows[name].shape[1:] != first[name].shape[1:]:
            shapes = f"{rows[name].shape[1:]}, earlier ones {first[name].shape[1:]}"
            raise DatasetError(f"episode {number}: column {name!r} has rows {shapes}")


def is_episode_column(name: str) -> bool:
    """Return whether a column has one row an episode."""
    return name in TEXTS or name.startswith(MASK) or steps_of_final(name) is not None


def steps_of_final(name: str) -> str | None:
    """Return the column whose row after the last action `name` holds, None for other columns."""
    if name == "final_observations":
        return "observations"
    return name.removeprefix(FINAL) if name.startswith(FINAL + IMAGES) else None


def _as_stored(array: np.ndarray, name: str, number: int) -> np.ndarray:
    if name in TEXTS:
        if array.dtype.kind != "U":
            raise DatasetError(f"episode {number}: column {name!r} holds {array.dtype}, not text")
        return array
    if array.dtype.kind not in "biuf":
        raise DatasetError(f"episode {number}: column {name!r} holds {array.dtype}, not numbers")
    if array.ndim == 0:
        raise DatasetError(f"episode {number}: column {name!r} is one number, an array with a row a step is needed")
    original = array
    if name == "terminals" or name.startswith(MASK):
        array = array.astype(np.uint8)
    elif name.endswith(EXACT) and array.dtype in (np.dtype(np.int64), np.dtype(np.float64)):
        pass
    elif array.dtype != np.uint8 or name in ("actions", "rewards"):
        with np.errstate(over="ignore"):
            array = array.astype(np.float32)
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        where = np.argwhere(~np.isfinite(array))[0]
        place = f"at step {where[0]}, index {where[1:].tolist()}"
        if original.dtype.kind != "f" or np.isfinite(original).all():
            value = float(original[tuple(where)])
            raise DatasetError(
                f"episode {number}: column {name!r} holds {value:.3g} {place}, more than a float32 can hold"
            )
        raise DatasetError(
            f"episode {number}: column {name!r} has NaN or infinity {place}: drop or repair that episode in the file"
        )
    return np.ascontiguousarray(array)
