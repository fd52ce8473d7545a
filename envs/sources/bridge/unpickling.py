"""Read pickles that may come from anywhere: numbers, texts, lists, tuples, dicts and numpy arrays, nothing else.

`pickle` runs what a file tells it to. This reader runs nothing: `pickletools` takes the file apart, and what is here
knows the operations that such data need, has a stand-in for each of the few names of numpy, and refuses every other
by its name. Arrays are views of the mapped file. Memory is bounded by the file's size: what the operations make is
counted, and no claim of a size is believed before there are so many bytes.
"""

from __future__ import annotations

import mmap
import pickletools
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

from understudy.envs.files.reading import WrongContent, damage
from understudy.envs.sources.bridge.arrays import NAMES, Array, Dtype, Name, filled
from understudy.errors import DatasetError

FREE_OPERATIONS, MOST_OPERATIONS = 1_000_000, 50_000_000
"""Operations that any file may take, and the most that the largest may: each makes about 100 bytes."""
ONLY = "of files that may come from anywhere only numbers, texts, lists, dicts and numpy arrays are read"
DAMAGE = (IndexError, KeyError, TypeError, ValueError, AttributeError, OverflowError, struct.error)
"""What taking apart nonsense raises."""


def unpickle(file: Path) -> Any:
    """Return what a pickle file holds; bytes in it may come as memoryviews. Whatever is wrong is a DatasetError."""
    return unpickle_buffer(map_file(file), str(file))


def map_file(file: Path) -> memoryview:
    """Return a file's bytes, mapped; a missing or empty file is a DatasetError."""
    with damage(file, "pickle"), open(file, "rb") as stream:
        try:
            return memoryview(mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ))
        except ValueError as error:
            raise WrongContent("is empty") from error


def unpickle_buffer(data: memoryview, where: str) -> Any:
    """Return what a pickle in memory holds; `where` says in errors where it is from."""
    try:
        return _Machine(data, where).run()
    except DAMAGE as error:
        said = (str(error).splitlines() or [""])[0][:100] or type(error).__name__
        raise DatasetError(f"{where}: not a readable pickle, truncated or damaged ({said})") from error
    except (MemoryError, RecursionError) as error:
        raise DatasetError(f"{where}: not a readable pickle, it claims more memory than there is") from error


class _Bytes:
    """What `pickletools` reads from; long reads are views. More bytes than are left are never asked for."""

    def __init__(self, data: memoryview) -> None:
        self._data, self._at = data, 0

    def read(self, count: int) -> Any:
        if not 0 <= count <= len(self._data) - self._at:
            raise ValueError(f"{count} bytes are announced, {len(self._data) - self._at} are left")
        self._at += count
        taken = self._data[self._at - count : self._at]
        return taken if count > 256 else bytes(taken)

    def readline(self) -> bytes:
        end, step = self._at, 256
        while end < len(self._data):
            found = bytes(self._data[end : end + step]).find(b"\n")
            if found >= 0:
                return bytes(self.read(end + found + 1 - self._at))
            end, step = end + step, 2 * step
        raise ValueError("a line does not end")

    def tell(self) -> int:
        return self._at


class _Machine:
    """A stack machine for the operations of protocols 0 to 5 that plain data need."""

    def __init__(self, data: memoryview, where: str) -> None:
        self._data, self._where = data, where
        self._stack: list[Any] = []
        self._below: list[list[Any]] = []  # the stacks under each mark
        self._memo: dict[int, Any] = {}
        self._copies = 8 * len(data) + 1_000_000

    def run(self) -> Any:
        """Return the value that the pickle leaves."""
        limit = min(FREE_OPERATIONS + len(self._data) // 2, MOST_OPERATIONS)
        for number, (code, argument, _) in enumerate(pickletools.genops(_Bytes(self._data))):  # type: ignore[arg-type]
            if number > limit:
                raise DatasetError(f"{self._where}: holds more than {limit} values in its {len(self._data)} bytes")
            if code.name in PUSHED:
                self._stack.append(argument)
            elif code.name in OPERATIONS:
                OPERATIONS[code.name](self, argument)
            else:
                self._refuse(f"pickle's operation {code.name}")
        return self._plain(self._stack.pop())

    def _refuse(self, what: str) -> NoReturn:
        raise DatasetError(f"{self._where}: holds {what}, and {ONLY}")

    def _charge(self, count: int) -> None:
        self._copies -= count
        if self._copies < 0:
            raise DatasetError(f"{self._where}: unfolds to far more than its {len(self._data)} bytes")

    def _plain(self, value: Any) -> Any:
        """Return a value that may come out: a name, or a dtype by itself, may not."""
        if isinstance(value, Name | Dtype):
            self._refuse(f"the name {value.name if isinstance(value, Name) else value.code!r}"[:60])
        return self._whole(value)

    def _whole(self, value: Any) -> Any:
        """Return a value that may go into a tuple: an array in place of its stand-in."""
        if isinstance(value, Array):
            if value.value is None:
                raise ValueError("an array without content")
            return value.value
        return value

    def marked(self) -> list[Any]:
        """Return what lies above the newest mark, and take both away."""
        items = [self._whole(item) for item in self._stack]
        self._stack = self._below.pop()
        return items

    # Operations: each takes the argument that is in the file.

    def push(self, value: Any) -> None:
        self._stack.append(value)

    def mark(self, _: Any) -> None:
        self._below.append(self._stack)
        self._stack = []

    def pop(self, _: Any) -> None:
        if self._stack:
            self._stack.pop()
        else:
            self.marked()

    def append(self, _: Any) -> None:
        self._extend([self._stack.pop()])

    def appends(self, _: Any) -> None:
        self._extend(self.marked())

    def new_list(self) -> None:
        items = self.marked()
        self._stack.append([])
        self._extend(items)

    def _extend(self, items: list[Any]) -> None:
        if not isinstance(self._stack[-1], list):
            raise ValueError("an item without a list")
        self._stack[-1].extend(map(self._plain, items))

    def tuple_of(self, count: int) -> None:
        items = tuple(self._whole(item) for item in self._stack[-count:])
        if len(items) < count:
            raise ValueError("a tuple of too few items")
        self._stack[-count:] = [items]

    def set_item(self, _: Any) -> None:
        value, key = self._stack.pop(), self._stack.pop()
        self._set([key, value])

    def set_items(self, _: Any) -> None:
        self._set(self.marked())

    def new_dict(self, _: Any) -> None:
        items = self.marked()
        self._stack.append({})
        self._set(items)

    def _set(self, items: list[Any]) -> None:
        target = self._stack[-1]
        if not isinstance(target, dict) or len(items) % 2:
            raise ValueError("a key without a dict, or without a value")
        for key, value in zip(items[::2], items[1::2], strict=True):
            if not isinstance(key, str | int | float | None):  # deep tuples overflow the C stack when they are hashed
                raise ValueError(f"a key of type {type(key).__name__}")
            target[key] = self._plain(value)

    def put(self, place: int) -> None:
        self._memo[place] = self._stack[-1]

    def memoize(self, _: Any) -> None:
        self._memo[len(self._memo)] = self._stack[-1]

    def get(self, place: int) -> None:
        self._stack.append(self._memo[place])

    def name(self, path: Any) -> None:
        if path is None:  # STACK_GLOBAL
            last = self._stack.pop()
            path = f"{self._stack.pop()} {last}"
        if path not in NAMES:
            self._refuse(path.replace(" ", ".", 1).encode("unicode_escape").decode()[:100])
        self._stack.append(Name(NAMES[path]))

    def reduce(self, _: Any) -> None:
        arguments, called = self._stack.pop(), self._stack.pop()
        if not isinstance(called, Name) or not isinstance(arguments, tuple):
            self._refuse(f"a call of {type(called).__name__}")
        self._stack.append(self._called(called.name, arguments))

    def _called(self, name: str, arguments: tuple[Any, ...]) -> Any:
        if name in ("OrderedDict", "bytes") and not arguments:
            return {} if name == "OrderedDict" else b""
        if name == "encode" and arguments[1:] in (("latin1",), ("latin-1",)):
            return self._bytes(arguments[0])
        if name == "dtype" and isinstance(arguments[0], str):
            return Dtype(arguments[0])
        if name == "_reconstruct" and getattr(arguments[0], "name", "") == "ndarray" and arguments[1] == (0,):
            return Array()
        if name == "scalar":
            kind = self._dtype(arguments[0])
            if kind.kind != "O" and kind.itemsize <= 1024:
                return self._filled(arguments[1], kind, (), "C")[()]
        if name == "_frombuffer":
            content, dtype, shape, order = arguments[:4]
            if order == "K":
                return self._filled(content, self._dtype(dtype), shape, "C").transpose(arguments[4])
            return self._filled(content, self._dtype(dtype), shape, order)
        self._refuse(f"an unusual call of {name}")

    def build(self, _: Any) -> None:
        state, target = self._stack.pop(), self._stack[-1]
        if isinstance(target, Dtype):
            target.set_state(state)
        elif isinstance(target, Array):
            _, shape, dtype, by_columns, content = state
            target.value = self._filled(content, self._dtype(dtype), shape, "F" if by_columns else "C")
        else:
            self._refuse(f"a state for {type(target).__name__}")

    def _filled(self, content: Any, kind: np.dtype, shape: Any, order: Any) -> np.ndarray:
        if isinstance(content, list):
            self._charge(8 * len(content))
        return filled(self._bytes(content) if isinstance(content, str) else content, kind, shape, order)

    def _bytes(self, content: Any) -> Any:
        """Return an array's bytes; pickles of protocol 0 to 2 and of Python 2 hold them as text."""
        if isinstance(content, str):
            self._charge(len(content))
            return content.encode("latin-1")
        return content

    def _dtype(self, value: Any) -> np.dtype:
        if not isinstance(value, Dtype):
            raise ValueError("an array without a dtype")
        if value.dtype is None or value.dtype.itemsize == 0:
            self._refuse(f"an array of {value.code[:40]!r}")
        return value.dtype


PUSHED = {
    *("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT", "NONE"),
    *("STRING", "BINSTRING", "SHORT_BINSTRING", "UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8"),
    *("BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8"),
}
"""Operations that push what the file holds for them."""
OPERATIONS: dict[str, Callable[[_Machine, Any], Any]] = {
    **dict.fromkeys(("PROTO", "FRAME", "STOP"), lambda machine, _: None),
    "MARK": _Machine.mark,
    "POP": _Machine.pop,
    "POP_MARK": lambda machine, _: machine.marked(),
    "NEWTRUE": lambda machine, _: machine.push(True),
    "NEWFALSE": lambda machine, _: machine.push(False),
    "EMPTY_LIST": lambda machine, _: machine.push([]),
    "LIST": lambda machine, _: machine.new_list(),
    "APPEND": _Machine.append,
    "APPENDS": _Machine.appends,
    "EMPTY_TUPLE": lambda machine, _: machine.push(()),
    "TUPLE": lambda machine, _: machine.push(tuple(machine.marked())),
    **{f"TUPLE{count}": lambda machine, _, count=count: machine.tuple_of(count) for count in (1, 2, 3)},
    "EMPTY_DICT": lambda machine, _: machine.push({}),
    "DICT": _Machine.new_dict,
    "SETITEM": _Machine.set_item,
    "SETITEMS": _Machine.set_items,
    **dict.fromkeys(("PUT", "BINPUT", "LONG_BINPUT"), _Machine.put),
    "MEMOIZE": _Machine.memoize,
    **dict.fromkeys(("GET", "BINGET", "LONG_BINGET"), _Machine.get),
    **dict.fromkeys(("GLOBAL", "STACK_GLOBAL"), _Machine.name),
    "REDUCE": _Machine.reduce,
    "BUILD": _Machine.build,
}
"""Every other operation makes objects, calls code, or refers to what is outside of the file."""
