"""Files of runs that may change while they are read: JSON kept while unchanged, csv read on from the last offset."""

from __future__ import annotations

import io
import os
import threading
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from understudy.errors import UserError
from understudy.files import read_object

T = TypeVar("T")
KEPT_JSON = 40_000
"""Small files that are remembered: two of each of 10,000 runs, and more."""
KEPT_CSV = 4_000
MANY = 4096
"""Bytes from which on Arrow reads faster than cell by cell."""
TAIL = 1 << 16
"""Bytes of a csv's end that hold at least one row."""
Signature = tuple[int, int, int]


def signature(path: Path) -> Signature | None:
    """Return what changes when a file does (time, size, number); None where there is none."""
    try:
        found = os.stat(path)
    except (OSError, ValueError):
        return None
    return found.st_mtime_ns, found.st_size, found.st_ino


@dataclass(frozen=True)
class Loaded:
    """A JSON object; empty, with a line that says why, where it could not be read."""

    data: dict[str, Any] = field(default_factory=dict[str, Any])
    problem: str = ""


@dataclass
class Columns:
    """A csv's columns as they are so far. Cells that are empty or no number are NaN."""

    names: list[str] = field(default_factory=list[str])
    rows: np.ndarray = field(default_factory=lambda: np.empty((0, 0)))
    """float64 [rows, columns]"""
    offset: int = 0
    inode: int = 0

    def get(self, name: str) -> np.ndarray | None:
        """Return one column [rows]; None where there is no such column."""
        return self.rows[:, self.names.index(name)] if name in self.names else None

    def last(self) -> dict[str, float]:
        """Return the last row without what is unknown in it."""
        if not len(self.rows):
            return {}
        return {name: float(value) for name, value in zip(self.names, self.rows[-1], strict=True) if value == value}


class Files:
    """A memory of files that were read, for all requests of one server."""

    def __init__(self) -> None:
        self._json: OrderedDict[Path, tuple[Signature, Loaded]] = OrderedDict()
        self._csv: OrderedDict[Path, Columns] = OrderedDict()
        self._last: dict[Path, tuple[Signature | None, dict[str, float]]] = {}
        self._made: dict[Path, tuple[object, Any]] = {}
        self._lock = threading.RLock()

    def json(self, path: Path) -> Loaded:
        """Return the object in a file; `problem` says what is wrong with one that is there and unreadable."""
        now = signature(path)
        if now is None:
            return Loaded()
        with self._lock:
            held = self._json.get(path)
            if held is not None and held[0] == now:
                return held[1]
        try:
            found = Loaded(read_object(path))
        except (UserError, OSError) as error:
            found = Loaded(problem=str(error))
        with self._lock:
            self._json[path] = (now, found)
            while len(self._json) > KEPT_JSON:
                self._json.popitem(last=False)
        return found

    def kept(self, path: Path, state: object, make: Callable[[], T]) -> T:
        """Return what `make` made of a folder in this state, making it anew in another one."""
        held = self._made.get(path)
        if held is None or held[0] != state:
            held = self._made[path] = (state, make())
        return held[1]

    def last(self, path: Path) -> dict[str, float]:
        """Return a csv's last whole row without what is unknown in it; {} where there is none."""
        now = signature(path)
        held = self._last.get(path)
        if held is None or held[0] != now:
            held = self._last[path] = (now, _last_row(path))
        return held[1]

    def csv(self, path: Path) -> Columns:
        """Return a csv's columns; only what was appended since the last call is read and parsed."""
        now = signature(path)
        if now is None:
            return Columns()
        with self._lock:
            held = self._csv.get(path)
            if held is None or now[2] != held.inode or now[1] < held.offset:
                held = Columns(inode=now[2])
            if now[1] > held.offset:
                held = _read_on(path, held)
            self._csv[path] = held
            self._csv.move_to_end(path)
            while len(self._csv) > KEPT_CSV:
                self._csv.popitem(last=False)
            return held


def _last_row(path: Path) -> dict[str, float]:
    """Return the last whole row of a csv, of which no more than its first line and its end are read."""
    try:
        with open(path, "rb") as file:
            names = file.readline()
            end = file.seek(0, os.SEEK_END)
            begin = file.seek(max(len(names), end - TAIL))
            lines = file.read().split(b"\n")
    except OSError:
        return {}
    width = names.count(b",") + 1
    whole = [line for line in lines[1 if begin > len(names) else 0 : -1] if line.count(b",") == width - 1]
    if not whole or not names.endswith(b"\n"):
        return {}
    cells = zip(names.decode("utf-8", "replace").strip().split(","), whole[-1].split(b","), strict=True)
    found = {name: _number(cell) for name, cell in cells}
    return {name: value for name, value in found.items() if value == value}


def _read_on(path: Path, held: Columns) -> Columns:
    try:
        with open(path, "rb") as file:
            file.seek(held.offset)
            data = file.read()
    except OSError:
        return held
    whole = data[: data.rfind(b"\n") + 1]
    names, body = held.names, whole
    if not names:
        head, _, body = whole.partition(b"\n")
        names = head.decode("utf-8", "replace").strip().split(",")
        if names == [""]:
            return held
    fresh = _numbers(body, len(names))
    rows = fresh if not len(held.rows) else np.concatenate([held.rows, fresh])
    return Columns(names, rows, held.offset + len(whole), held.inode)


def _numbers(body: bytes, width: int) -> np.ndarray:
    """Return lines of cells as float64 [lines, width]; a line of another width is left out."""
    if len(body) > MANY:
        try:
            return _parsed(body, width)
        except (ValueError, OSError):
            pass  # a cell that is no number, or a line of another width: one by one
    lines = [line for line in body.splitlines() if line.count(b",") == width - 1]
    if not lines:
        return np.empty((0, width))
    return np.array([[_number(cell) for cell in line.split(b",")] for line in lines])


def _parsed(body: bytes, width: int) -> np.ndarray:
    from pyarrow import csv as arrow
    from pyarrow import float64

    names = [str(place) for place in range(width)]
    table = arrow.read_csv(
        io.BytesIO(body),
        read_options=arrow.ReadOptions(column_names=names, use_threads=False),
        convert_options=arrow.ConvertOptions(column_types={name: float64() for name in names}, null_values=["", "nan"]),
    )
    rows = np.empty((table.num_rows, width))
    for place, name in enumerate(names):
        rows[:, place] = table[name].to_numpy(zero_copy_only=False)
    return rows


def _number(cell: bytes) -> float:
    try:
        return float(cell)
    except ValueError:
        return float("nan")
