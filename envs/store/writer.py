"""Write an episode store beside its place and rename it when it is whole.

Episodes are appended to one raw file per column, so that memory use does not grow with the dataset; at the end
the raw files are mapped and written as one Arrow record batch. Whatever goes wrong, nothing half-written stays.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import pyarrow as pa

from understudy.envs.store.columns import RAW_PICTURES, ColumnFile, PictureEncoding, column_file
from understudy.envs.store.episode import is_episode_column, prepare_episode
from understudy.envs.store.incoming import Incoming
from understudy.envs.store.store import (
    EPISODES,
    JPEG,
    MANIFEST,
    TRANSITIONS,
    EpisodeStore,
    Manifest,
    combine_digests,
    digest,
)
from understudy.errors import DatasetError
from understudy.files import check_room, sha256, storage_errors, sync_folder, user_path
from understudy.folders import replaced_folder, restore_folder


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
        pictures: PictureEncoding = RAW_PICTURES,
        incoming: Incoming | None = None,
    ) -> None:
        self._pictures = pictures
        self.path = user_path(path)
        self.name, self.source, self.env_id = name, source, env_id
        self.provenance = dict(provenance or {})
        self._overwrite, self.incoming = overwrite, incoming or Incoming()
        self._placing = ExitStack()
        self._temporary: Path
        self._columns: dict[str, ColumnFile] = {}
        self._lengths: list[int] = []

    @property
    def num_episodes(self) -> int:
        """Episodes added so far."""
        return len(self._lengths)

    def __enter__(self) -> StoreWriter:
        if restore_folder(self.path).exists() and not self._overwrite:
            raise DatasetError(
                f"{self.path} exists already; remove it, choose another --name, or give --overwrite (from Python"
                " overwrite=True)"
            )
        self._temporary = self._placing.enter_context(replaced_folder(self.path))
        return self

    def add_episode(self, episode: Mapping[str, Any]) -> None:
        """Append one episode of T steps: arrays [T, *shape], and optionally what there is one of in an episode.

        That is `final_observation` [*O], `final_images/<camera>` [H, W, C], `mask/<name>` [], `language` (a text).
        Pictures come to the store's form (see `Incoming`); other observations become float32 unless they are uint8,
        actions and rewards float32, terminals and masks uint8.
        Raises DatasetError, naming the episode and the column, for NaN, infinities and wrong shapes.
        """
        number = len(self._lengths)
        rows = prepare_episode(self.incoming.bring(episode, number), number)
        if self._columns and set(rows) != set(self._columns):
            odd = sorted(set(rows) ^ set(self._columns))
            raise DatasetError(f"episode {number}: column {odd[0]!r} is not in every episode")
        self._check_room(rows)
        with storage_errors(self.path):
            for name, array in rows.items():
                if name not in self._columns:
                    file = self._temporary / f"{len(self._columns)}.raw"
                    self._columns[name] = column_file(file, name, array, self._pictures)
                self._columns[name].append(array, number)
        self._lengths.append(len(rows["actions"]))

    def _check_room(self, rows: Mapping[str, np.ndarray]) -> None:
        """Raise StorageError before the disk is full: the episode comes beside what is there, which is copied once."""
        needed = sum(array.nbytes for array in rows.values()) + sum(column.size for column in self._columns.values())
        check_room(self.path.parent, needed, f"{self.name} from episode {len(self._lengths)} on")

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._placing as placing:
            placing.callback(self._discard)
            if error is not None:
                raise error
            with storage_errors(self.path):
                self._finish()

    def _discard(self) -> None:
        for column in self._columns.values():
            column.discard()

    def _described(self) -> dict[str, Any]:
        """Return the provenance with what was done to the columns, and without cameras that are not kept."""
        incoming, found = self.incoming, dict(self.provenance)
        found["notes"] = [*found.get("notes", []), *incoming.notes]
        if self._pictures.name == JPEG and JPEG not in [column.schema.encoding for column in self._columns.values()]:
            found["notes"] += ["image_encoding=jpeg changes nothing: there are no pictures"]
        found |= {"forms": incoming.record(), "asked": incoming.asked}
        if isinstance(found.get("cameras"), dict):
            found["cameras"] = {name: how for name, how in found["cameras"].items() if name not in incoming.left_out}
        return {key: value for key, value in found.items() if value or key not in ("notes", "forms", "asked")}

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
            provenance={**self._described(), "imported_at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())},
            content_hash=combine_digests(digests, digest(starts, lengths)),
            files={name: _file_record(self._temporary / name) for name in (TRANSITIONS, EPISODES)},
        )
        for column in self._columns.values():
            column.discard()
        (self._temporary / MANIFEST).write_text(manifest.to_json())
        sync_folder(self._temporary / MANIFEST)
        sync_folder(self._temporary)
        EpisodeStore.open(self._temporary)  # what is about to take the place must open


def _write_arrow(file: Path, arrays: dict[str, pa.Array]) -> None:
    batch = pa.RecordBatch.from_arrays(list(arrays.values()), names=list(arrays))
    with pa.OSFile(str(file), "wb") as stream, pa.ipc.new_file(stream, batch.schema) as writer:
        writer.write_batch(batch)
    sync_folder(file)


def _file_record(file: Path) -> dict[str, Any]:
    return {"size": file.stat().st_size, "sha256": sha256(file)}
