"""What a data source is: the names of its datasets and their file format. What one name stands for is a `Task`.

A source is one file in this folder with `@sources.register("name")` on an instance of a Source subclass.
Simulators are imported inside methods, so that `understudy --help` and reading a store need none of them.
"""

from __future__ import annotations

import abc
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, ClassVar, NoReturn

from understudy.envs.sources.task import Episode, Task
from understudy.errors import DatasetError, UnknownName, UserError, did_you_mean, to_install
from understudy.registry import sources


class Source(abc.ABC):
    """One kind of dataset: its names, and its file format. What a name stands for is a Task (`task`)."""

    name: str
    title: ClassVar[str] = ""
    """What messages call its names, such as "OGBench"; default its name."""
    example: ClassVar[str] = ""
    """A name as messages give it; without one they give the nearest known names."""
    suffix: ClassVar[str] = ""
    """File name suffix, such as ".hdf5"; empty for a format that is a folder."""
    unit_actions: ClassVar[bool] = True
    """Whether actions span [-1, 1] in all of its environments, so that a policy's may be clipped to it."""
    simulated: ClassVar[bool] = True
    """Whether there is a simulator that a policy could make demonstrations in."""

    @abc.abstractmethod
    def parse(self, env_name: str) -> Task | None:
        """Return the dataset and environment that a name stands for, None for a name of another source."""

    @abc.abstractmethod
    def known_names(self) -> list[str]:
        """Return the dataset names that are published, for error messages."""

    def own(self, name: str) -> Task | None:
        """Return the task of files of this format under a name of one's own; None where a name says how to read them.

        Only `read`, `provenance` and `declared` of it are asked: the environment has a name of its own.
        """
        return None

    def registered(self, env_name: str) -> Task | None:
        """Return what a name stands for that no source's `parse` knows, such as an environment's id; else None."""
        return None

    def advice(self, env_name: str) -> str:
        """Return what to say of a name that is none of this source's and is meant for one; "" for any other."""
        return ""

    def matches(self, env_name: str) -> bool:
        """Return whether the dataset's name belongs to this source."""
        return self.parse(env_name) is not None

    def task(self, env_name: str) -> Task:
        """Return the dataset and environment that a name of this source stands for; DatasetError for another name."""
        return self.parse(env_name) or self.refuse(env_name)

    def refuse(self, env_name: str) -> NoReturn:
        """Raise the DatasetError of a name that is none of this source's."""
        like = f", like {self.example}" if self.example else did_you_mean(env_name, self.known_names(), limit=6)
        raise DatasetError(f"{env_name!r} is no {self.title or self.name} name{like}")

    def write(self, path: Path, episodes: Iterable[Episode], env_name: str, provenance: Mapping[str, Any]) -> None:
        """Write episodes as a file (or folder) of this source's format, which `Task.read` gives back unchanged.

        The inverse of `read`: its conventions for rewards are undone. Written beside `path` and renamed when whole.
        `env_name` may be a name of another source.
        """
        others = ", ".join(name for name, source in sources.items() if source.can_write)
        raise UserError(f"understudy cannot write {self.name} files; formats that it writes: {others}")

    @property
    def can_write(self) -> bool:
        """Whether there is a `write`; demonstrations of sources without one go into a store and no file."""
        return type(self).write is not Source.write

    def name_of(self, path: Path) -> str:
        """Return the dataset's name that a file's (or folder's) own name says, for imports without a name."""
        return path.stem

    def parts(self, path: Path) -> dict[str, Path]:
        """Return the datasets that lie in a path, by name, for imports without a name: one, unless the format is a tree
        of several."""
        return {self.name_of(path): path}

    def environment_in(self, path: Path) -> str:
        """Return the environment that the data in a file (or folder) were recorded in, by its own name; "" for none.

        A file that is not there, or says nothing, raises DatasetError.
        """
        return ""

    def files(self, path: Path) -> list[Path]:
        """Return the data files that `path` stands for (itself; some sources take a folder)."""
        return [path]


def task_of(env_name: str) -> Task:
    """Return the task that a dataset's name stands for, or raise UnknownName with the nearest known name."""
    for _, source in sources.items():
        if (task := source.parse(env_name)) is not None:
            return task
    for _, source in sources.items():
        if (task := source.registered(env_name)) is not None:
            return task
    known = [name for _, source in sources.items() for name in source.known_names()]
    close = did_you_mean(env_name, known, limit=6, also=ids_taken_as_names())
    raise UnknownName(f"unknown environment {env_name!r}{close}")


def is_known(env_name: str) -> bool:
    """Return whether a name is one of any source, or an environment's."""
    return any(source.matches(env_name) or source.registered(env_name) for _, source in sources.items())


def ids_taken_as_names() -> list[str]:
    """Return environments' ids that are names too, without what is before the colon in their source's names."""
    takers = [source for _, source in sources.items() if type(source).registered is not Source.registered]
    return [name.partition(":")[2] for source in takers for name in source.known_names()]


def is_goal_conditioned(env_name: str) -> bool:
    """Return whether a policy for the dataset's task must be told a goal; no, for names of no source."""
    try:
        return task_of(env_name).goal_conditioned
    except UnknownName:
        return False


def missing_package(env_name: str, package: str, extra: str) -> UserError:
    """Return the error for a simulator that is not installed."""
    return UserError(f"{env_name}: its simulator needs {package!r}; {to_install(extra)}")
