"""What LeRobot datasets say in more than one way: tasks, splits, and where episodes of the older versions lie.

v3.0 keeps many episodes in a file and describes them in parquet files; v2.0 and v2.1 have a parquet file and an mp4 for
each episode, described in lines of JSON. The text of a task is the pandas index of tasks.parquet, a column, or both.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from understudy.envs.files.reading import WrongContent, check_readable, damage, understood
from understudy.envs.store.store import MASK

TASK_LINES, EPISODE_LINES = "meta/tasks.jsonl", "meta/episodes.jsonl"
OLDER = ("v2.0", "v2.1")


def older_episodes(root: Path, info: Mapping[str, Any], videos: Sequence[str]) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield (line, row) of each episode of a v2 dataset, a row as v3.0 has them: number n of a kind is file n."""
    chunk_size = int(info["chunks_size"])
    for line, row in enumerate(read_lines(root / EPISODE_LINES)):
        number = int(row["episode_index"])
        place = {"chunk_index": number // chunk_size, "file_index": number}
        found = {f"data/{name}": value for name, value in place.items()}
        for key in videos:
            found |= {f"videos/{key}/{name}": value for name, value in {**place, "from_timestamp": 0.0}.items()}
        yield line, {**row, **found}


def read_lines(file: Path) -> list[dict[str, Any]]:
    """Return the objects of a file of JSON lines."""
    check_readable(file, "LeRobot")
    with damage(file, "LeRobot"):
        texts = file.read_text(encoding="utf-8").splitlines()
    rows = []
    for number, text in enumerate(texts, start=1):
        if not text.strip():
            continue
        with damage(file, "LeRobot"):
            try:
                row = json.loads(text)
            except ValueError as error:
                raise WrongContent(f"line {number} is no JSON ({error}); it is cut short or was edited") from error
            if not isinstance(row, dict):
                raise WrongContent(f"line {number} is {type(row).__name__}, an object is expected")
        rows.append(row)
    return rows


def task_lines(file: Path) -> dict[int, str]:
    """Return the texts of tasks.jsonl by their numbers."""
    rows = read_lines(file)
    with understood(file, "LeRobot"):
        return _numbered([row["task_index"] for row in rows], [row["task"] for row in rows])


def task_table(table: pa.Table, file: Path) -> dict[int, str]:
    """Return the texts of tasks.parquet by their numbers: its index, else its column `task`, which must not differ."""
    with understood(file, "LeRobot"):
        if "task_index" not in table.column_names:
            raise KeyError("task_index")
        numbers = table["task_index"].to_pylist()
        texts = [name for name in table.column_names if _is_text(table[name].type)]
        index = [name for name in _index_columns(table) if name in texts]
        named = [name for name in ("task", *index) if name in texts] or (texts if len(texts) == 1 else [])
        if not named:
            columns = ", ".join(table.column_names)
            raise WrongContent(
                f"columns {columns}; the text of a task is expected as index of the table or in a column `task`"
            )
        first, *others = sorted(set(named), key=lambda name: (name not in index, name))
        found = table[first].to_pylist()
        for other in others:
            for number, one, two in zip(numbers, found, table[other].to_pylist(), strict=True):
                if one != two:
                    raise WrongContent(
                        f"task {number} is {one!r} in the index and {two!r} in the column {other!r}: let both say the"
                        " same, or drop one of them"
                    )
        return _numbered(numbers, found)


def _numbered(numbers: Sequence[Any], texts: Sequence[Any]) -> dict[int, str]:
    found: dict[int, str] = {}
    for number, text in zip(map(int, numbers), texts, strict=True):
        if not isinstance(text, str):
            raise WrongContent(f"the text of task {number} is {text!r}")
        if found.setdefault(number, text) != text:
            raise WrongContent(f"task {number} is both {found[number]!r} and {text!r}")
    return found


def _index_columns(table: pa.Table) -> list[str]:
    noted = json.loads((table.schema.metadata or {}).get(b"pandas", b"{}")).get("index_columns", [])
    unnamed = [name for name in table.column_names if name.startswith("__index_level_")]
    return [*(name for name in noted if isinstance(name, str)), *unnamed]


def _is_text(kind: pa.DataType) -> bool:
    return pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_dictionary(kind)


def split_masks(splits: Any, count: int) -> dict[str, np.ndarray]:
    """Return the splits of info.json as masks of `count` episodes, uint8 [E] by column name.

    A split is a range like "0:50", several of them, or a list of episodes.
    """
    if not isinstance(splits, Mapping):
        raise WrongContent(f'splits is {splits!r}; an object like {{"train": "0:{count}"}} is expected')
    found = {}
    for name, part in splits.items():
        mask = np.zeros(count, bool)
        for first, end in _ranges(str(name), part, count):
            mask[first:end] = True
        found[f"{MASK}{name}"] = mask
    return found


def _ranges(name: str, part: Any, count: int) -> list[tuple[int, int]]:
    """Return the ranges of episodes that one split says."""
    items = part.split(",") if isinstance(part, str) else part
    if items == [0, count]:
        return [(0, count)]  # a range too, for there is no episode of that number
    found = []
    for item in items if isinstance(items, Sequence) else [None]:
        first, colon, end = str(item).strip().partition(":")
        try:
            number = int(first or 0)
            found.append((number, int(end or count) if colon else number + 1))
        except ValueError:
            raise WrongContent(
                f"split {name!r} is {part!r}; a range of episodes like '0:{count}', or a list of them, is expected"
            ) from None
    for first, end in found:
        if not 0 <= first <= end:
            raise WrongContent(f"split {name!r} has episodes {first} to {end}, of {count}")
    return found
