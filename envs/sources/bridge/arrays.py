"""What numpy's arrays are in a pickle: stand-ins for the few names that they need, and arrays of what is held.

Nothing of numpy's own unpickling runs: a shape or a dtype that does not fit the bytes is refused before anything is
made, and arrays are views of these bytes.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

KINDS = "biufSU"
"""Kinds of numpy's dtypes that are read, beside O for arrays of objects."""
NAMES = {
    **{f"numpy.{core}.multiarray {name}": name for core in ("core", "_core") for name in ("_reconstruct", "scalar")},
    **{f"numpy.{core}.numeric _frombuffer": "_frombuffer" for core in ("core", "_core")},
    "numpy ndarray": "ndarray",
    "numpy dtype": "dtype",
    "_codecs encode": "encode",
    "__builtin__ bytes": "bytes",
    "collections OrderedDict": "OrderedDict",
}
"""Modules and names that arrays and plain values of Python and numpy are pickled with, old and new."""


class Name:
    """One of NAMES, before it is called."""

    def __init__(self, name: str) -> None:
        self.name = name


class Dtype:
    """A dtype, and its byte order once that is set; `dtype` is None for those that are not read."""

    def __init__(self, code: str) -> None:
        self.code = code
        self.dtype = np.dtype(code) if code[:1] in KINDS + "O" and len(code) < 20 else None

    def set_state(self, state: tuple) -> None:
        """Take the byte order; a dtype of several fields is none that is read."""
        _, order, parts, names, fields, *_ = state
        if parts is not None or names is not None or fields is not None or order not in ("<", ">", "|", "="):
            self.dtype = None
        elif self.dtype is not None and self.dtype.kind != "O":
            self.dtype = self.dtype.newbyteorder(order)


class Array:
    """An array, and its content once that is set."""

    value: np.ndarray | None = None


def filled(content: Any, kind: np.dtype, shape: Any, order: Any) -> np.ndarray:
    """Return an array of `content`: a view of bytes, or a list's objects. ValueError where they do not fit."""
    if not isinstance(shape, tuple) or len(shape) > 32 or not all(type(n) is int and n >= 0 for n in shape):
        raise ValueError(f"an array of the shape {str(shape)[:60]}")
    count = math.prod(shape)
    if kind.kind == "O":
        if not isinstance(content, list) or len(content) != count:
            raise ValueError(f"an array of {count} objects has others")
        objects = np.empty(count, object)
        for place, item in enumerate(content):
            objects[place] = item
        return objects.reshape(shape, order=order)
    if not isinstance(content, memoryview | bytes | bytearray):
        raise ValueError(f"{type(content).__name__} in the place of bytes")
    if len(content) != count * kind.itemsize or (count == 0 and max(shape) > 2**31):
        raise ValueError(f"an array {str(shape)[:60]} of {kind} has {len(content)} bytes")
    return np.frombuffer(content, kind, count).reshape(shape, order=order)
