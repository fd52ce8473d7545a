"""Find the trajectories of a raw BridgeData tree, and say which are for training.

<root>/<institution>/<kitchen>/<task>/<NN>/<YYYY-mm-dd_HH-MM-SS>/raw/traj_group*/traj*: dated folders lie `depth` levels
below the root, and a task's name is the last max(depth - 1, 1) parts of the path above them.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

from understudy.errors import DatasetError
from understudy.randomness import numpy_generator

DATE = "%Y-%m-%d_%H-%M-%S"
LATENCY_UNTIL = datetime(2021, 7, 23)
"""The day before which an action was recorded with the picture before the one that it answers."""
DEEPEST = 6
"""Levels that are looked through for dated folders, to say which depth is right."""


@dataclass(frozen=True)
class Trajectory:
    """One trajectory's folder, and what its place says about it."""

    path: Path
    task: str
    name: str
    """Its path below the task's folder: the dated folder, and group and trajectory."""
    is_late: bool
    """Whether pictures lag behind actions by a step."""
    is_training: bool


@dataclass
class Tree:
    """The trajectories of a tree, task by task in the names' order: training first, then validation."""

    tasks: dict[str, list[Trajectory]] = field(default_factory=dict)
    passed_over: list[tuple[str, str]] = field(default_factory=list)
    """Folders in the place of dated ones that are none, with what they are."""

    @property
    def trajectories(self) -> list[Trajectory]:
        """All of them."""
        return [item for items in self.tasks.values() for item in items]


def scan(root: Path, depth: int, train_proportion: float, seed: int) -> Tree:
    """Return what is in a raw tree; DatasetError, naming the depth that would do, where it has no dated folders.

    Of each dated folder's trajectories, shuffled by the seed and that folder's name alone, the first int(n *
    train_proportion) are for training: neither root, depth nor what else there is changes the split.
    """
    if depth < 1:
        raise DatasetError(f"depth {depth}: must be at least 1; dated folders lie so many levels below the root")
    if not 0.0 <= train_proportion <= 1.0:
        raise DatasetError(f"train_proportion {train_proportion}: must be at least 0 and at most 1")
    if not root.is_dir():
        raise DatasetError(f"{root}: no such folder")
    tree = Tree()
    for parent in _folders_at(root, depth - 1):
        task = "/".join(parent.absolute().parts[-max(depth - 1, 1) :])
        found = []
        for dated in _subfolders(parent):
            when = _date(dated.name)
            if when is None:
                tree.passed_over.append((f"{task}/{dated.name}", "not named by a date and time"))
            else:
                found += _split(dated, task, when < LATENCY_UNTIL, train_proportion, seed)
        if found:
            tree.tasks[task] = [item for item in found if item.is_training] + [
                item for item in found if not item.is_training
            ]
    if not tree.tasks:
        raise DatasetError(f"{root}: no trajectories in dated folders {depth} levels below it{_right_depth(root)}")
    return tree


def _split(dated: Path, task: str, is_late: bool, train_proportion: float, seed: int) -> list[Trajectory]:
    paths = [path for group in sorted(dated.glob("raw/traj_group*"), key=_numeric) for path in _subfolders(group)]
    paths = [path for path in sorted(paths, key=_numeric) if path.name.startswith("traj")]
    order = numpy_generator(seed, f"bridge split {dated.name}").permutation(len(paths))
    training = set(order[: int(len(paths) * train_proportion)].tolist())
    return [
        Trajectory(path, task, path.relative_to(dated.parent).as_posix(), is_late, number in training)
        for number, path in enumerate(paths)
    ]


def _date(name: str) -> datetime | None:
    try:
        return datetime.strptime(name, DATE)
    except ValueError:
        return None


def _right_depth(root: Path) -> str:
    for depth in range(1, DEEPEST + 1):
        count = sum(_date(path.name) is not None for path in _folders_at(root, depth))
        if count:
            return f"; {count} dated folders are there with --depth {depth}"
    return "; they are named like 2022-01-01_00-00-00 and hold raw/traj_group0/traj0"


def _folders_at(root: Path, levels: int) -> Iterator[Path]:
    if levels == 0:
        yield root
        return
    for folder in _subfolders(root):
        yield from _folders_at(folder, levels - 1)


def _subfolders(folder: Path) -> list[Path]:
    try:
        return sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))
    except OSError as error:
        raise DatasetError(f"{folder}: cannot be read ({error.strerror})") from error


def _numeric(path: Path) -> list[tuple[int, str]]:
    """Return a key that puts traj2 before traj10."""
    return [(int(part), "") if part.isdigit() else (0, part) for part in re.split(r"(\d+)", str(path))]
