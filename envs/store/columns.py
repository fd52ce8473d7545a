"""One column of a store while it is written: a raw file, a running hash and running statistics.

Rows of numbers, pictures as JPEG, and texts are three kinds of column; `column_file` chooses by the first episode.
Memory use does not grow with the dataset.
"""

from __future__ import annotations

import abc
import contextlib
import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
import pyarrow as pa

from understudy.envs.store.frames import JPEG_CHANNELS, encode_jpeg
from understudy.envs.store.store import IMAGES, JPEG, RAW, Column, end_text
from understudy.errors import DatasetError, UserError, did_you_mean

LISTED_DIMS = 1024
"""Rows with more numbers than this get statistics per channel (last axis) instead of per dimension."""


class ColumnFile(abc.ABC):
    """A column that is being written."""

    def __init__(self, file: Path, name: str, schema: Column) -> None:
        self.name, self.file, self.schema = name, file, schema
        self._stream: BinaryIO | None = file.open("wb")
        self._hash = hashlib.blake2b(digest_size=16)
        self.size = 0
        """Bytes of the raw file so far."""

    @abc.abstractmethod
    def append(self, array: np.ndarray, episode: int) -> None:
        """Append rows [T, *shape] of one episode."""

    @abc.abstractmethod
    def arrow(self) -> pa.Array:
        """Return all rows as an Arrow array over the mapped raw file; after `close`."""

    @abc.abstractmethod
    def statistics(self) -> dict[str, list[float]]:
        """Return min, max, mean and std per dimension (or channel)."""

    def digest(self) -> str:
        """Return the hash of the column's content."""
        return self._hash.hexdigest()

    def close(self) -> None:
        """Flush the raw file."""
        if self._stream is not None:
            stream, self._stream = self._stream, None
            stream.close()

    def discard(self) -> None:
        """Remove the raw file."""
        with contextlib.suppress(OSError):  # closing flushes, and a full disk has been reported already
            self.close()
        self.file.unlink(missing_ok=True)

    def _write(self, data: bytes | memoryview) -> None:
        assert self._stream is not None
        self.size += self._stream.write(data)
        self._hash.update(data)

    def _check(self, array: np.ndarray, episode: int) -> None:
        if array.shape[1:] != self.schema.shape or array.dtype.name != self.schema.dtype:
            raise DatasetError(
                f"episode {episode}: column {self.name!r} has rows {array.shape[1:]} {array.dtype.name}, "
                f"earlier ones {self.schema.shape} {self.schema.dtype}"
            )


class NumberFile(ColumnFile):
    """Rows of numbers, kept as they are."""

    def __init__(self, file: Path, name: str, first: np.ndarray) -> None:
        super().__init__(file, name, _schema(first))
        self._moments = _Moments.of(first)

    def append(self, array: np.ndarray, episode: int) -> None:
        """Append rows [T, *shape] of one episode."""
        self._check(array, episode)
        self._write(array.reshape(-1).view(np.uint8).data)
        self._moments.add(array)

    def arrow(self) -> pa.Array:
        """Return the rows as an Arrow array over the mapped raw file."""
        raw = np.memmap(self.file, dtype=self.schema.dtype, mode="r")
        values = pa.Array.from_buffers(pa.from_numpy_dtype(raw.dtype), raw.size, [None, pa.py_buffer(raw)])
        width = int(np.prod(self.schema.shape, dtype=np.int64))
        return pa.FixedSizeListArray.from_arrays(values, width) if self.schema.shape else values

    def statistics(self) -> dict[str, list[float]]:
        """Return min, max, mean and std per dimension (or channel)."""
        return self._moments.statistics()


class JpegFile(ColumnFile):
    """Pictures, kept as JPEGs one after another; statistics are of the pictures before."""

    def __init__(self, file: Path, name: str, first: np.ndarray, quality: int) -> None:
        super().__init__(file, name, _schema(first, JPEG))
        self._moments, self._quality = _Moments.of(first), quality
        self._ends = [0]

    def append(self, array: np.ndarray, episode: int) -> None:
        """Append pictures [T, H, W, C] of one episode."""
        self._check(array, episode)
        for frame in array:
            data = encode_jpeg(frame, self._quality)
            self._write(data)
            self._ends.append(self._ends[-1] + len(data))
        self._moments.add(array)

    def digest(self) -> str:
        """Return the hash of the files' bytes and of where each ends."""
        total = self._hash.copy()
        total.update(np.asarray(self._ends, np.int64).tobytes())
        return total.hexdigest()

    def arrow(self) -> pa.Array:
        """Return the pictures as an Arrow array of binary values over the mapped raw file."""
        raw = np.memmap(self.file, np.uint8, mode="r")
        offsets = pa.py_buffer(np.asarray(self._ends, np.int64))
        return pa.Array.from_buffers(pa.large_binary(), len(self._ends) - 1, [None, offsets, pa.py_buffer(raw)])

    def statistics(self) -> dict[str, list[float]]:
        """Return min, max, mean and std per channel."""
        return self._moments.statistics()


class TextFile(ColumnFile):
    """Texts, one an episode."""

    def __init__(self, file: Path, name: str) -> None:
        super().__init__(file, name, Column((), "str"))
        self._texts: list[str] = []

    def append(self, array: np.ndarray, episode: int) -> None:
        """Append the episode's text [1]."""
        self._texts += [str(text) for text in array]
        self._hash.update(b"".join(map(end_text, map(str, array))))

    def arrow(self) -> pa.Array:
        """Return the texts."""
        return pa.array(self._texts, pa.large_utf8())

    def statistics(self) -> dict[str, list[float]]:
        """Return nothing: texts have none."""
        return {}


@dataclass(frozen=True)
class PictureEncoding:
    """How a store keeps pictures: `raw`, read without decoding, or `jpeg` of a quality, about a tenth of the size."""

    name: str = RAW
    quality: int = 95
    """JPEG's, 1 to 100."""

    def __post_init__(self) -> None:
        if self.name not in (RAW, JPEG):
            raise UserError(f"image_encoding={self.name}: no such way{did_you_mean(self.name, (RAW, JPEG))}")
        if not 1 <= self.quality <= 100:
            raise UserError(f"jpeg_quality={self.quality}: must be 1 to 100")
        if self.name != JPEG and self.quality != type(self).quality:
            raise UserError(f"jpeg_quality={self.quality} changes nothing without --image_encoding jpeg")


RAW_PICTURES = PictureEncoding()


def column_file(file: Path, name: str, first: np.ndarray, pictures: PictureEncoding) -> ColumnFile:
    """Return the column for rows like `first`; pictures are kept as `pictures` says."""
    if first.dtype.kind == "U":
        return TextFile(file, name)
    picture = first.dtype == np.uint8 and first.ndim == 4 and (IMAGES in name or "observations" in name)
    if picture and pictures.name == JPEG:
        if first.shape[-1] not in JPEG_CHANNELS:
            raise DatasetError(f"column {name!r} has {first.shape[-1]} channels, a JPEG has 1 or 3: keep it raw")
        return JpegFile(file, name, first, pictures.quality)
    return NumberFile(file, name, first)


def _schema(first: np.ndarray, encoding: str = "") -> Column:
    return Column(tuple(int(n) for n in first.shape[1:]), first.dtype.name, encoding)


class _Moments(abc.ABC):
    """Running min, max, mean and std of a column."""

    @staticmethod
    def of(first: np.ndarray) -> _Moments:
        width = int(np.prod(first.shape[1:], dtype=np.int64))
        if first.dtype == np.uint8 and width > LISTED_DIMS:
            return _Counts(first.shape[-1])
        return _Sums(width if width <= LISTED_DIMS else first.shape[-1])

    @abc.abstractmethod
    def add(self, array: np.ndarray) -> None: ...

    @abc.abstractmethod
    def statistics(self) -> dict[str, list[float]]: ...


class _Sums(_Moments):
    """Moments of real numbers, in one pass in float64: Chan et al. (1979) combine those of two parts."""

    def __init__(self, width: int) -> None:
        self._width, self._count = width, 0
        self._mean, self._m2 = np.zeros(()), np.zeros(())
        self._low, self._high = np.full((), np.inf), np.full((), -np.inf)

    def add(self, array: np.ndarray) -> None:
        values = array.reshape(-1, self._width).astype(np.float64)
        count, mean = len(values), values.mean(axis=0)
        total = self._count + count
        delta = mean - self._mean
        self._m2 = self._m2 + ((values - mean) ** 2).sum(axis=0) + delta**2 * (self._count * count / total)
        self._mean = self._mean + delta * (count / total)
        self._count = total
        self._low, self._high = np.minimum(self._low, values.min(axis=0)), np.maximum(self._high, values.max(axis=0))

    def statistics(self) -> dict[str, list[float]]:
        spread = np.sqrt(self._m2 / max(self._count, 1))
        parts = {"min": self._low, "max": self._high, "mean": self._mean, "std": spread}
        return {key: [float(x) for x in np.atleast_1d(value)] for key, value in parts.items()}


class _Counts(_Moments):
    """Moments of pictures, from how often each of the 256 values occurs in each channel: exact, without floats."""

    def __init__(self, channels: int) -> None:
        self._counts = np.zeros((channels, 256), np.int64)

    def add(self, array: np.ndarray) -> None:
        for channel, counts in enumerate(self._counts):
            counts += np.bincount(array[..., channel].reshape(-1), minlength=256)

    def statistics(self) -> dict[str, list[float]]:
        values, totals = np.arange(256.0), self._counts.sum(axis=1)
        means = self._counts @ values / totals
        spread = np.sqrt(np.maximum(self._counts @ values**2 / totals - means**2, 0.0))
        present = [np.flatnonzero(counts) for counts in self._counts]
        return {
            "min": [float(found[0]) for found in present],
            "max": [float(found[-1]) for found in present],
            "mean": means.tolist(),
            "std": spread.tolist(),
        }
