"""How rows of pictures come in, and what makes the store's form of them: uint8 [T, H, W, C], 0 to 255.

Which form a column has is decided in `column_kinds`. Shape letters: T rows, H height, W width, C channels, k frames.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from understudy.errors import DatasetError

PICTURE, DEPTH, NUMBERS, STATE, LEFT_OUT = "pictures", "depth", "numbers", "state", "out"
"""What a column can be; `state` are rows of several dims that are kept as vectors."""
LAYOUTS = {"hwc": "HWC", "chw": "CHW", "hw": "HW", "khwc": "kHWC", "kchw": "kCHW"}
"""Orders of a picture's axes; k are frames one after another."""
SLACK = 1e-4
"""How far beyond its range a value may lie that is rounded to it, as a share of the range."""


@dataclass(frozen=True)
class Form:
    """How rows come in: what they are, and of pictures the order of the axes and the range that becomes 0 to 255."""

    kind: str
    shape: tuple[int, ...]
    """Shape of a row, as it comes in."""
    dtype: str
    layout: str = ""
    low: float = 0.0
    high: float = 255.0
    size: tuple[int, ...] = ()
    """Shape of a picture whose numbers come in as a vector."""

    @property
    def converts(self) -> bool:
        """Whether anything changes."""
        if self.kind == STATE:
            return len(self.shape) > 1
        return self.kind == PICTURE and not (self.layout == "hwc" and self.is_levels and not self.size)

    @property
    def is_levels(self) -> bool:
        """Whether pictures come in as the bytes that are kept."""
        return self.dtype == "uint8" and (self.low, self.high) == (0.0, 255.0)

    @property
    def stored_shape(self) -> tuple[int, ...]:
        """Shape of a row as the store has it."""
        if self.kind != PICTURE:
            return (int(np.prod(self.shape)),) if self.converts else self.shape
        return _channels_last(np.broadcast_to(np.uint8(0), (1, *(self.size or self.shape))), self.layout).shape[1:]

    def apply(self, rows: np.ndarray, what: str) -> np.ndarray:
        """Return rows [T, *shape] in the store's form; DatasetError for values out of the range that was decided."""
        if not self.converts:
            return rows
        if self.kind == STATE:
            return rows.reshape(len(rows), -1)
        rows = rows.reshape(len(rows), *(self.size or self.shape))
        levels = rows if self.is_levels and rows.dtype == np.uint8 else self._levels(rows, what)
        return np.ascontiguousarray(_channels_last(levels, self.layout))

    def undo(self, rows: np.ndarray) -> np.ndarray:
        """Return rows of the store as they came in; `apply` of these gives the same."""
        if not self.converts:
            return rows
        if self.kind == STATE:
            return rows.reshape(len(rows), *self.shape)
        rows = _as_it_was(rows, self.layout, self.size or self.shape).reshape(len(rows), *self.shape)
        if self.is_levels:
            return np.ascontiguousarray(rows)
        values = rows.astype(np.float64) / 255 * (self.high - self.low) + self.low
        return np.ascontiguousarray((values if "float" in self.dtype else np.rint(values)).astype(self.dtype))

    def _levels(self, rows: np.ndarray, what: str) -> np.ndarray:
        values = rows.astype(np.float32)
        low, high = float(values.min(initial=self.low)), float(values.max(initial=self.high))
        width = self.high - self.low
        if not (low >= self.low - SLACK * width and high <= self.high + SLACK * width):
            odd = low if low < self.low else high
            raise DatasetError(f"{what} holds {odd:g}, its pictures are of {span(self.low, self.high)}")
        levels = np.rint((values - np.float32(self.low)) * np.float32(255 / width))
        return np.clip(levels, 0, 255).astype(np.uint8)

    def describe(self) -> str:
        """Return what is done to the rows, as a part of a sentence."""
        shape, stored = list(self.shape), list(self.stored_shape)
        if self.kind == STATE:
            return f"a state, {shape}, is kept as {stored}"
        said = {
            "chw": f"channels first, {shape}, are kept as {stored}",
            "hw": f"one channel, {shape}, are kept as {stored}",
            "khwc": f"{shape[0]} frames each, {shape}, are kept with the frames on the channels, {stored}",
            "kchw": f"{shape[0]} frames each, {shape}, are kept with the frames on the channels, {stored}",
        }.get(self.layout, "")
        if self.size:
            said = f"{shape[0]} numbers each are kept as {stored}"
        if not self.is_levels:
            levels = f"{self.dtype} of {span(self.low, self.high)} becomes uint8 of 0 to 255, rounded"
            said = f"{said}; {levels}" if said else levels
        return f"pictures: {said}"

    def to_json(self) -> dict[str, Any]:
        """Return the form as JSON values."""
        return {
            **{"kind": self.kind, "shape": list(self.shape), "dtype": self.dtype, "layout": self.layout},
            "range": [self.low, self.high],
            "size": list(self.size),
        }

    @classmethod
    def from_json(cls, data: Any) -> Form:
        """Return the form that `to_json` gave; nonsense raises KeyError, TypeError or ValueError."""
        low, high = (float(value) for value in data["range"])
        shape, layout, kind = tuple(int(n) for n in data["shape"]), str(data["layout"]), str(data["kind"])
        if layout not in ("", *LAYOUTS) or kind not in (PICTURE, STATE):
            raise ValueError(f"{kind} with layout {layout!r}")
        size = tuple(int(n) for n in data.get("size", ()))
        return cls(kind, shape, np.dtype(data["dtype"]).name, layout, low, high, size)


def span(low: float, high: float) -> str:
    """Return a range for messages."""
    return f"{low:g} to {high:g}"


def _channels_last(rows: np.ndarray, layout: str) -> np.ndarray:
    if layout == "hw":
        return rows[..., None]
    if layout == "chw":
        return np.moveaxis(rows, -3, -1)
    if layout in ("khwc", "kchw"):
        frames = rows if layout == "khwc" else np.moveaxis(rows, -3, -1)  # [T, k, H, W, C]
        beside = np.moveaxis(frames, 1, -2)
        return beside.reshape(*beside.shape[:-2], -1)
    return rows


def _as_it_was(rows: np.ndarray, layout: str, shape: tuple[int, ...]) -> np.ndarray:
    if layout == "hw":
        return rows[..., 0]
    if layout == "chw":
        return np.moveaxis(rows, -1, -3)
    if layout in ("khwc", "kchw"):
        frames = np.moveaxis(rows.reshape(*rows.shape[:-1], shape[0], -1), -2, 1)  # [T, k, H, W, C]
        return frames if layout == "khwc" else np.moveaxis(frames, -1, -3)
    return rows
