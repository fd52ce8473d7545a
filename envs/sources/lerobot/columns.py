"""Which LeRobot feature a column of an episode becomes, and back; and how its rows lie in a parquet file.

LeRobot's names say what a feature is for: `observation.state`, `observation.images.<camera>`, `action`, `next.reward`,
`next.done`, `next.success`. Other columns keep their own name, with dots for slashes, which LeRobot forbids. Row shapes
exclude the time axis T; LeRobot writes one number a row as shape [1].
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from understudy.envs.files.reading import WrongContent
from understudy.envs.store.episode import is_episode_column
from understudy.envs.store.store import IMAGES
from understudy.errors import DatasetError

STATE, ACTION, REWARD = "observation.state", "action", "next.reward"
DONE, TRUNCATED, SUCCESS = "next.done", "next.truncated", "next.success"
INTERVENTION = "complementary_info.is_intervention"
CAMERA = "observation.images."
PIXELS = CAMERA + "pixels"
AUTOMATIC = {
    "timestamp": "float32",
    "frame_index": "int64",
    "episode_index": "int64",
    "index": "int64",
    "task_index": "int64",
}
"""Features that every dataset has."""
WRITTEN_TASK = "original.task_index"
"""The feature of a column `task_index` in what understudy writes; LeRobot's own numbers are others."""
PICTURES = ("image", "video")
"""Kinds of picture features: in the parquet files, in mp4 files."""
NUMBERS = ("bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "float16", "float32", "float64")
_FEATURES = {"observations": STATE, "actions": ACTION, "rewards": REWARD, "terminals": DONE, "success": SUCCESS}
_FEATURES["interventions"] = INTERVENTION
_COLUMNS = {feature: column for column, feature in _FEATURES.items()}


@dataclass(frozen=True)
class Feature:
    """One feature: its key, the dtype that info.json gives, the shape of a row, the column that it is here.

    `dtype_here` and `shape_here` are the column's own, where the dataset was written here.
    """

    key: str
    dtype: str
    shape: tuple[int, ...]
    column: str
    dtype_here: str = ""
    shape_here: tuple[int, ...] | None = None

    @property
    def is_picture(self) -> bool:
        """Whether it is a camera's."""
        return self.dtype in PICTURES

    @property
    def picture_size(self) -> tuple[int, int]:
        """Height and width of a picture; info.json may have the channels first."""
        first = self.shape[0] == 3 and self.shape[2] != 3
        return self.shape[1:] if first else self.shape[:2]  # pyright: ignore[reportReturnType]

    def describe(self, names: Any = None) -> dict[str, Any]:
        """Return the entry of info.json."""
        given = ["height", "width", "channels"] if self.is_picture else names
        return {"dtype": self.dtype, "shape": list(self.shape), "names": given}


def features_of(rows: Mapping[str, np.ndarray], pictures: str) -> dict[str, Feature]:
    """Return the features, by key, that an episode's columns (as `prepare_episode` returns them) are written as.

    `pictures` is the kind of all cameras: video or image.
    """
    found: dict[str, Feature] = {}
    for column, array in rows.items():
        if is_episode_column(column):
            continue
        feature = _feature_of(column, array, pictures)
        if feature.key in found:
            raise DatasetError(f"columns {found[feature.key].column!r} and {column!r} would both be {feature.key!r}")
        found[feature.key] = feature
    return found


def _feature_of(column: str, array: np.ndarray, pictures: str) -> Feature:
    shape = tuple(int(n) for n in array.shape[1:])
    here = {"dtype_here": array.dtype.name, "shape_here": shape}
    if column.startswith(IMAGES) or (column == "observations" and array.dtype == np.uint8 and array.ndim == 4):
        key = CAMERA + column.removeprefix(IMAGES).replace("/", ".") if column.startswith(IMAGES) else PIXELS
        if shape[-1] != 3:
            raise DatasetError(f"column {column!r}: pictures of {shape[-1]} channels; LeRobot's have 3")
        return Feature(key, pictures, shape, column, **here)
    key = _FEATURES.get(column, column.replace("/", "."))
    if key in (*AUTOMATIC, TRUNCATED):
        key = f"original.{key}"
    return Feature(
        key, "bool" if key in (DONE, SUCCESS, INTERVENTION) else array.dtype.name, shape or (1,), column, **here
    )


def read_features(
    described: Mapping[str, Any], written_here: Mapping[str, Any], edited: bool = False
) -> tuple[list[Feature], list[str]]:
    """Return the features of info.json that become columns, and a word on each of those that do not.

    `written_here` is what `note_of` returned when the dataset was written by understudy, else empty; `edited` says that
    others gave its rows tasks since then, whose numbers become a column, as those of other datasets do. What is wrong
    raises KeyError, TypeError or ValueError (WrongContent where it is said in full).
    """
    kept: list[Feature] = []
    left_out: list[str] = []
    for key, entry in described.items():
        if key == TRUNCATED or (key in AUTOMATIC and (key != "task_index" or (written_here and not edited))):
            continue
        if edited and key == WRITTEN_TASK:
            continue
        dtype, shape = str(entry["dtype"]), tuple(int(n) for n in entry["shape"])
        if _is_depth(entry):
            left_out.append(f"{key}: a depth map")
        elif dtype not in (*PICTURES, *NUMBERS):
            left_out.append(f"{key}: {dtype}")
        elif 0 in shape or (dtype in PICTURES and len(shape) != 3):
            raise WrongContent(f"{key} has shape {list(shape)}")
        elif key in written_here:
            note = written_here[key]
            here = {"dtype_here": str(np.dtype(note["dtype"])), "shape_here": tuple(int(n) for n in note["shape"])}
            kept.append(Feature(key, dtype, shape, str(note["column"]), **here))
        else:
            kept.append(Feature(key, dtype, shape, _column_of(key, dtype)))
    columns = [feature.column for feature in kept]
    for column in columns:
        if columns.count(column) > 1:
            raise WrongContent(f"several features would be the column {column!r}")
    return kept, left_out


def note_of(features: Mapping[str, Feature]) -> dict[str, Any]:
    """Return what is written about each feature, so that reading gives back the columns that there were."""
    return {
        key: {"column": item.column, "dtype": item.dtype_here, "shape": list(item.shape_here or ())}
        for key, item in features.items()
    }


def _column_of(key: str, dtype: str) -> str:
    if dtype in PICTURES or key.startswith(CAMERA):  # a camera's pictures may be kept as plain numbers
        for prefix in (CAMERA, "observation."):
            if key.startswith(prefix):
                return IMAGES + key.removeprefix(prefix)
        return IMAGES + key
    return _COLUMNS.get(key, key.removeprefix("observation."))


def _is_depth(entry: Mapping[str, Any]) -> bool:
    notes = [entry.get(name) for name in ("info", "video_info")]
    marks = ("is_depth_map", "video.is_depth_map")
    return any(bool(note.get(mark)) for note in notes if isinstance(note, Mapping) for mark in marks)


def noted_codec(entry: Mapping[str, Any]) -> str:
    """Return the codec that info.json notes of a camera's videos, '' where it notes none."""
    note = entry.get("info")
    return str(note.get("video.codec", "")) if isinstance(note, Mapping) else ""


def arrow_type(feature: Feature) -> pa.DataType:
    """Return the type of the feature's column in a parquet file."""
    if feature.is_picture:
        return pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    numbers = pa.bool_() if feature.dtype == "bool" else pa.from_numpy_dtype(np.dtype(feature.dtype))
    if feature.shape == (1,):
        return numbers
    if len(feature.shape) == 1:
        return pa.list_(numbers, feature.shape[0])
    for _ in feature.shape:
        numbers = pa.list_(numbers)
    return numbers


def to_arrow(array: np.ndarray, feature: Feature) -> pa.Array:
    """Return rows [T, *shape] of numbers as the feature's column."""
    kind = arrow_type(feature)
    if feature.dtype == "bool" and not np.isin(array, (0, 1)).all():
        raise DatasetError(f"column {feature.column!r} holds other numbers than 0 and 1, {feature.key} is a yes or no")
    rows = array.reshape(len(array), *feature.shape)
    column = pa.array(rows.reshape(-1).astype(bool) if feature.dtype == "bool" else rows.reshape(-1))
    if len(feature.shape) == 1:
        return column if feature.shape == (1,) else pa.FixedSizeListArray.from_arrays(column, type=kind)
    for axis in range(len(feature.shape), 0, -1):
        count = int(np.prod(rows.shape[:axis]))
        ends = np.arange(count + 1, dtype=np.int32) * rows.shape[axis]
        column = pa.ListArray.from_arrays(pa.array(ends), column)
    return column


def from_arrow(column: Any, feature: Feature) -> np.ndarray:
    """Return a column of T rows as an array [T, *shape], of the dtype and shape that it had where it was written here.

    What does not fit the feature's shape, or is missing, raises WrongContent.
    """
    rows, array = len(column), column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    array = array.storage if isinstance(array, pa.ExtensionArray) else array
    while pa.types.is_nested(array.type) and not pa.types.is_struct(array.type):
        if array.null_count:
            raise WrongContent(f"{feature.key} has rows with nothing in them")
        array = array.flatten()
    if array.null_count:
        raise WrongContent(f"{feature.key} has missing numbers")
    if len(array) != rows * int(np.prod(feature.shape)):
        per_row = f"{len(array) / max(rows, 1):g} numbers a row"
        raise WrongContent(f"{feature.key} has {per_row}, info.json says shape {list(feature.shape)}")
    if not (pa.types.is_integer(array.type) or pa.types.is_floating(array.type) or pa.types.is_boolean(array.type)):
        raise WrongContent(f"{feature.key} holds {array.type}, not numbers")
    numbers = array.to_numpy(zero_copy_only=False)
    numbers = numbers.astype(feature.dtype_here or ("uint8" if numbers.dtype == bool else numbers.dtype), copy=False)
    if feature.shape_here is not None:
        return numbers.reshape(rows, *feature.shape_here)
    scalar = feature.shape == (1,) and feature.column not in ("observations", "actions")
    return numbers.reshape(rows) if scalar else numbers.reshape(rows, *feature.shape)
