"""Read and write one large array of an npz a few rows at a time, so that memory does not grow with the file.

numpy itself reads an array whole: the pictures of one OGBench dataset are 12 GB.
"""

from __future__ import annotations

import tempfile
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.lib import format as npy

from understudy.envs.files.reading import check_claim, check_readable, damage
from understudy.errors import DatasetError, did_you_mean
from understudy.files import storage_errors, write_atomic

CHUNK = 1 << 20
"""Bytes that are copied at once."""


class RowReader:
    """The rows of one array, read in their order."""

    def __init__(self, file: Path, stream: IO[bytes], size: int) -> None:
        self._file, self._stream, self._done = file, stream, 0
        version = npy.read_magic(stream)
        if version not in ((1, 0), (2, 0)):
            raise DatasetError(f"{file}: an array in npy format {version}, 1.0 and 2.0 are read")
        header = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
        self.shape, column_major, self.dtype = header(stream)
        if self.dtype.kind not in "biuf":
            raise DatasetError(f"{file}: an array of {self.dtype}, not of numbers")
        self._row = int(np.prod(self.shape[1:], dtype=np.int64)) * self.dtype.itemsize
        if len(self.shape) == 0 or stream.tell() + self.shape[0] * self._row != size:
            raise DatasetError(f"{file}: an array of shape {self.shape} {self.dtype} does not have {size} bytes")
        self._whole = self._load() if column_major else None

    def __len__(self) -> int:
        return self.shape[0]

    def take(self, count: int) -> np.ndarray:
        """Return the next rows [count, ...]; the checksum is looked at with the last ones."""
        begin, self._done = self._done, self._done + count
        if self._whole is not None:
            return self._whole[begin : self._done]
        with damage(self._file, "npz"):
            rows = np.frombuffer(self._read(count * self._row), self.dtype).reshape(count, *self.shape[1:])
            if self._done == len(self):
                self._stream.read(1)
        return rows

    def _load(self) -> np.ndarray:
        values = np.frombuffer(self._read(len(self) * self._row), self.dtype).reshape(self.shape, order="F")
        self._stream.read(1)
        return values

    def _read(self, size: int) -> bytearray:
        data = bytearray(size)
        view, done = memoryview(data), 0
        while done < size:
            part = self._stream.read(min(CHUNK, size - done))
            if not part:
                raise DatasetError(f"{self._file}: not a readable npz file, truncated or damaged (too few bytes)")
            view[done : done + len(part)] = part
            done += len(part)
        return data


@contextmanager
def open_rows(file: Path, name: str) -> Iterator[RowReader]:
    """Open an array of an npz for reading by rows; a damaged file raises DatasetError."""
    with damage(check_readable(file, "npz"), "npz"):
        archive = zipfile.ZipFile(file)
    with archive:
        names = [entry.removesuffix(".npy") for entry in archive.namelist()]
        if name not in names:
            raise DatasetError(f"{file}: no array {name!r}{did_you_mean(name, names)}")
        with damage(file, "npz"):
            info = archive.getinfo(f"{name}.npy")
            check_claim(info.file_size, file)
            stream = archive.open(info)
        with stream:
            with damage(file, "npz"):
                reader = RowReader(file, stream, info.file_size)
            yield reader


class RowWriter:
    """Rows that are kept in a nameless file beside `target` until it is known how many there are."""

    def __init__(self, target: Path) -> None:
        self._target = target
        with storage_errors(target):
            target.parent.mkdir(parents=True, exist_ok=True)
            self._file = tempfile.TemporaryFile(dir=target.parent)  # noqa: SIM115  (closed by `close`)
        self._count = 0
        self._first: np.ndarray | None = None

    def append(self, rows: np.ndarray) -> None:
        """Append rows [n, ...], shaped like the ones before."""
        self._first = rows[:0] if self._first is None else self._first
        if (rows.dtype, rows.shape[1:]) != (self._first.dtype, self._first.shape[1:]):
            told = f"{rows.shape[1:]} {rows.dtype.name}, earlier ones {self._first.shape[1:]} {self._first.dtype.name}"
            raise DatasetError(f"{self._target}: rows {told}")
        with storage_errors(self._target):
            self._file.write(np.ascontiguousarray(rows).reshape(-1).view(np.uint8).data)
        self._count += len(rows)

    def write_npz(self, name: str, others: Mapping[str, np.ndarray], *, compress: bool) -> None:
        """Write `target`, an npz of these rows and other arrays; `compress` is worth its time for pictures."""
        assert self._first is not None
        method = zipfile.ZIP_DEFLATED if compress else zipfile.ZIP_STORED
        shape = (self._count, *self._first.shape[1:])
        header = {"descr": npy.dtype_to_descr(self._first.dtype), "fortran_order": False, "shape": shape}

        def write(stream: Any) -> None:
            with zipfile.ZipFile(stream, "w", method, compresslevel=1) as archive:
                with archive.open(f"{name}.npy", "w", force_zip64=True) as entry:
                    npy.write_array_header_1_0(entry, header)
                    self._file.seek(0)
                    while part := self._file.read(CHUNK):
                        entry.write(part)
                for other, array in others.items():
                    with archive.open(f"{other}.npy", "w", force_zip64=True) as entry:
                        npy.write_array(entry, np.asanyarray(array), allow_pickle=False)

        write_atomic(self._target, write)

    def close(self) -> None:
        """Drop the nameless file."""
        with suppress(OSError):  # closing flushes, and a full disk has been reported already
            self._file.close()
