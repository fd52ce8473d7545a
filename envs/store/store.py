"""Keep demonstrations of any source in one on-disk form that is opened by memory map with no copy.

A store is a folder: `manifest.json` (schema, statistics, provenance, content hash), `transitions.arrow` (one
fixed-size-list column per array, one record batch) and `episodes.arrow` (start, length, final observation). All
processes of a node that open it share one page cache. `writer.py` makes stores; this module must not import a
simulator or torch.

Column shapes: N transitions, E episodes, *O observation dims, A action dims.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import pyarrow as pa

from understudy.errors import DatasetError, did_you_mean
from understudy.files import parse_json, user_path
from understudy.folders import restore_folder

if TYPE_CHECKING:
    from understudy.envs.store.frames import Frames

FORMAT_VERSION = 1
MANIFEST, TRANSITIONS, EPISODES = "manifest.json", "transitions.arrow", "episodes.arrow"
MASK = "mask/"
"""Prefix of the episode columns that hold robomimic's filter keys: one uint8 an episode."""
REQUIRED = ("observations", "actions", "rewards", "terminals")
IMAGES, FINAL, SALIENCY = "images/", "final_", "saliency/"
"""Prefixes: a camera's pictures, what comes after the last action, how much each pixel matters."""
TEXTS = ("language",)
"""Episode columns of text."""
RAW, JPEG = "raw", "jpeg"


@dataclass(frozen=True)
class Column:
    """Shape of one row (no leading dim) and numpy dtype name (`str` for texts); `jpeg` pictures are decoded to that."""

    shape: tuple[int, ...]
    dtype: str
    encoding: str = ""

    @classmethod
    def parse(cls, data: dict[str, Any]) -> Column:
        """Return the column that a manifest's entry describes; nonsense raises KeyError, TypeError or ValueError."""
        dtype, encoding = str(data["dtype"]), str(data.get("encoding", ""))
        if encoding not in ("", JPEG):
            raise ValueError(f"encoding {encoding!r}")
        name = dtype if dtype == "str" else np.dtype(dtype).name
        return cls(tuple(int(n) for n in data["shape"]), name, encoding)

    @property
    def holds_pictures(self) -> bool:
        """Whether rows are pictures [H, W, C] of 8 bits, however they are kept."""
        return self.dtype == "uint8" and len(self.shape) == 3

    @property
    def row_bytes(self) -> int:
        """Bytes of one row."""
        return int(np.prod(self.shape, dtype=np.int64)) * np.dtype(self.dtype).itemsize


@dataclass(frozen=True)
class Manifest:
    """What a store holds; `manifest.json` is this as JSON.

    `statistics[column]` has min, max, mean and std per dimension, or per channel for rows too large to list.
    `content_hash` covers the column bytes and the episode index alone: two imports of equal data are equal.
    """

    name: str
    source: str
    env_id: str
    num_episodes: int
    num_transitions: int
    columns: dict[str, Column]
    episode_columns: dict[str, Column]
    statistics: dict[str, dict[str, list[float]]]
    provenance: dict[str, Any]
    content_hash: str
    files: dict[str, dict[str, Any]] = field(default_factory=dict[str, dict[str, Any]])
    format_version: int = FORMAT_VERSION

    def to_json(self) -> str:
        """Return the manifest file's text."""
        return json.dumps(asdict(self), indent=1, sort_keys=True) + "\n"

    @classmethod
    def read(cls, path: Path) -> Manifest:
        """Read `path`/manifest.json; a damaged one or a newer format raises DatasetError."""
        file = path / MANIFEST
        try:
            data = parse_json(file.read_bytes())
            version = data["format_version"]
            if version != FORMAT_VERSION:
                raise DatasetError(f"{file}: format version {version!r}, this understudy reads {FORMAT_VERSION}")
            texts, trees = ("name", "source", "env_id", "content_hash"), ("statistics", "provenance", "files")
            for key, kind in (*((key, str) for key in texts), *((key, dict) for key in trees)):
                if not isinstance(data[key], kind):
                    raise TypeError(f"{key} is {data[key]!r}")
            _check_values(data["statistics"], data["provenance"])
            for key in ("columns", "episode_columns"):
                data[key] = {name: Column.parse(column) for name, column in data[key].items()}
            return cls(**data)
        except FileNotFoundError as error:
            raise DatasetError(f"{path}: not an episode store (no {MANIFEST})") from error
        except OSError as error:
            raise DatasetError(f"{file}: cannot be read ({error.strerror or error})") from error
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise DatasetError(f"{file}: damaged manifest ({type(error).__name__}: {error})") from error


def _check_values(statistics: dict[str, Any], provenance: dict[str, Any]) -> None:
    """Raise KeyError, TypeError or ValueError for statistics that are no numbers, and notes that are no texts."""
    for column, found in statistics.items():
        if not found and column not in ("observations", "actions"):
            continue  # texts have none
        lists = [found[key] for key in ("min", "max", "mean", "std")]
        if len({len(numbers) for numbers in lists}) != 1:
            raise ValueError(f"statistics of {column} of different lengths")
        if any(isinstance(number, bool) or not isinstance(number, int | float) for item in lists for number in item):
            raise TypeError(f"statistics of {column} that are no numbers")
    notes: Any = provenance.get("notes", [])
    if not isinstance(notes, list) or not all(isinstance(note, str) for note in cast("list[Any]", notes)):
        raise TypeError(f"notes are {notes!r}")


class EpisodeStore:
    """Read one dataset. Arrays are read-only views of the memory-mapped files."""

    def __init__(self, path: Path, manifest: Manifest) -> None:
        self.path = path
        self.manifest = manifest
        self._tables = {name: _map_batch(path / name) for name in (TRANSITIONS, EPISODES)}
        self._check_types()
        self._check_rows()

    @classmethod
    def open(cls, path: str | Path) -> EpisodeStore:
        """Open the store at `path`; a missing, truncated or inconsistent one raises DatasetError in one line."""
        folder = restore_folder(user_path(path))
        if not folder.is_dir():
            raise DatasetError(f"{folder}: no such episode store")
        manifest = Manifest.read(folder)
        for name in (TRANSITIONS, EPISODES):
            record = manifest.files.get(name)
            _check_size(folder / name, record.get("size") if isinstance(record, dict) else None)
        return cls(folder, manifest)

    @property
    def name(self) -> str:
        """The dataset's name, as in `env_name=`."""
        return self.manifest.name

    def column(self, name: str) -> np.ndarray:
        """Return a transition column [N, *shape] without copying it."""
        return self._array(TRANSITIONS, self.manifest.columns, name)

    def episode_column(self, name: str) -> np.ndarray:
        """Return an episode column [E, *shape] (such as final_observations) without copying it."""
        return self._array(EPISODES, self.manifest.episode_columns, name)

    def frames(self, name: str) -> Frames:
        """Return a column of pictures, of transitions or of episodes, whichever way they are kept."""
        from understudy.envs.store.frames import JpegFrames, RawFrames

        table, columns = self._home(name)
        column = columns[name]
        if column.encoding != JPEG:
            return RawFrames(self._array(table, columns, name))
        return JpegFrames(self._tables[table].column(name), column.shape, f"{self.path}: {name}")

    def texts(self, name: str) -> list[str]:
        """Return an episode column of texts."""
        return self._tables[EPISODES].column(name).to_pylist()

    def cameras(self) -> list[str]:
        """Return the names of the cameras whose pictures are columns of their own, sorted."""
        return sorted(name.removeprefix(IMAGES) for name in self.manifest.columns if name.startswith(IMAGES))

    def digest(self, name: str) -> str:
        """Return the hash of a column's content as it is on disk now."""
        table, columns = self._home(name)
        values = self._tables[table].column(name)
        if columns[name].dtype == "str":
            return hashlib.blake2b(b"".join(map(end_text, values.to_pylist())), digest_size=16).hexdigest()
        if columns[name].encoding == JPEG:
            _, offsets, data = values.buffers()
            ends = np.frombuffer(memoryview(offsets), np.int64, count=len(values) + 1)
            return digest(np.frombuffer(memoryview(data), np.uint8, count=ends[-1]), ends)
        return digest(self._array(table, columns, name))

    @cached_property
    def starts(self) -> np.ndarray:
        """First row of each episode, int64 [E]."""
        return _numpy(self._tables[EPISODES].column("start"), "int64")

    @cached_property
    def lengths(self) -> np.ndarray:
        """Transitions of each episode, int64 [E]."""
        return _numpy(self._tables[EPISODES].column("length"), "int64")

    def _home(self, name: str) -> tuple[str, dict[str, Column]]:
        """Return the table and the columns that a name belongs to."""
        for table, columns in ((TRANSITIONS, self.manifest.columns), (EPISODES, self.manifest.episode_columns)):
            if name in columns:
                return table, columns
        known = {**self.manifest.columns, **self.manifest.episode_columns}
        raise DatasetError(f"{self.path}: no column {name!r}{did_you_mean(name, known)}")

    def _array(self, table: str, columns: dict[str, Column], name: str) -> np.ndarray:
        if name not in columns:
            raise DatasetError(f"{self.path}: no column {name!r}{did_you_mean(name, columns)}")
        if columns[name].encoding == JPEG or columns[name].dtype == "str":
            raise DatasetError(f"{self.path}: {name!r} is no column of plain numbers")
        shape = columns[name].shape
        return _numpy(self._tables[table].column(name), columns[name].dtype).reshape(-1, *shape)

    def _check_rows(self) -> None:
        rows = (self._tables[TRANSITIONS].num_rows, self._tables[EPISODES].num_rows)
        said = (self.manifest.num_transitions, self.manifest.num_episodes)
        if rows != said or int(self.lengths.sum()) != said[0]:
            raise DatasetError(f"{self.path}: the files hold {rows} transitions and episodes, the manifest says {said}")
        ends = np.cumsum(self.lengths)
        if (self.lengths < 1).any() or not np.array_equal(self.starts, ends - self.lengths):
            raise DatasetError(
                f"{self.path / EPISODES}: its episodes overlap or leave rows out; import the dataset again"
            )

    def _check_types(self) -> None:
        index = {"start": Column((), "int64"), "length": Column((), "int64")}
        wanted = {TRANSITIONS: self.manifest.columns, EPISODES: {**index, **self.manifest.episode_columns}}
        for file, columns in wanted.items():
            schema = self._tables[file].schema
            for name, column in columns.items():
                place = schema.get_field_index(name)
                found = schema.field(place).type if place >= 0 else "nothing"
                if found != _arrow_type(column):
                    raise DatasetError(
                        f"{self.path / file}: {name!r} holds {found}, the manifest says {column.dtype}"
                        f" rows of shape {column.shape}; import the dataset again"
                    )


def combine_digests(columns: Iterable[tuple[str, Column, str]], index: str) -> str:
    """Return the content hash from each column's (name, schema, digest) and the digest of the episode index."""
    total = hashlib.blake2b(digest_size=16)
    for name, column, digest in sorted(columns):
        kind = f"{column.dtype}+{column.encoding}" if column.encoding else column.dtype
        total.update(f"{name}|{kind}|{tuple(column.shape)}|{digest}\n".encode())
    total.update(f"index|{index}".encode())
    return total.hexdigest()


def digest(*arrays: np.ndarray) -> str:
    """Return the BLAKE2b digest of the arrays' bytes."""
    total = hashlib.blake2b(digest_size=16)
    for array in arrays:
        total.update(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
    return total.hexdigest()


def end_text(text: str) -> bytes:
    """Return a text as hashes take it: its length first, so that no two lists of texts look alike."""
    data = text.encode()
    return len(data).to_bytes(8, "little") + data


def _check_size(file: Path, expected: int | None) -> None:
    try:
        size = file.stat().st_size
    except FileNotFoundError as error:
        raise DatasetError(f"{file}: missing; import the dataset again") from error
    except OSError as error:
        raise DatasetError(f"{file}: cannot be read ({error.strerror or error})") from error
    if size != expected:
        raise DatasetError(f"{file}: truncated or changed ({size} bytes, {expected} written); import the dataset again")


def _numpy(values: pa.Array, dtype: str) -> np.ndarray:
    """Return the flat numbers of a whole array as a view of its buffer.

    Arrow's `to_numpy` would import pandas (0.2 s, 40 MB) and its `flatten` the compute functions (0.1 s).
    """
    numbers = values.values if pa.types.is_fixed_size_list(values.type) else values
    return np.frombuffer(memoryview(numbers.buffers()[1]), dtype, count=len(numbers))


def _arrow_type(column: Column) -> pa.DataType:
    if column.dtype == "str":
        return pa.large_utf8()
    if column.encoding == JPEG:
        return pa.large_binary()
    numbers = pa.from_numpy_dtype(np.dtype(column.dtype))
    return pa.list_(numbers, int(np.prod(column.shape, dtype=np.int64))) if column.shape else numbers


def _map_batch(file: Path) -> pa.RecordBatch:
    try:
        reader = pa.ipc.open_file(pa.memory_map(str(file)))
        if reader.num_record_batches != 1:
            raise DatasetError(f"{file}: {reader.num_record_batches} record batches, 1 expected")
        batch = reader.get_batch(0)
        batch.validate()
        return batch
    except PermissionError as error:
        raise DatasetError(f"{file}: cannot be read (permission denied); ask its owner for it") from error
    except (OSError, pa.ArrowException) as error:
        raise DatasetError(f"{file}: not a readable Arrow file ({error}); import the dataset again") from error
