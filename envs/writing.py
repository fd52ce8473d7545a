"""Write an episode store beside its place and rename it when it is whole.

Episodes are appended to one raw file per column, so that memory use does not grow with the dataset; at the end
the raw files are mapped and written as one Arrow record batch. Whatever goes wrong, nothing half-written stays.
"""

from __future__ import annotations

import contextlib
import glob
import hashlib
import os
import secrets
import shutil
import socket
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

import numpy as np
import pyarrow as pa

from understudy.envs.preparing import is_episode_column, prepare_episode
from understudy.envs.store import (
    EPISODES,
    MANIFEST,
    TRANSITIONS,
    Column,
    EpisodeStore,
    Manifest,
    combine_digests,
    digest,
)
from understudy.errors import DatasetError
from understudy.files import sha256, storage_errors, sync_folder

LISTED_DIMS = 1024
"""Rows with more numbers than this get statistics per channel (last axis) instead of per dimension."""


class StoreWriter:
    """Write a store with `with StoreWriter(path, ...) as writer: writer.add_episode({...})`.

    On a clean exit the store is at `path` (synced, renamed at once); on an exception everything is removed.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        name: str,
        source: str,
        env_id: str,
        provenance: Mapping[str, Any] | None = None,
        overwrite: bool = False,
    ) -> None:
        self.path = Path(path).expanduser()
        self.name, self.source, self.env_id = name, source, env_id
        self.provenance = dict(provenance or {})
        self._overwrite = overwrite
        self._temporary = self.path.parent / f"{_prefix(self.path)}{os.getpid()}.{secrets.token_hex(4)}"
        self._columns: dict[str, _ColumnFile] = {}
        self._lengths: list[int] = []

    @property
    def num_episodes(self) -> int:
        """Episodes added so far."""
        return len(self._lengths)

    def __enter__(self) -> StoreWriter:
        if self.path.exists() and not self._overwrite:
            raise DatasetError(f"{self.path} exists already; remove it, choose another --name, or give --overwrite")
        with storage_errors(self.path):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            _remove_abandoned(self.path)
            self._temporary.mkdir()
        return self

    def add_episode(self, episode: Mapping[str, np.ndarray]) -> None:
        """Append one episode of T steps: arrays [T, *shape], optionally `final_observation` [*O] and `mask/<name>` [].

        Observations become float32 unless they are uint8; actions and rewards float32; terminals and masks uint8.
        Raises DatasetError, naming the episode and the column, for NaN, infinities and wrong shapes.
        """
        number = len(self._lengths)
        rows = prepare_episode(episode, number)
        if self._columns and set(rows) != set(self._columns):
            odd = sorted(set(rows) ^ set(self._columns))
            raise DatasetError(f"episode {number}: column {odd[0]!r} is not in every episode")
        with storage_errors(self.path):
            for name, array in rows.items():
                if name not in self._columns:
                    self._columns[name] = _ColumnFile(self._temporary / f"{len(self._columns)}.raw", name, array)
                self._columns[name].append(array, number)
        self._lengths.append(len(rows["actions"]))

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if kind is None:
                with storage_errors(self.path):
                    self._finish()
        finally:
            for column in self._columns.values():
                column.discard()
            shutil.rmtree(self._temporary, ignore_errors=True)

    def _finish(self) -> None:
        if not self._lengths:
            raise DatasetError(f"{self.name}: no episodes, nothing to write")
        lengths = np.asarray(self._lengths, np.int64)
        starts = np.cumsum(lengths) - lengths
        for column in self._columns.values():
            column.close()
        steps = {n: c for n, c in self._columns.items() if not is_episode_column(n)}
        ends = {n: c for n, c in self._columns.items() if is_episode_column(n)}
        _write_arrow(self._temporary / TRANSITIONS, {name: column.arrow() for name, column in steps.items()})
        index = {"start": pa.array(starts), "length": pa.array(lengths)}
        _write_arrow(self._temporary / EPISODES, {**index, **{name: column.arrow() for name, column in ends.items()}})
        digests = [(name, column.schema, column.digest()) for name, column in self._columns.items()]
        manifest = Manifest(
            name=self.name,
            source=self.source,
            env_id=self.env_id,
            num_episodes=len(lengths),
            num_transitions=int(lengths.sum()),
            columns={name: column.schema for name, column in steps.items()},
            episode_columns={name: column.schema for name, column in ends.items()},
            statistics={name: column.statistics() for name, column in self._columns.items()},
            provenance={**self.provenance, "imported_at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())},
            content_hash=combine_digests(digests, digest(starts, lengths)),
            files={name: _file_record(self._temporary / name) for name in (TRANSITIONS, EPISODES)},
        )
        for column in self._columns.values():
            column.discard()
        (self._temporary / MANIFEST).write_text(manifest.to_json())
        sync_folder(self._temporary / MANIFEST)
        sync_folder(self._temporary)
        self._rename()

    def _rename(self) -> None:
        EpisodeStore.open(self._temporary)  # what is about to take the place must open
        aside = None
        if self.path.exists():
            aside = self._temporary.with_name(self._temporary.name + ".old")
            self.path.rename(aside)
        self._temporary.rename(self.path)
        sync_folder(self.path.parent)
        if aside is not None:
            shutil.rmtree(aside, ignore_errors=True)


class _ColumnFile:
    """One column while it is written: a raw file, a running hash and running statistics."""

    def __init__(self, file: Path, name: str, first: np.ndarray) -> None:
        self.name, self.file = name, file
        self.schema = Column(tuple(int(n) for n in first.shape[1:]), first.dtype.name)
        self._stream: BinaryIO | None = file.open("wb")
        self._hash = hashlib.blake2b(digest_size=16)
        self._rows = 0
        self._count, self._mean, self._m2 = 0, np.zeros(()), np.zeros(())
        self._low, self._high = np.full((), np.inf), np.full((), -np.inf)

    def append(self, array: np.ndarray, episode: int) -> None:
        """Append rows [T, *shape] of one episode."""
        if array.shape[1:] != self.schema.shape or array.dtype.name != self.schema.dtype:
            raise DatasetError(
                f"episode {episode}: column {self.name!r} has rows {array.shape[1:]} {array.dtype.name}, "
                f"earlier ones {self.schema.shape} {self.schema.dtype}"
            )
        assert self._stream is not None
        data = array.reshape(-1).view(np.uint8).data
        self._stream.write(data)
        self._hash.update(data)
        self._rows += len(array)
        self._accumulate(array)

    def _accumulate(self, array: np.ndarray) -> None:
        # Chan et al. (1979): combine the moments of two parts, so that one pass in float64 is enough.
        flat = array.reshape(len(array), -1)
        if flat.shape[1] > LISTED_DIMS:
            flat = array.reshape(-1, array.shape[-1])
        values = flat.astype(np.float64)
        count, mean = len(values), values.mean(axis=0)
        total = self._count + count
        delta = mean - self._mean
        self._m2 = self._m2 + ((values - mean) ** 2).sum(axis=0) + delta**2 * (self._count * count / total)
        self._mean = self._mean + delta * (count / total)
        self._count = total
        self._low, self._high = np.minimum(self._low, values.min(axis=0)), np.maximum(self._high, values.max(axis=0))

    def close(self) -> None:
        """Flush the raw file."""
        if self._stream is not None:
            stream, self._stream = self._stream, None
            stream.close()

    def arrow(self) -> pa.Array:
        """Return the rows as an Arrow array over the mapped raw file."""
        raw = np.memmap(self.file, dtype=self.schema.dtype, mode="r")
        values = pa.Array.from_buffers(pa.from_numpy_dtype(raw.dtype), raw.size, [None, pa.py_buffer(raw)])
        width = int(np.prod(self.schema.shape, dtype=np.int64))
        return pa.FixedSizeListArray.from_arrays(values, width) if self.schema.shape else values

    def digest(self) -> str:
        """Return the hash of the column's bytes."""
        return self._hash.hexdigest()

    def statistics(self) -> dict[str, list[float]]:
        """Return min, max, mean and std per dimension (or channel)."""
        spread = np.sqrt(self._m2 / max(self._count, 1))
        parts = {"min": self._low, "max": self._high, "mean": self._mean, "std": spread}
        return {key: [float(x) for x in np.atleast_1d(value)] for key, value in parts.items()}

    def discard(self) -> None:
        """Remove the raw file."""
        with contextlib.suppress(OSError):  # closing flushes, and a full disk has been reported already
            self.close()
        self.file.unlink(missing_ok=True)


def _write_arrow(file: Path, arrays: dict[str, pa.Array]) -> None:
    batch = pa.RecordBatch.from_arrays(list(arrays.values()), names=list(arrays))
    with pa.OSFile(str(file), "wb") as stream, pa.ipc.new_file(stream, batch.schema) as writer:
        writer.write_batch(batch)
    sync_folder(file)


def _file_record(file: Path) -> dict[str, Any]:
    return {"size": file.stat().st_size, "sha256": sha256(file)}


def _remove_abandoned(path: Path) -> None:
    """Remove what writers of the same store left behind when they were killed on this host."""
    for folder in path.parent.glob(f"{glob.escape(_prefix(path))}*"):
        pid = folder.name.removeprefix(_prefix(path)).split(".")[0]
        if pid.isdigit() and not _alive(int(pid)):
            shutil.rmtree(folder, ignore_errors=True)


def _prefix(path: Path) -> str:
    return f".{path.name}.{socket.gethostname()}."


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
