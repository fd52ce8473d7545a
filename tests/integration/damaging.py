"""What attacks put into files and on command lines: damage of any file, odd values of any key, drawn from a Random.

`hypothesis` draws that Random in the tests; `attacking.py` takes one of a seed for its large runs.
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random
from typing import Any

ESCAPE = "\x1b[31mred[/] \u202e"
"""What must never reach a terminal as it is."""
PLACES = (
    "../../../../etc/attacked",
    "/proc/self/attacked",
    "~nobodyofthisname/x",
    "/",
    "http://me:hunter2@127.0.0.1:9/x",
)
NUMBERS: tuple[Any, ...] = (-1, 0, 1, 0.5, 10**30, -(10**30), 1e308, -1e308, math.nan, math.inf, 2**63, 1e9)
TEXTS: tuple[Any, ...] = ("", "x", "1", "nan", "[]", "{}", "é漢字" * 20, "a" * 5000, "[red]x[/red]", ESCAPE, "a\nb")
NESTED: tuple[Any, ...] = ([], [None], [1, "a"], [[[]]], [-1], [10**9], {}, {"a": {"b": [1]}}, {"": 0})
VALUES = (None, True, False, *NUMBERS, *TEXTS, *NESTED, "${oc.env:HOME}", *PLACES)
"""What a value of a JSON file is replaced by."""
WORDS = (
    # numbers
    *("nan", "inf", "-inf", "-1", "0", "1", "00", "1.", ".5", "0.5", "0x10", "1_000", "1e-400", "1e309", "1e30", "1e9"),
    *("5000", "100000", "99999999999999999999"),
    # lists, dicts and what a sweep takes
    *("[]", "{}", "[1,2,3]", "[0]", "[-1]", "[[]]", "[1e9]", "[1000000,1000000]", "[true]", "[nan]", "[null]"),
    *("{a:1}", "{a:{b:[1]}}", "1,2", "x,y", "range(1,5)", "range(1,1e9)", "range(0,1000000000)", "interval(0,1)"),
    *("interval(1,nan)", "choice(1,2)", "choice()", "glob(*)", "int(3)", "[" * 200 + "]" * 200),
    # texts
    *("", "null", "None", "true", "x", "'x y'", "a=b", "é漢字", "a" * 300, "'a\nb'", "%s%n", "-x", "--help"),
    *("[red]x[/red]", f"'{ESCAPE}'", "\udcff", "\u202e", "[", "]", "{", "'", '"', "=", "[1,", "${x}", "${"),
    # places
    *("${oc.env:HOME}", "://", "http://", "s3://", "C:\\x", "sqlite:///", "file:///", "s3://AKIAhunter2@bucket/x"),
    *("postgresql://me:hunter2@host/x", *PLACES),
)
"""What a key of the command line is given."""


def damage(data: bytes, suffix: str, random: Random) -> tuple[str, bytes]:
    """Return what was done to a file's bytes, in words, and the bytes; JSON mostly stays JSON, csv files csv."""
    if suffix == ".json" and random.random() < 0.85:
        return damaged_json(json.loads(data), random)
    if suffix == ".csv" and random.random() < 0.6:
        return damaged_rows(data, random)
    name = random.choice(sorted(DAMAGES))
    return name, DAMAGES[name](data, random)


def flipped(data: bytes, random: Random) -> bytes:
    changed = bytearray(data)
    for _ in range(random.choice((1, 1, 4, 32)) if data else 0):
        changed[random.randrange(len(changed))] ^= 1 << random.randrange(8)
    return bytes(changed)


def claiming(data: bytes, random: Random) -> bytes:
    """Write a huge number over four or eight bytes: where a format keeps a size there, it claims gigabytes."""
    if len(data) < 16:
        return b"\xff" * 16
    number = random.choice((2**31 - 1, 2**32 - 1, 2**40, 2**62, 2**63 - 1))
    packed = struct.pack("<Q", number) if number > 2**32 else struct.pack("<I", number)
    place = random.randrange(min(len(data) - 8, 4096))
    return data[:place] + packed + data[place + len(packed) :]


def zeroed(data: bytes, random: Random) -> bytes:
    first = random.randrange(max(1, len(data)))
    length = min(random.choice((1, 64, 4096)), len(data) - first)
    return data[:first] + bytes(length) + data[first + length :]


DAMAGES: dict[str, Callable[[bytes, Random], bytes]] = {
    "empty": lambda data, random: b"",
    "cut": lambda data, random: data[: random.randrange(max(1, len(data)))],
    "its last byte gone": lambda data, random: data[:-1],
    "zeros": lambda data, random: bytes(len(data)),
    "noise": lambda data, random: random.randbytes(min(len(data), 1 << 20)),
    "bits flipped": flipped,
    "a part zeroed": zeroed,
    "a huge number": claiming,
    "twice": lambda data, random: data + data,
    "foreign bytes before it": lambda data, random: b"\xff\xfe" + data,
    "a web page": lambda data, random: b"<html><body>502 Bad Gateway</body></html>",
    "markup": lambda data, random: f"[red]x[/red] [/] {ESCAPE}".encode(),
    "brackets": lambda data, random: b"[" * 100_000 + b"]" * 100_000,
    "braces": lambda data, random: b'{"a":' * 20_000,
}


def damaged_json(document: Any, random: Random) -> tuple[str, bytes]:
    """Change or remove one value somewhere in a document."""
    path = random.choice(list(paths(document)))
    if path and random.random() < 0.15:
        return f"without {path}", json.dumps(changed(document, path, None, remove=True)).encode()
    value = random.choice(VALUES)
    return f"{path} = {value!r:.40}", json.dumps(changed(document, path, value)).encode()


def paths(document: Any, above: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Walk through a JSON document: the path of each value, of lists the first three."""
    yield above
    inside: list[tuple[Any, Any]] = []
    if isinstance(document, dict):
        inside = list(document.items())
    elif isinstance(document, list):
        inside = list(enumerate(document))[:3]
    for key, value in inside:
        yield from paths(value, (*above, key))


def changed(document: Any, path: tuple[Any, ...], value: Any, remove: bool = False) -> Any:
    """Return a copy of a document with one value replaced or removed."""
    if not path:
        return value
    copy = json.loads(json.dumps(document))
    place = copy
    for key in path[:-1]:
        place = place[key]
    if remove:
        del place[path[-1]]
    else:
        place[path[-1]] = value
    return copy


def damaged_rows(data: bytes, random: Random) -> tuple[str, bytes]:
    """Take rows or cells of a csv file away, or change them."""
    lines = data.splitlines(keepends=True)
    where = random.randrange(len(lines)) if lines else 0
    cells = lines[where].rstrip(b"\n").split(b",") if lines else []
    words = b",".join([b"x"] * len(cells)) + b"\n"
    kinds = {
        "without rows": b"".join(lines[:1]),
        "cut after a row": b"".join(lines[: where + 1]),
        f"without line {where}": b"".join(lines[:where] + lines[where + 1 :]),
        f"line {where} twice": b"".join(lines[: where + 1] + lines[where:]),
        f"words in line {where}": b"".join([*lines[:where], words, *lines[where + 1 :]]),
        f"more cells in line {where}": b"".join([*lines[:where], b"1," * 40 + b"\n", *lines[where + 1 :]]),
        "without a header": b"".join(lines[1:]),
        "nothing in its cells": b"".join(lines[:1]) + b",\n" * 3,
    }
    kind = random.choice(sorted(kinds))
    return kind, kinds[kind]


def files_of(folder: Path, largest: int = 8 << 20) -> list[Path]:
    """Return the files below a folder that can be damaged, sorted; tracking stores and what Tune keeps are none."""
    found = [path for path in folder.rglob("*") if path.is_file() and path.stat().st_size <= largest]
    return sorted(path for path in found if not {"mlartifacts", ".ray", ".lock"} & set(path.parts))
