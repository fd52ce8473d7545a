"""What a matrix is made of: words with several values of algo (or space) and env_name become a cell for each pair.

A group of Hydra's with several options, as `bridgedata=lift_carrot_100,pull_pot_100`, names tasks as env_name does.

A key that one method takes and another does not is left out of the other's cells; one that none takes is refused.
`bc.policy=mse` is a key of one method alone, and goes over what all are given.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from understudy.errors import SpecError, UserError, did_you_mean
from understudy.files import read_object, write_json
from understudy.registry import algorithms, loops, search_spaces
from understudy.runs.directory import hold
from understudy.runs.epochs import EPOCHS
from understudy.spec.compose import Sweep, flat_values, given_keys, groups_in, listed, parse, split_sweeps, to_overrides
from understudy.spec.keys import algo_of, run_fields
from understudy.spec.run import plain_name
from understudy.spec.words import ALIASES, canonical
from understudy.sweeping.options import SweepOptions

MARKER = "matrix.json"
Kind = Literal["sweep", "compare", "pipeline"]
"""Cells are sweeps, or runs; of a pipeline runs that come after an expert's and learn from its demonstrations."""
AXES = ("algo", "space", "env_name")


@dataclass(frozen=True)
class Cell:
    """One method on one task."""

    method: str
    task: str
    folder: str
    """Its folder below `cells`."""
    words: tuple[str, ...] = ()
    """The key=value words that describe it."""


def axis_of(key: str) -> str | None:
    """Return which axis of a matrix a key names."""
    name = ALIASES.get(key, key)
    return name if name in AXES else None


def is_matrix(words: Sequence[str], config_dir: str | None = None) -> bool:
    """Return whether words name several methods or tasks."""
    _, sweeps = split_sweeps(parse(words))
    return any(axis_of(key) for key in sweeps) or _group_of(sweeps, config_dir) is not None


def _group_of(sweeps: Mapping[str, Sweep], config_dir: str | None) -> str | None:
    """Return the group of which several options are chosen, as tasks; None without one."""
    chosen = [key for key in sweeps if key in groups_in(config_dir)]
    if len(chosen) > 1:
        raise SpecError(f"{chosen[0]} and {chosen[1]} have several values: the tasks of a matrix are one key's")
    return chosen[0] if chosen else None


def cells_of(words: Sequence[str], kind: Kind, config_dir: str | None = None) -> list[Cell]:
    """Return the cells that the words describe, the tasks one after another; SpecError for keys that no cell takes."""
    plain, sweeps = split_sweeps(parse(words))
    group = _group_of(sweeps, config_dir)
    axes: dict[str, list[str]] = {}
    for item in plain:
        if axis := axis_of(item.key_or_group):
            axes[axis] = [str(item.value())]
    for key, values in sweeps.items():
        if axis := axis_of(key) or (key if key == group else None):
            axes[axis] = [str(value) for value in listed(key, values)]
    if "space" in axes and "algo" in axes:
        raise SpecError("give algo=... or space=... for the methods of a matrix, not both")
    if group is not None and "env_name" in axes:
        raise SpecError(f"give env_name=... or {group}=... for the tasks of a matrix, not both")
    by = group or "env_name"
    if by not in axes:
        named = flat_values(plain, config_dir).get("env_name")  # a group's, or what an expert's data were recorded in
        if named is None:
            raise SpecError("name the tasks: env_name=A,B")
        axes[by] = [str(named)]
    along = "space" if "space" in axes else "algo"
    methods = axes.get(along, [algo_of({})])
    given = to_overrides(words)
    rest = [word for word in given if axis_of(word.partition("=")[0]) is None and word.partition("=")[0] != group]
    rest, own = words_by_method(rest, methods)
    _check_known(rest, [_algorithm(along, method) for method in methods])
    for method in methods:
        _check_known(own[method], [_algorithm(along, method)])
    return [
        Cell(
            method,
            task,
            f"{method}-{plain_name(task)}",
            (*_words(rest, own[method], along, method, kind), f"{by}={task}"),
        )
        for task, method in itertools.product(axes[by], methods)
    ]


def words_by_method(words: Sequence[str], methods: Sequence[str]) -> tuple[list[str], dict[str, list[str]]]:
    """Return the words for all methods, and by method those of `METHOD.key=value`, without the method's name."""
    shared: list[str] = []
    own: dict[str, list[str]] = {method: [] for method in methods}
    for word in words:
        method, dot, key = word.partition("=")[0].partition(".")
        if not dot:
            shared.append(word)
        elif method not in own:
            raise SpecError(f"{word}: {method!r} is none of the methods here{did_you_mean(method, methods)}")
        elif ALIASES.get(key, key) in (*AXES, "seed", "seeds"):
            raise SpecError(f"{word}: {key} is the same for all methods")
        else:
            own[method].append(word.removeprefix(f"{method}."))
    return shared, own


def _algorithm(along: str, method: str) -> str:
    return search_spaces.get(method).algo if along == "space" else method


def _taken(algo: str) -> set[str]:
    """Return the keys that a cell of an algorithm takes."""
    kind = algorithms.get(algo)  # or the error is about its keys
    passes = [EPOCHS] if loops.get(kind.loop).has_fixed_data else []
    return {*run_fields(algo), *SweepOptions.model_fields, *passes}


def _check_known(rest: Sequence[str], algos: Sequence[str]) -> None:
    """Raise SpecError for a key that no method of the matrix takes; keys of Hydra's groups are not checked here."""
    taken = [_taken(algo) for algo in algos]
    for word, key in zip(rest, given_keys(rest), strict=True):
        if _known(key) and not any(canonical(key, keys) in keys for keys in taken):
            raise SpecError(f"{word}: none of {', '.join(dict.fromkeys(algos))} takes it")


def _known(key: str) -> bool:
    """Return whether some method takes a key."""
    fields = (run_fields(name) for name in algorithms.names())
    return key == EPOCHS or any(canonical(key, keys) in keys for keys in fields)


def _words(rest: Sequence[str], own: Sequence[str], along: str, method: str, kind: Kind) -> list[str]:
    """Return a cell's words, but for its task."""
    algo = _algorithm(along, method)
    kept = words_taken(rest, own, algo)
    _, sweeps = split_sweeps(parse(kept))
    searched = [key for key in sweeps if key not in ("seed", "seeds", *SweepOptions.model_fields)]
    by = along
    if kind == "sweep" and along == "algo" and not searched and algo in search_spaces.names():
        by = "space"  # nothing is said of what to search: the method's own space
    return [*kept, f"{by}={method}"]


def words_taken(shared: Sequence[str], own: Sequence[str], algo: str) -> list[str]:
    """Return a method's words: of those for all what it takes, and its own over them."""
    taken, mine = _taken(algo), {canonical(key, _taken(algo)) for key in given_keys(own)}
    kept = [
        word
        for word, key in zip(shared, given_keys(shared), strict=True)
        if (canonical(key, taken) in taken or not _known(key)) and canonical(key, taken) not in mine
    ]
    return [*kept, *own]


class MatrixDir:
    """A matrix's folder: matrix.json lists its cells, which have folders below `cells`."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @classmethod
    def create(cls, path: Path, kind: Kind, cells: Sequence[Cell], published: str = "") -> MatrixDir:
        """Write matrix.json in a new folder."""
        named = {"published": published} if published else {}
        write_json(path / MARKER, {"kind": kind, **named, "cells": [asdict(cell) for cell in cells]})
        return cls(path)

    def read(self) -> dict[str, Any]:
        """Return matrix.json."""
        return read_object(self.path / MARKER)

    @property
    def kind(self) -> Kind:
        """Whether its cells are sweeps or runs."""
        return self.read()["kind"]

    @property
    def published(self) -> str:
        """The name of the published results that its own are shown beside; "" for none."""
        return str(self.read().get("published", ""))

    def cells(self) -> list[Cell]:
        """Return its cells."""
        cells: list[dict[str, Any]] = self.read()["cells"]
        return [Cell(cell["method"], cell["task"], cell["folder"], tuple(cell["words"])) for cell in cells]

    def folder(self, cell: Cell) -> Path:
        """Return a cell's folder."""
        return self.path / "cells" / cell.folder

    def held(self) -> Any:
        """Hold the matrix for this process; a second holder gets a UserError naming the first."""
        return hold(self.path / ".lock", f"matrix {self.path}")


def check_cells(cells: Sequence[Cell]) -> None:
    """Raise UserError for two cells of one name, and for a matrix of one cell."""
    names = [cell.folder for cell in cells]
    for name in names:
        if names.count(name) > 1:
            raise UserError(f"{name} is named twice: each method and each task once")
    if len(cells) < 2:
        raise UserError("one method on one task is no matrix: `understudy train` and `understudy sweep` do that")
