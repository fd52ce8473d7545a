"""Let the files of a LeRobot dataset grow, whole at every moment: written anew beside their place and renamed.

A series is the files of one kind, numbered by chunk and file. Only its last file grows, until a size limit; how much of
that file counts is kept here, so what a killed writer left at its end is dropped when it grows the next time.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from understudy.envs.files.reading import damage
from understudy.envs.sources.lerobot.columns import AUTOMATIC, TRUNCATED, Feature, arrow_type, to_arrow
from understudy.envs.sources.lerobot.meta import open_parquet, place
from understudy.envs.sources.lerobot.video import join_videos
from understudy.errors import DatasetError
from understudy.files import made_folder, sync_folder, write_atomic

Place = tuple[int, int, int]
"""Chunk, file, and what is in that file before: frames, rows or episodes."""
Write = Callable[[Path, Path | None, int, Sequence[int]], None]
"""write(new file, present file or None, how much of it to keep, which items to add)."""


@dataclass(frozen=True)
class Series:
    """The files of one kind: their path template, the size in bytes at which a new one starts, and the last of them."""

    root: Path
    template: str
    limit: float
    chunks_size: int
    video_key: str = ""
    chunk: int = 0
    file: int = 0
    count: int = 0
    """What counts in the last file: frames, rows or episodes."""

    @property
    def path(self) -> Path:
        """The last file."""
        return place(self.root, self.template, self.chunk, self.file, self.video_key)

    def append(self, sizes: Sequence[int], counts: Sequence[int], write: Write) -> tuple[list[Place], Series]:
        """Add items of these sizes in bytes and counts; return where each is, and the series as it is then.

        Called again with the same items after an error, it does the same.
        """
        places: list[Place] = []
        last = self
        for at, kept, items in self._groups(sizes, counts):
            places += [(at.chunk, at.file, kept + sum(counts[items[0] : item])) for item in items]
            target = at.path
            temporary = target.with_name(f".{target.name}.tmp")
            with made_folder(target.parent):
                try:
                    write(temporary, target if kept else None, kept, items)
                    sync_folder(temporary)
                    os.replace(temporary, target)
                finally:
                    temporary.unlink(missing_ok=True)
            sync_folder(target.parent)
            last = at
        return places, last

    def _groups(self, sizes: Sequence[int], counts: Sequence[int]) -> Iterator[tuple[Series, int, list[int]]]:
        """Yield each file that grows with its count before, and the numbers of the items that it gets."""
        at, kept, items = self, self.count, []
        size = self.path.stat().st_size if self.count else 0
        for item, more in enumerate(sizes):
            if (items or kept) and size + more >= self.limit:
                if items:
                    yield at, kept, items
                at, kept, items, size = at.next(), 0, [], 0
            items.append(item)
            at, size = replace(at, count=at.count + counts[item]), size + more
        if items:
            yield at, kept, items

    def next(self) -> Series:
        """Return the series with a new, empty last file."""
        full = self.file + 1 == self.chunks_size
        return replace(self, chunk=self.chunk + full, file=0 if full else self.file + 1, count=0)


def append_videos(
    series: Series, parts: Sequence[Path], counts: Sequence[int], fps: float
) -> tuple[list[Place], Series]:
    """Join the episodes' own mp4 files, of so many frames, to a series."""

    def write(file: Path, present: Path | None, kept: int, items: Sequence[int]) -> None:
        before = [(present, kept)] if present is not None else []
        join_videos(file, [*before, *((parts[item], counts[item]) for item in items)], fps)

    return series.append([part.stat().st_size for part in parts], counts, write)


def append_tables(series: Series, tables: Sequence[pa.Table]) -> tuple[list[Place], Series]:
    """Add tables to a series of parquet files, each as one row group."""
    import pyarrow.parquet as pq

    def write(file: Path, present: Path | None, kept: int, items: Sequence[int]) -> None:
        schema = tables[items[0]].schema
        with (
            open(file, "wb") as sink,
            pq.ParquetWriter(sink, schema, compression="snappy", write_page_checksum=True) as writer,
        ):
            for table in (*_row_groups(present, kept, schema), *(tables[item] for item in items)):
                writer.write_table(table, row_group_size=max(table.num_rows, 1))

    return series.append([table.nbytes for table in tables], [table.num_rows for table in tables], write)


def write_table(file: Path, table: pa.Table) -> None:
    """Write a parquet file, whole or not at all."""
    import pyarrow.parquet as pq

    write_atomic(file, lambda sink: pq.write_table(table, sink, compression="snappy", write_page_checksum=True))


def _row_groups(file: Path | None, count: int, schema: pa.Schema) -> Iterator[pa.Table]:
    """Yield the row groups that hold the first `count` rows of a file."""
    if file is None:
        return
    with open_parquet(file) as parquet, damage(file, "parquet"):
        for number in range(parquet.num_row_groups):
            if count:
                table = parquet.read_row_group(number)
                table = table.slice(0, count).select(schema.names).cast(schema)
                count -= table.num_rows
                yield table
    if count:
        raise DatasetError(f"{file}: {count} rows are missing, it is cut short")


def data_table(
    columns: Mapping[str, pa.Array], features: Mapping[str, Feature], automatic: Mapping[str, np.ndarray]
) -> pa.Table:
    """Return the rows of an episode as they lie in a data file: `columns` by feature, then the automatic ones."""
    fields = [pa.field(key, columns[key].type) for key in columns]
    fields += [pa.field(key, pa.from_numpy_dtype(np.dtype(dtype))) for key, dtype in AUTOMATIC.items()]
    hints = {key: _hint(features[key]) if key in features else _value("bool") for key in columns}
    hints |= {key: _value(dtype) for key, dtype in AUTOMATIC.items()}
    schema = pa.schema(fields, {"huggingface": json.dumps({"info": {"features": hints}})})
    given = [pa.array(automatic[key].astype(dtype)) for key, dtype in AUTOMATIC.items()]
    return pa.Table.from_arrays([*columns.values(), *given], schema=schema)


def number_columns(rows: Mapping[str, np.ndarray], features: Mapping[str, Feature]) -> dict[str, pa.Array]:
    """Return the columns of a data file for all features that are numbers."""
    return {key: to_arrow(rows[item.column], item) for key, item in features.items() if not item.is_picture}


def image_column(frames: np.ndarray, feature: Feature) -> pa.Array:
    """Return frames [T, H, W, 3] as PNGs in the way of Hugging Face's image features."""
    encoded = [{"bytes": encode_png(frame), "path": f"frame-{number:06d}.png"} for number, frame in enumerate(frames)]
    return pa.array(encoded, arrow_type(feature))


def encode_png(frame: np.ndarray) -> bytes:
    """Return a picture [H, W, 3] without loss."""
    import cv2

    done, data = cv2.imencode(".png", cv2.cvtColor(frame, cv2.COLOR_RGB2BGR))
    if not done:
        raise DatasetError(f"a picture of shape {frame.shape} cannot be written as PNG")
    return data.tobytes()


def write_tasks(file: Path, tasks: Mapping[str, int]) -> None:
    """Write tasks.parquet: for pandas, the text is the index of the table."""
    kinds = {"task_index": ("int64", "int64"), "task": ("unicode", "object")}
    notes = [
        {"name": name, "field_name": name, "pandas_type": kind, "numpy_type": numpy, "metadata": None}
        for name, (kind, numpy) in kinds.items()
    ]
    labels = {"name": None, "field_name": None, "pandas_type": "unicode", "numpy_type": "object"}
    pandas = {
        "index_columns": ["task"],
        "column_indexes": [{**labels, "metadata": {"encoding": "UTF-8"}}],
        "columns": notes,
        "creator": {"library": "pyarrow", "version": pa.__version__},
        "pandas_version": "2.0.0",
    }
    schema = pa.schema([("task_index", pa.int64()), ("task", pa.string())], {"pandas": json.dumps(pandas)})
    write_table(file, pa.table({"task_index": list(tasks.values()), "task": list(tasks)}, schema=schema))


def _value(dtype: str) -> dict[str, Any]:
    return {"dtype": dtype, "_type": "Value"}


def _hint(feature: Feature) -> dict[str, Any]:
    """Return what Hugging Face's datasets library is told of a column's type."""
    if feature.is_picture:
        return {"_type": "Image"}
    if feature.shape == (1,) or feature.key == TRUNCATED:
        return _value(feature.dtype)
    if len(feature.shape) == 1:
        return {"feature": _value(feature.dtype), "length": feature.shape[0], "_type": "Sequence"}
    return {"shape": list(feature.shape), "dtype": feature.dtype, "_type": f"Array{len(feature.shape)}D"}
