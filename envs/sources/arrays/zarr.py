"""Read zarr arrays of format 2 without the zarr package: chunks in a folder or a zip, plain or compressed.

What diffusion_policy's replay buffers use is read: Blosc (lz4, zstd, zlib; shuffled by bytes or not), zlib, gzip, bz2,
lzma, zstd, lz4. Blosc's container: https://github.com/Blosc/c-blosc/blob/main/README_CHUNK_FORMAT.rst
"""

from __future__ import annotations

import bz2
import itertools
import json
import lzma
import struct
import zipfile
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pyarrow as pa

from understudy.envs.files.reading import WrongContent

ARRAY, CONSOLIDATED = ".zarray", ".zmetadata"
BLOSC_HEADER = 16
SHUFFLED, COPIED, BITS_SHUFFLED, WHOLE_BLOCKS = 0x1, 0x2, 0x4, 0x10
BLOSC_CODECS = {1: "lz4", 3: "zlib", 4: "zstd"}


class Files(Protocol):
    """The files of a zarr folder or zip."""

    def names(self) -> list[str]:
        """Return their paths below the root."""
        ...

    def read(self, name: str) -> bytes | None:
        """Return a file's bytes, None for one that is not there."""
        ...


class Folder:
    """The files below a folder."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def names(self) -> list[str]:
        """Return the paths of the files that describe arrays and groups."""
        return [path.relative_to(self._root).as_posix() for path in sorted(self._root.rglob(".z*"))]

    def read(self, name: str) -> bytes | None:
        """Return a file's bytes, None for one that is not there."""
        path = self._root / name
        return path.read_bytes() if path.is_file() else None


class Zip:
    """The files of a .zarr.zip."""

    def __init__(self, archive: zipfile.ZipFile) -> None:
        self._archive, self._names = archive, set(archive.namelist())

    def names(self) -> list[str]:
        """Return their paths."""
        return sorted(self._names)

    def read(self, name: str) -> bytes | None:
        """Return a file's bytes, None for one that is not there."""
        return self._archive.read(name) if name in self._names else None


class ZarrArray:
    """One array: its shape, and rows that are read when they are asked for."""

    def __init__(self, files: Files, name: str, about: Mapping[str, Any]) -> None:
        self._files, self._name = files, name
        self.shape = tuple(int(size) for size in about["shape"])
        self.dtype = np.dtype(about["dtype"])
        self._chunks = tuple(int(size) for size in about["chunks"])
        if len(self._chunks) != len(self.shape) or min(self._chunks, default=1) < 1 or min(self.shape, default=0) < 0:
            raise WrongContent(f"array {name!r} of shape {list(self.shape)} in chunks of {list(self._chunks)}")
        self._order, self._codec = about.get("order", "C"), about.get("compressor")
        self._fill, self._separator = about.get("fill_value") or 0, about.get("dimension_separator", ".")
        if about.get("filters"):
            raise WrongContent(f"array {name!r} has filters ({about['filters'][0].get('id')}), which are not read")

        most, chunk = int(np.prod(self.shape, dtype=object)), int(np.prod(self._chunks, dtype=object))
        self.nbytes = max(most, chunk) * self.dtype.itemsize
        """Bytes that it claims."""

    def __getitem__(self, rows: slice) -> np.ndarray:
        """Return rows [n, *shape]."""
        begin, end, _ = rows.indices(self.shape[0])
        found = np.empty((max(end - begin, 0), *self.shape[1:]), self.dtype)
        deep, grid = self._chunks[0], [range(-(-s // c)) for s, c in zip(self.shape[1:], self._chunks[1:], strict=True)]
        for first in range(begin // deep, -(-end // deep)):
            for others in itertools.product(*grid):
                chunk = self._chunk((first, *others))
                low, high = max(begin, first * deep), min(end, (first + 1) * deep)
                places = tuple(
                    slice(i * c, min((i + 1) * c, s))
                    for i, c, s in zip(others, self._chunks[1:], self.shape[1:], strict=True)
                )
                inside = tuple(slice(0, place.stop - place.start) for place in places)
                found[(slice(low - begin, high - begin), *places)] = chunk[
                    (slice(low - first * deep, high - first * deep), *inside)
                ]
        return found

    def _chunk(self, number: tuple[int, ...]) -> np.ndarray:
        data = self._files.read(f"{self._name}/{self._separator.join(map(str, number))}")
        if data is None:
            return np.full(self._chunks, self._fill, self.dtype)
        size = int(np.prod(self._chunks)) * self.dtype.itemsize
        return np.frombuffer(decompressed(data, self._codec, size), self.dtype).reshape(self._chunks, order=self._order)


def arrays_of(files: Files) -> dict[str, ZarrArray]:
    """Return the arrays of a zarr, by path."""
    names = files.names()
    if any(name.rpartition("/")[2] == "zarr.json" for name in names):
        raise WrongContent("is zarr of format 3; format 2 is read: write it with zarr_format=2")
    found: dict[str, ZarrArray] = {}
    consolidated = files.read(CONSOLIDATED)
    about: dict[str, Any] = json.loads(consolidated)["metadata"] if consolidated else {}
    for name in [*about, *(name for name in names if name not in about)]:
        place, _, last = name.rpartition("/")
        if last == ARRAY:
            said = about.get(name) or json.loads(files.read(name) or b"{}")
            found[place] = ZarrArray(files, place, said)
    return found


def decompressed(data: bytes, codec: Mapping[str, Any] | None, size: int) -> bytes:
    """Return a chunk's `size` bytes; WrongContent for another number of them, and for a codec that is not read."""
    kind = (codec or {}).get("id")
    if kind is None:
        found = data
    elif kind == "blosc":
        found = _blosc(data, size)
    elif kind == "lz4":  # numcodecs puts the size before it
        found = _unpacked("lz4", data[4:], size)
    elif kind in (*STREAMS, "zstd"):
        found = _unpacked(kind, data, size)
    else:
        raise WrongContent(f"is compressed with {kind}, which is not read: rewrite it with Blosc, zstd, zlib or none")
    if len(found) != size:
        raise WrongContent(f"a chunk holds {_size_of(found, size)} bytes, its description says {size}")
    return found


def _size_of(found: bytes, size: int) -> str:
    return f"more than {size}" if len(found) > size else str(len(found))


STREAMS: dict[str, Callable[[bytes, int], bytes]] = {
    "zlib": lambda data, most: zlib.decompressobj().decompress(data, most),
    "gzip": lambda data, most: zlib.decompressobj(wbits=zlib.MAX_WBITS | 16).decompress(data, most),
    "bz2": lambda data, most: bz2.BZ2Decompressor().decompress(data, most),
    "lzma": lambda data, most: lzma.LZMADecompressor().decompress(data, most),
}
"""Codecs of the standard library; each stops after so many bytes, whatever the data would unpack to."""


def _unpacked(codec: str, data: bytes, size: int) -> bytes:
    if codec in STREAMS:
        return STREAMS[codec](data, size + 1)
    return pa.Codec("lz4_raw" if codec == "lz4" else codec).decompress(data, size, asbytes=True)


def _blosc(data: bytes, expected: int) -> bytes:
    """Return what a Blosc chunk holds."""
    _, _, flags, itemsize, size, block, _ = struct.unpack("<BBBBIII", data[:BLOSC_HEADER])
    if size != expected:
        raise WrongContent(f"a chunk of Blosc's says that it holds {size} bytes, its description says {expected}")
    if flags & COPIED:
        return data[BLOSC_HEADER : BLOSC_HEADER + size]
    codec = BLOSC_CODECS.get(flags >> 5)
    if codec is None or flags & BITS_SHUFFLED:
        what = "shuffled by bits" if codec else "blosclz or snappy"
        raise WrongContent(f"is compressed by Blosc with {what}, which is not read: rewrite it with lz4 or zstd")
    blocks = -(-size // block)
    starts = struct.unpack(f"<{blocks}I", data[BLOSC_HEADER : BLOSC_HEADER + 4 * blocks])
    parts: list[bytes] = []
    for number, start in enumerate(starts):
        length = min(block, size - number * block)
        splits = itemsize if not flags & WHOLE_BLOCKS and length == block and 1 < itemsize <= 16 else 1
        part, place = b"", start
        for _ in range(splits):
            packed = struct.unpack("<i", data[place : place + 4])[0]
            place += 4
            stream = data[place : place + packed]
            part += stream if packed == length // splits else _unpacked(codec, stream, length // splits)
            place += packed
        parts.append(_unshuffled(part, itemsize) if flags & SHUFFLED and itemsize > 1 else part)
    return b"".join(parts)


def _unshuffled(part: bytes, itemsize: int) -> bytes:
    """Return bytes in order: the first bytes of all numbers come first, then the second ones; a rest is as it was."""
    count = len(part) // itemsize
    body = np.frombuffer(part, np.uint8, count * itemsize).reshape(itemsize, count).T
    return body.tobytes() + part[count * itemsize :]
