"""Decide what a column of incoming numbers is, pictures, depth or a state: the one place that does.

Importers, the writer and what an environment shows a policy all ask here, so that a picture is the same wherever it
comes from. Where shape, type and values leave a doubt, DatasetError says what to type. Shape letters: T rows, H height,
W width, C channels, k frames.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

import numpy as np

from understudy.envs.store.form import DEPTH, LAYOUTS, LEFT_OUT, NUMBERS, PICTURE, STATE, Form, span
from understudy.errors import DatasetError

CHANNELS = (1, 3, 4)
MOST_CHANNELS = 32
"""Most channels of pictures whose frames lie on them."""
SMALLEST = 16
"""Least sides of a matrix of bytes that is a grey picture: smaller ones are boards and tables."""
BRIGHT = 32
"""What floats must reach to be levels of 255 and not metres."""
SIZE = re.compile(r"(\d+)x(\d+)(?:x(\d+))?")
RANGE = re.compile(r"(-?\d+(?:\.\d+)?)\.\.(-?\d+(?:\.\d+)?)")


@dataclass(frozen=True)
class Rows:
    """What is known of a column's rows [T, *shape] before it is decided what they are."""

    name: str
    shape: tuple[int, ...]
    dtype: np.dtype
    low: float
    high: float
    whole: bool = False
    """Whether all values are whole numbers."""
    bounded: bool = False
    """Whether low and high are bounds that the source gives, and not only the values that were seen."""
    layout: str = ""
    """What the source says of the axes, one of LAYOUTS."""

    @classmethod
    def of(cls, name: str, rows: np.ndarray, layout: str = "") -> Rows:
        """Return what an array [T, *shape] shows."""
        finite = rows[np.isfinite(rows)] if rows.dtype.kind == "f" else rows.reshape(-1)
        low, high = (float(finite.min()), float(finite.max())) if finite.size else (0.0, 0.0)
        whole = rows.dtype.kind in "biu" or bool((finite == np.rint(finite)).all())
        return cls(name, rows.shape[1:], rows.dtype, low, high, whole, layout=layout)


@dataclass(frozen=True)
class Declared:
    """What a source's file says of a column: the order of a picture's axes, one of LAYOUTS, and the values' bounds."""

    layout: str = ""
    bounds: tuple[float, float] | None = None


@dataclass(frozen=True)
class Asked:
    """What a user says of a column: `--as NAME=WORDS`."""

    layout: str = ""
    bounds: tuple[float, float] | None = None
    size: tuple[int, int, int] | None = None
    kind: str = ""

    @classmethod
    def parse(cls, name: str, words: str) -> Asked:
        """Return what words with commas between them say; DatasetError names the one that says nothing."""
        found = cls()
        for word in words.lower().split(","):
            if word in LAYOUTS:
                found = replace(found, layout=word)
            elif word in (STATE, LEFT_OUT):
                found = replace(found, kind=word)
            elif (match := SIZE.fullmatch(word)) and all(int(n or 1) for n in match.groups()):
                found = replace(found, size=tuple(int(n or 1) for n in match.groups()))
            elif (match := RANGE.fullmatch(word)) and float(match[1]) < float(match[2]):
                found = replace(found, bounds=(float(match[1]), float(match[2])))
            else:
                raise DatasetError(
                    f"--as {name}={words}: {word!r} says nothing; use an order of axes ({', '.join(LAYOUTS)}), a range"
                    " like 0..1, the size of flattened pictures like 64x64x3, state, or out, with commas between them"
                )
        if found.kind and found != cls(kind=found.kind):
            raise DatasetError(f"--as {name}={words}: {words.split(',')[0]!r} goes with nothing else")
        return found


def decide_form(rows: Rows, asked: Asked | None = None, *, camera: bool = False) -> Form:
    """Return what a column is and how it comes to the store's form; a camera's rows are pictures, or depth.

    Other columns are pictures where shape, type and values say so. DatasetError, with what to type, for a doubt.
    """
    plain = Form(NUMBERS, rows.shape, rows.dtype.name)
    if asked is not None and asked.kind:
        return replace(plain, kind=asked.kind)
    if asked is not None:
        rows = _sized(rows, asked)
    told = camera or asked is not None or bool(rows.layout)
    if not told and not _may_be_picture(rows):
        return plain
    if len(rows.shape) < 2:
        size = flattened_size(rows.shape) or "HEIGHTxWIDTHxCHANNELS"
        raise doubt(rows, "pictures need a height and a width", size, LEFT_OUT)
    layout = (asked.layout if asked else "") or _layout(rows)
    levels = (asked.bounds if asked else None) or _levels(rows, layout)
    if levels is None:
        return Form(DEPTH, rows.shape, rows.dtype.name, layout)
    size = rows.shape if rows.shape != plain.shape else ()
    return Form(PICTURE, plain.shape, rows.dtype.name, layout, *levels, size)


def _sized(rows: Rows, asked: Asked) -> Rows:
    """Return rows of the size that is asked for, after a check that it and the order of the axes fit."""
    numbers = int(np.prod(rows.shape))
    if asked.size is not None:
        if numbers != int(np.prod(asked.size)):
            size = "x".join(map(str, asked.size))
            raise DatasetError(f"--as {rows.name}={size}: column {rows.name!r} has {numbers} numbers a row")
        rows = replace(rows, shape=asked.size, layout="hwc")
    if asked.layout and len(asked.layout) != len(rows.shape):
        raise DatasetError(f"--as {rows.name}={asked.layout}: its rows have the shape {list(rows.shape)}")
    return rows


def doubt(rows: Rows, why: str, *words: str) -> DatasetError:
    """Return the error for what cannot be decided, with what to type."""
    typed = " or ".join(f"--as {rows.name}={word}" for word in words)
    return DatasetError(
        f"column {rows.name!r} holds {rows.dtype} rows of shape {list(rows.shape)}, values {span(rows.low, rows.high)}:"
        f" {why}; give `understudy data import` {typed}"
    )


def channels_axis(shape: tuple[int, ...], layout: str = "") -> str:
    """Return hwc or chw for [a, b, c]: where the channels are, "" where the shape does not tell and nobody said."""
    first, last = (_can_be_channels(shape, axis) for axis in (0, 2))
    if first and last and shape[0] != shape[2]:
        return "hwc" if shape[2] < shape[0] else "chw"
    return layout if first == last else ("hwc" if last else "chw")


def _can_be_channels(shape: tuple[int, ...], axis: int) -> bool:
    others = [size for place, size in enumerate(shape) if place != axis]
    return shape[axis] in CHANNELS or (shape[axis] <= MOST_CHANNELS and shape[axis] < min(others))


def size_of(shape: tuple[int, ...], layout: str = "hwc") -> tuple[int, int] | None:
    """Return height and width of pictures [H, W], [a, b, c] or [k, a, b, c], None where the shape is none of these.

    `layout` is for shapes that do not tell.
    """
    if len(shape) == 2:
        return shape[0], shape[1]
    if len(shape) not in (3, 4):
        return None
    found = channels_axis(shape[-3:], layout)
    if not found:
        return None
    return (shape[-3], shape[-2]) if found == "hwc" else (shape[-2], shape[-1])


def flattened_size(shape: tuple[int, ...]) -> str:
    """Return the size, as --as takes it, of the square pictures that a vector may hold; "" where it holds none."""
    numbers = int(np.prod(shape))
    sides = [(round((numbers / channels) ** 0.5), channels) for channels in (3, 1)]
    return next((f"{n}x{n}x{c}" for n, c in sides if n * n * c == numbers and n >= SMALLEST), "")


def upper(rows: Rows) -> int:
    """Return a round number, not below any value of the rows, to be the white of their pictures."""
    digits = 10 ** max(0, len(str(int(rows.high))) - 2)
    return max(1, int(np.ceil(rows.high / digits)) * digits)


def words_for(rows: Rows) -> str:
    """Return what --as takes for these rows if they are pictures."""
    if rows.low < 0:
        bounds = _spanned(rows)
    else:
        bounds = "0..1" if rows.high <= 1 else f"0..{255 if rows.high <= 255 else upper(rows)}"
    size = flattened_size(rows.shape) if len(rows.shape) == 1 else ""
    return ",".join(filter(None, (size, bounds if rows.dtype != np.uint8 else ""))) or "hwc"


def _may_be_picture(rows: Rows) -> bool:
    """Return whether rows that nobody calls pictures look like some: bytes do, others by their channels and values."""
    few = rows.dtype in (np.dtype(np.uint8), np.dtype(np.bool_))
    if len(rows.shape) == 2:
        return (few or rows.dtype == np.uint16) and min(rows.shape) >= SMALLEST
    if len(rows.shape) == 3 and not few:
        channels = bool(channels_axis(rows.shape)) or rows.shape[0] == rows.shape[2] in CHANNELS
        return channels and (rows.low >= 0 or (rows.bounded and (rows.low, rows.high) == (-1, 1)))
    return len(rows.shape) > 2


def _layout(rows: Rows) -> str:
    """Return the order of the axes of pictures."""
    if len(rows.shape) == 2:
        return "hw"
    if len(rows.shape) == 4 and rows.shape[0] <= MOST_CHANNELS:
        inner = channels_axis(rows.shape[1:], rows.layout.removeprefix("k"))
        if inner:
            return f"k{inner}"
        raise doubt(rows, "stacked frames, but where are their channels?", "khwc", "kchw")
    if len(rows.shape) == 3:
        found = channels_axis(rows.shape, rows.layout)
        if found:
            return found
        raise doubt(rows, "pictures, but where are their channels?", "hwc", "chw", LEFT_OUT)
    raise doubt(rows, "neither pictures nor a vector", "state", LEFT_OUT)


def _levels(rows: Rows, layout: str) -> tuple[float, float] | None:
    """Return the range of values that becomes 0 to 255, None for depth, which is no light."""
    low, high, name = rows.low, rows.high, rows.dtype.name
    if rows.bounded and (low, high) in ((0.0, 1.0), (0.0, 255.0), (-1.0, 1.0)):
        return low, high
    if name == "uint8":
        return 0.0, 255.0
    channels = 1 if layout == "hw" else rows.shape[-1 if layout.endswith("hwc") else -3]
    if channels == 1 and ("depth" in rows.name.lower() or high > 255):
        return None
    if low < 0:
        raise doubt(rows, "pictures, but which values are black and white?", _spanned(rows), LEFT_OUT)
    if high <= 1:
        return 0.0, 1.0
    if high <= 255 and (rows.whole or (channels > 1 and high > BRIGHT)):
        return 0.0, 255.0
    if name == "uint16" and high > 2**15:
        return 0.0, 65535.0
    ranges: dict[str, None] = dict.fromkeys([*(["0..255"] if high <= 255 else []), f"0..{upper(rows)}"])
    raise doubt(rows, "pictures, but which value is white?", *ranges, LEFT_OUT)


def _spanned(rows: Rows) -> str:
    """Return the range, as --as takes it, that values below 0 seem to have."""
    if rows.dtype.kind == "i" and rows.dtype.itemsize == 1:
        return "-128..127"
    side = int(np.ceil(max(-rows.low, rows.high)))
    return f"{-side}..{side}"
