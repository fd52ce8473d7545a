"""Messages with arrays as msgpack: plain values, and arrays as maps of their bytes. Nothing in them can run.

Written as openpi's clients and servers do (`__ndarray__`, `data`, `dtype`, `shape`); arrays as the package
msgpack-numpy writes them (`nd`, `type`, `shape`, `data`) are read too. Numbers only: no objects, texts or records.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import msgpack
import numpy as np

from understudy.errors import UserError

KINDS = "biuf"
MOST_DIMS = 8


def pack(message: Any) -> bytes:
    """Return a message as bytes; its arrays may be numpy's."""
    return msgpack.packb(message, default=_described, use_bin_type=True) or b""


def unpack(data: bytes) -> Any:
    """Return what a message holds, its arrays read-only; UserError in one line for anything else."""
    try:
        return msgpack.unpackb(data, object_hook=_array, raw=False, strict_map_key=False)
    except UserError:
        raise
    except Exception as error:  # noqa: BLE001  (msgpack has an exception for each way in which bytes can be wrong)
        raise UserError(f"the message is no msgpack: {error or type(error).__name__}") from None


def _described(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        whole = np.ascontiguousarray(value)
        return {b"__ndarray__": True, b"data": whole.tobytes(), b"dtype": whole.dtype.str, b"shape": list(value.shape)}
    if isinstance(value, np.generic):
        return value.item()
    raise TypeError(f"a {type(value).__name__} cannot be sent")


def _array(found: Mapping[Any, Any]) -> Any:
    """Return the array that a map describes; any other map as it is, with texts for its keys."""
    named = {key.decode() if isinstance(key, bytes) else key: value for key, value in found.items()}
    if "__ndarray__" in named:
        return _of_bytes(named.get("data"), named.get("dtype"), named.get("shape"))
    if "nd" in named and "type" in named:
        return _of_bytes(named.get("data"), named.get("type"), named.get("shape", ()))
    if "__npgeneric__" in named:
        return named.get("data")
    return named


def _of_bytes(data: Any, dtype: Any, shape: Any) -> np.ndarray:
    text = dtype.decode("ascii", "replace") if isinstance(dtype, bytes) else dtype
    try:
        kind = np.dtype(text) if isinstance(text, str) and len(text) < 16 else None
    except TypeError:
        kind = None
    if kind is None or kind.kind not in KINDS or kind.hasobject:
        raise UserError(f"an array of type {str(text)[:40]!r}: numbers alone are taken (float32, uint8, ...)")
    dims = list(shape) if isinstance(shape, list | tuple) else []
    if len(dims) > MOST_DIMS or not all(isinstance(n, int) and n >= 0 for n in dims):
        raise UserError(f"an array of shape {str(shape)[:80]}: give a list of lengths")
    if not isinstance(data, bytes) or len(data) != math.prod(dims) * kind.itemsize:
        raise UserError(f"an array of shape {dims} and type {text} whose bytes are of another length")
    return np.frombuffer(data, kind).reshape(dims)
