"""One column of a replay buffer: rows appended to memory-mapped files of equal length, the segments.

A row is written once. Old segments are deleted whole; what is left keeps its row numbers. Files are sparse: a segment
takes the disk of the rows that were written. Knows nothing of episodes.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

SEGMENT_BYTES = 64 * 2**20
"""About how large a segment of the widest rows is."""
SMALLEST = 1024
"""Rows of a segment at the least."""


def segment_rows(row_bytes: int) -> int:
    """Return how many rows of `row_bytes` a segment holds: a power of two."""
    return max(SMALLEST, 1 << max(SEGMENT_BYTES // row_bytes, 1).bit_length() - 1)


class SegmentedColumn:
    """Rows [N, *shape] of one dtype in files `<name>.<number>.bin` of a folder."""

    def __init__(self, folder: Path, name: str, shape: tuple[int, ...], dtype: np.dtype, rows: int) -> None:
        self._folder, self._name, self._rows = folder, name, rows
        self.shape, self.dtype = shape, np.dtype(dtype)
        self._segments: dict[int, np.memmap] = {}
        self._arrays: dict[int, np.ndarray] = {}
        """The same as plain arrays, whose rows cost half as much to read."""
        self._dirty: set[int] = set()
        for path in sorted(folder.glob(f"{name}.*.bin")):
            self._map(int(path.suffixes[-2][1:]), "r+")

    def put(self, row: int, value: np.ndarray | float) -> None:
        """Write a row, making its segment where it is the first of it."""
        number, place = divmod(row, self._rows)
        if number not in self._segments:
            self._map(number, "w+")
        self._arrays[number][place] = value
        self._dirty.add(number)

    def gather(self, rows: np.ndarray) -> np.ndarray:
        """Return copies of rows [n], in their order, as [n, *shape]; each must have been written and not dropped."""
        if len(self._arrays) == 1:
            number, segment = next(iter(self._arrays.items()))
            return segment[rows - number * self._rows] if number else segment[rows]
        numbers, places = np.divmod(rows, self._rows)
        found = np.empty((len(rows), *self.shape), self.dtype)
        for number in np.unique(numbers):
            mine = numbers == number
            found[mine] = self._arrays[int(number)][places[mine]]
        return found

    def sync(self) -> None:
        """Make every row that was written durable; costs what was written since the last call."""
        written, self._dirty = self._dirty, set()  # rows may be written meanwhile, by another thread
        for number in sorted(written):
            if (segment := self._segments.get(number)) is not None:
                segment.flush()

    def drop(self, below: int) -> None:
        """Delete the segments whose every row is below `below`."""
        for number in [number for number in self._segments if (number + 1) * self._rows <= below]:
            del self._segments[number], self._arrays[number]
            self._path(number).unlink(missing_ok=True)

    def _path(self, number: int) -> Path:
        return self._folder / f"{self._name}.{number:06d}.bin"

    def _map(self, number: int, mode: str) -> None:
        shape = (self._rows, *self.shape)
        self._segments[number] = np.memmap(self._path(number), self.dtype, mode, shape=shape)  # type: ignore[call-overload]
        self._arrays[number] = np.asarray(self._segments[number])
