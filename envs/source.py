"""What a data source is: its dataset names, its environment, its file format, its scores.

A source is one file in this folder with `@sources.register("name")` on an instance of a Source subclass.
Simulators are imported inside methods, so that `understudy --help` and reading a store need none of them.
"""

from __future__ import annotations

import abc
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from understudy.errors import UnknownName, UserError, did_you_mean
from understudy.registry import sources

if TYPE_CHECKING:
    import gymnasium

Episode = Mapping[str, np.ndarray]
"""observations [T, *O], actions [T, A], rewards [T], terminals [T], optionally final_observation [*O] and more."""


class Source(abc.ABC):
    """One kind of dataset and its environments. `env_name` is always the dataset's name."""

    name: str

    @abc.abstractmethod
    def matches(self, env_name: str) -> bool:
        """Say whether the dataset's name belongs to this source."""

    @abc.abstractmethod
    def known_names(self) -> list[str]:
        """Return the dataset names that are published, for error messages."""

    @abc.abstractmethod
    def env_id(self, env_name: str) -> str:
        """Return the environment's own name (a gymnasium id where there is one)."""

    @abc.abstractmethod
    def make_env(self, env_name: str, *, render: bool = False, size: int = 256) -> gymnasium.Env:
        """Return an environment whose episodes are a pure function of `reset(seed=)` and the actions.

        `render` makes `env.render()` give RGB frames of `size` pixels. A missing simulator raises UserError.
        """

    @abc.abstractmethod
    def read(self, path: Path, env_name: str) -> Iterator[Episode]:
        """Yield the episodes of a file of this source's format; a damaged one raises DatasetError."""

    @abc.abstractmethod
    def max_episode_steps(self, env_name: str) -> int:
        """Return the time limit of an episode."""

    @abc.abstractmethod
    def has_success(self, env_name: str) -> bool:
        """Say whether the task tells success (in `info["success"]`)."""

    def normalized_score(self, env_name: str, returns: np.ndarray) -> np.ndarray | None:
        """Return scores where 0 is the published random policy and 100 the published expert, if there are such."""
        return None

    def files(self, path: Path) -> list[Path]:
        """Return the data files that `path` stands for (itself; some sources take a folder)."""
        return [path]

    def provenance(self, path: Path, env_name: str) -> dict[str, Any]:
        """Return what the manifest should say about how these data were made."""
        return {}


def source_for(env_name: str) -> Source:
    """Return the source that a dataset's name belongs to, or raise UnknownName with the nearest known name."""
    for _, source in sources.items():
        if source.matches(env_name):
            return source
    known = [name for _, source in sources.items() for name in source.known_names()]
    raise UnknownName(f"unknown environment {env_name!r}{did_you_mean(env_name, known, limit=6)}")


@dataclass(frozen=True)
class EnvFactory:
    """Make one dataset's environment; hashable and picklable, so that rollouts can cache and send it."""

    env_name: str
    size: int = 256

    def __call__(self, *, render: bool = False) -> gymnasium.Env:
        """Return a new environment."""
        return self.source.make_env(self.env_name, render=render, size=self.size)

    @property
    def source(self) -> Source:
        """The dataset's source."""
        return source_for(self.env_name)

    @property
    def has_success(self) -> bool:
        """Whether the task tells success."""
        return self.source.has_success(self.env_name)

    def normalized_score(self, returns: np.ndarray) -> np.ndarray | None:
        """Return normalised scores x 100, if they are published for this task."""
        return self.source.normalized_score(self.env_name, returns)


def missing_package(env_name: str, package: str, extra: str) -> UserError:
    """Return the error for a simulator that is not installed."""
    return UserError(f"{env_name}: its simulator needs {package!r}; run `pip install 'understudy[{extra}]'`")
