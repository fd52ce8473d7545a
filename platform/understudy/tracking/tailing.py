"""Read the new whole rows of a growing csv file from where the last reading ended. Standard library only."""

from __future__ import annotations

import bisect
import csv
import math
import time
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, NamedTuple, TypedDict

TIMING_FILE = "timing.csv"


class Extent(TypedDict):
    """How far a file was read: byte offset, data rows, and the header they were read under."""

    offset: int
    rows: int
    header: str


class Row(NamedTuple):
    """One data row: its finite numbers by column (without step), and the extent that ends with it."""

    step: int
    values: dict[str, float]
    extent: Extent


class CsvTail:
    """A csv file whose first column is `step`; rows are only ever appended."""

    def __init__(self, path: Path, prefix: str = "") -> None:
        self.path = path
        self.prefix = prefix

    def rows(self, after: Extent | None, until: int | None = None) -> Iterator[Row]:
        """Yield the whole rows after an extent, up to data row number `until` (from 1).

        A last line with no newline is still being written and is left for later. If the header changed (the writer
        added a column and replaced the file) or the file is shorter than it was, the place is found by counting rows.
        """
        try:
            if after is not None and self.path.stat().st_size == after["offset"]:
                return
            file = self.path.open("rb")
        except FileNotFoundError:
            return
        with file:
            first = file.readline()
            if not first.endswith(b"\n"):
                return
            header = first.decode("utf-8", "replace").strip()
            columns = next(csv.reader([header]), list[str]())
            number, sent = 0, after["rows"] if after else 0
            if after is not None and after["header"] == header and file.seek(0, 2) >= after["offset"]:
                number = sent
                file.seek(after["offset"])
            else:
                file.seek(len(first))
            for line, end in _whole_lines(file):
                number += 1
                if until is not None and number > until:
                    return
                if number > sent and (row := _row(line, columns, Extent(offset=end, rows=number, header=header))):
                    yield row


class StepTimes:
    """When each step was logged, from timing.csv (columns step and time, unix seconds)."""

    def __init__(self, path: Path) -> None:
        self._tail = CsvTail(path)
        self._extent: Extent | None = None
        self._steps: list[int] = []
        self._milliseconds: list[int] = []

    def at(self, step: int) -> int:
        """Return unix milliseconds of the first logged step that is not before `step`; now, where there is none."""
        if not self._steps or self._steps[-1] < step:
            self._read()
        place = bisect.bisect_left(self._steps, step)
        return self._milliseconds[place] if place < len(self._steps) else int(time.time() * 1000)

    def _read(self) -> None:
        for row in self._tail.rows(self._extent):
            self._extent = row.extent
            if "time" in row.values and (not self._steps or row.step > self._steps[-1]):
                self._steps.append(row.step)
                self._milliseconds.append(int(row.values["time"] * 1000))


def _whole_lines(file: BinaryIO) -> Iterator[tuple[bytes, int]]:
    """Yield (line, offset of its end) from the file's position, blank lines too; a torn last line is left out."""
    end = file.tell()
    for line in file:
        if not line.endswith(b"\n"):
            return
        end += len(line)
        yield line, end


def _row(line: bytes, columns: list[str], extent: Extent) -> Row | None:
    """Return the row's numbers; None when it has no step (a blank line, say)."""
    cells = dict(zip(columns, next(csv.reader([line.decode("utf-8", "replace").strip()]), list[str]()), strict=False))
    numbers = {name: number for name, cell in cells.items() if (number := _number(cell)) is not None}
    if "step" not in numbers:
        return None
    step = int(numbers.pop("step"))
    return Row(step, numbers, extent)


def _number(cell: str) -> float | None:
    """Return the cell as a finite float; None for anything else."""
    try:
        value = float(cell)
    except ValueError:
        return None
    return value if math.isfinite(value) else None
