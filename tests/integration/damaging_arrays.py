"""Damage inside HDF5, npz and parquet files: the file opens as before, one of its arrays or attributes is another."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import h5py
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from tests.integration.damaging import VALUES, damaged_json


def damaged_member(file: Path, random: Random) -> str:
    """Change one array or attribute of a file; return what was done, '' where it has none."""
    return KINDS[file.suffix](file, random) if file.suffix in KINDS else ""


def other_array(array: np.ndarray, random: Random) -> tuple[str, np.ndarray]:
    """Return another array in the place of one, and what it is."""
    kind = random.choice(sorted(OTHERS))
    return kind, OTHERS[kind](array)


def with_nan(array: np.ndarray) -> np.ndarray:
    changed = array.astype(np.float32) if array.dtype.kind in "fiub" else np.zeros(array.shape, np.float32)
    changed.reshape(-1)[:1] = np.nan
    return changed


OTHERS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "no rows": lambda array: array[:0] if array.ndim else np.zeros(0),
    "a row less": lambda array: array[:-1] if array.ndim else np.zeros(2),
    "a number": lambda array: np.array(3.0),
    "one dimension more": lambda array: array[..., None],
    "its dimensions reversed": lambda array: array.T,
    "one dimension": lambda array: array.reshape(-1),
    "texts": lambda array: np.full(array.shape[:1] or (1,), b"x\x1b[31m", "S6"),
    "complex numbers": lambda array: np.zeros(array.shape, np.complex64),
    "NaN": with_nan,
    "infinite": lambda array: np.full(array.shape, np.inf, np.float64),
    "1e300": lambda array: np.full(array.shape, 1e300),
    "bytes": lambda array: np.full(array.shape, 255, np.uint8),
    "whole numbers below 0": lambda array: np.full(array.shape, -7, np.int64),
}


def in_hdf5(file: Path, random: Random) -> str:
    """Change or remove a dataset, or an attribute; JSON in attributes mostly stays JSON."""
    with h5py.File(file, "r+") as held:
        members: list[Any] = []
        held.visititems(lambda _, member: members.append(member))
        attributes = [(member, key) for member in (held, *members) for key in member.attrs]
        if attributes and random.random() < 0.5:
            member, key = random.choice(attributes)
            how, value = other_attribute(member.attrs[key], random)
            del member.attrs[key]
            if value is not None:
                member.attrs[key] = value
            return f"attribute {key} of {member.name}: {how}"
        if not members:
            return ""
        member = random.choice(members)
        name = str(member.name)
        how = "removed"
        if isinstance(member, h5py.Group) or random.random() < 0.2:
            del held[name]
            return f"{name}: removed"
        how, array = other_array(np.asarray(member[()]), random)
        del held[name]
        held[name] = array
        return f"{name}: {how}"


def other_attribute(value: Any, random: Random) -> tuple[str, Any]:
    """Return another value for an attribute, None to remove it."""
    if random.random() < 0.15:
        return "removed", None
    if isinstance(value, str | bytes) and random.random() < 0.7:
        try:
            how, data = damaged_json(json.loads(value), random)
            return how, data.decode()
        except ValueError:
            pass
    other = random.choice(VALUES)
    return f"{other!r:.40}", json.dumps(other) if other is None or isinstance(other, dict | list) else capped(other)


def capped(value: Any) -> Any:
    """Return a number as one that an attribute can hold."""
    return float(value) if isinstance(value, int) and abs(value) > 2**62 else value


def in_npz(file: Path, random: Random) -> str:
    """Replace or remove an array of an archive."""
    with np.load(file, allow_pickle=False) as held:
        arrays = {name: held[name] for name in held.files}
    if not arrays:
        return ""
    name = random.choice(sorted(arrays))
    how = "removed"
    if random.random() < 0.2:
        del arrays[name]
    else:
        how, arrays[name] = other_array(arrays[name], random)
    np.savez(file, **arrays)
    return f"{name}: {how}"


def in_parquet(file: Path, random: Random) -> str:
    """Replace or remove a column of a table, or its rows."""
    table = pq.read_table(file)
    name = random.choice(table.column_names)
    where = table.column_names.index(name)
    rows = table.num_rows
    kinds: dict[str, Callable[[], pa.Table]] = {
        "removed": lambda: table.remove_column(where),
        "nothing": lambda: table.set_column(where, name, pa.nulls(rows)),
        "texts": lambda: table.set_column(where, name, pa.array(["x\x1b[31m"] * rows)),
        "-1": lambda: table.set_column(where, name, pa.array([-1] * rows)),
        "huge": lambda: table.set_column(where, name, pa.array([2**62] * rows)),
        "NaN": lambda: table.set_column(where, name, pa.array([float("nan")] * rows)),
        "empty lists": lambda: table.set_column(where, name, pa.array([[]] * rows, pa.list_(pa.float32()))),
        "long lists": lambda: table.set_column(where, name, pa.array([[0.5] * 99] * rows, pa.list_(pa.float32()))),
        "without rows": lambda: table.slice(0, 0),
        "half its rows": lambda: table.slice(0, rows // 2),
        "its rows twice": lambda: pa.concat_tables([table, table]),
    }
    how = random.choice(sorted(kinds))
    pq.write_table(kinds[how](), file)
    return f"{name}: {how}"


KINDS: dict[str, Callable[[Path, Random], str]] = {
    **dict.fromkeys((".hdf5", ".h5"), in_hdf5),
    ".npz": in_npz,
    ".parquet": in_parquet,
}
