"""What a data source is: its dataset names, its environment, its file format, its scores.

A source is one file in this folder with `@sources.register("name")` on an instance of a Source subclass.
Simulators are imported inside methods, so that `understudy --help` and reading a store need none of them.
"""

from __future__ import annotations

import abc
import shlex
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from understudy.envs.files.downloads import Remote
from understudy.envs.sources.task import Episode, Expert, Settings, Task
from understudy.envs.store.kinds import Declared
from understudy.errors import UnknownName, UserError, did_you_mean, to_install
from understudy.registry import sources

if TYPE_CHECKING:
    import gymnasium


class Source(abc.ABC):
    """One kind of dataset and its environments. `env_name` is always the dataset's name."""

    name: str
    suffix: ClassVar[str] = ""
    """File name suffix, such as ".hdf5"; empty for a format that is a folder."""
    unit_actions: ClassVar[bool] = True
    """Whether actions span [-1, 1] in all of its environments, so that a policy's may be clipped to it."""

    simulated: ClassVar[bool] = True
    """Whether there is a simulator that a policy could make demonstrations in."""

    @abc.abstractmethod
    def matches(self, env_name: str) -> bool:
        """Return whether the dataset's name belongs to this source."""

    @abc.abstractmethod
    def known_names(self) -> list[str]:
        """Return the dataset names that are published, for error messages."""

    def task(self, env_name: str) -> Task:
        """Return the dataset and environment that a name of this source stands for; DatasetError for another name."""
        return _NamedTask(self, env_name)

    def env_id(self, env_name: str) -> str:
        """Return the environment's own name (a gymnasium id where there is one)."""
        raise NotImplementedError

    def make_env(
        self, env_name: str, *, render: bool = False, size: int = 256, settings: Settings | None = None
    ) -> gymnasium.Env:
        """Return an environment whose episodes are a pure function of `reset(seed=)` and the actions.

        `render` makes `env.render()` give RGB frames of `size` pixels. `settings` are what the dataset's file said
        about its environment (`provenance["environment"]` of its store); without them the published ones are used.
        A missing simulator raises UserError. Goal-conditioned ones give the episode's goal [G] in the `info` of
        `reset` as "goal", and observations without it. With cameras an observation is a dict of pictures [H, W, C]
        uint8 and `state` [O], or, where the picture of one camera is all there is, that picture.
        """
        raise NotImplementedError

    def read(self, path: Path, env_name: str) -> Iterator[Episode]:
        """Yield the episodes of a file of this source's format; a damaged one raises DatasetError."""
        raise NotImplementedError

    def max_episode_steps(self, env_name: str) -> int:
        """Return the time limit of an episode."""
        raise NotImplementedError

    def has_success(self, env_name: str) -> bool:
        """Return whether the task tells success (in `info["success"]`)."""
        raise NotImplementedError

    def normalized_score(
        self, env_name: str, returns: np.ndarray, settings: Settings | None = None
    ) -> np.ndarray | None:
        """Return scores where 0 is the published random policy and 100 the published expert, if there are such."""
        return None

    def is_goal_conditioned(self, env_name: str) -> bool:
        """Return whether a policy for this task must be told a goal."""
        return False

    def write(self, path: Path, episodes: Iterable[Episode], env_name: str, provenance: Mapping[str, Any]) -> None:
        """Write episodes as a file (or folder) of this source's format, which `read` gives back unchanged.

        The inverse of `read`: its conventions for rewards are undone. Written beside `path` and renamed when whole.
        """
        raise UserError(f"understudy cannot write {self.name} files")

    def stored_reward(self, env_name: str, reward: float) -> float:
        """Return a reward of `make_env`'s environment as `read` gives it: the same, unless the store shifts rewards."""
        return reward

    def remote(self, env_name: str) -> Remote | None:
        """Return where the dataset is published, None for names that are made here."""
        return None

    def name_of(self, path: Path) -> str:
        """Return the dataset's name that a file's (or folder's) own name says, for imports without a name."""
        return path.stem

    def local(self, env_name: str) -> Path | None:
        """Return where the dataset's files lie if its name says so: training imports them when they are new.

        A place where there is no dataset raises DatasetError.
        """
        return None

    def found(self, env_name: str) -> Path | None:
        """Return where this source's own tools have left the dataset on this machine; None where they have not."""
        return None

    def downloadable(self, env_name: str) -> bool:
        """Return whether `download` knows where to fetch the dataset."""
        return self.remote(env_name) is not None

    def import_commands(self, env_name: str) -> list[str]:
        """Return the commands that import a file of one's own as this dataset."""
        what = "FILE" if self.suffix else "FOLDER"
        return [f"understudy data import {self.name} {what} --name {shlex.quote(env_name)}"]

    def is_published(self, env_name: str) -> bool:
        """Return whether the name is, or may be, one of data that others have published."""
        return self.remote(env_name) is not None

    def download(self, env_name: str, folder: Path, progress: Callable[[int, int], None] | None = None) -> Path:
        """Fetch the published dataset into `folder` and return what `read` takes; DownloadError in one line.

        `progress` is called with (bytes so far, bytes in all; 0 where the server does not say).
        """
        from understudy.envs.sources.published import fetch_published

        return fetch_published(self.task(env_name), folder, progress)

    def expert(self, env_name: str) -> Expert | None:
        """Return a new scripted expert for the task, if there is one."""
        return None

    def simulator_state(self, env: gymnasium.Env) -> dict[str, np.ndarray]:
        """Return what the format stores of a simulator's state beside the observation, such as qpos; one row each."""
        return {}

    def control_hz(self, env_name: str) -> float | None:
        """Return how many actions the environment takes a second, None where that is not known."""
        return None

    def rendering(self, env_name: str, options: Mapping[str, str]) -> Settings | None:
        """Return the settings of `make_env` for pictures made with these options, defaults included, as JSON values.

        None for tasks without pictures, which take no options. What is unknown or out of range raises UserError.
        """
        if options:
            raise UserError(f"{env_name}: has no pictures, so it takes no rendering options ({next(iter(options))})")
        return None

    def without_pictures(self, env_name: str, settings: Settings | None) -> tuple[str, Settings | None] | None:
        """Return name and settings of the same simulator without pictures; None where there are none to render.

        Demonstrations are then played there, and what `env_name`'s own environment shows of the recorded states is
        rendered afterwards (`observed`), in parallel and for the episodes that are kept only.
        """
        return None

    def observed(self, env: gymnasium.Env, state: Mapping[str, np.ndarray]) -> Any:
        """Return what `env` shows of a recorded simulator state: an observation, or a dict of the pictures in it.

        `state` is one row of each column of `simulator_state`; `env` was reset with the seed of that row's episode.
        Must equal, bit for bit, what playing in `env` would have shown.
        """
        raise UserError(f"{self.name}: pictures of recorded states cannot be rendered")

    def files(self, path: Path) -> list[Path]:
        """Return the data files that `path` stands for (itself; some sources take a folder)."""
        return [path]

    def provenance(self, path: Path, env_name: str) -> dict[str, Any]:
        """Return what the manifest should say about how these data were made; `environment` is for `make_env`.

        `notes` are lines for people, on what of the file was found odd or is not as it seems.
        """
        return {}

    def declared(self, path: Path, env_name: str) -> Mapping[str, Declared]:
        """Return what the file says of its pictures, by column: the order of their axes, the bounds of their values."""
        return {}


class _NamedTask(Task):
    """A task of a source that reads the name in every method."""

    @property
    def env_id(self) -> str:
        return self.source.env_id(self.env_name)

    @property
    def max_episode_steps(self) -> int:
        return self.source.max_episode_steps(self.env_name)

    @property
    def has_success(self) -> bool:
        return self.source.has_success(self.env_name)

    def make_env(self, *, render: bool = False, size: int = 256, settings: Settings | None = None) -> gymnasium.Env:
        return self.source.make_env(self.env_name, render=render, size=size, settings=settings)

    @property
    def goal_conditioned(self) -> bool:
        return self.source.is_goal_conditioned(self.env_name)

    @property
    def control_hz(self) -> float | None:
        return self.source.control_hz(self.env_name)

    def normalized_score(self, returns: np.ndarray, settings: Settings | None = None) -> np.ndarray | None:
        return self.source.normalized_score(self.env_name, returns, settings)

    def stored_reward(self, reward: float) -> float:
        return self.source.stored_reward(self.env_name, reward)

    def read(self, path: Path) -> Iterator[Episode]:
        return self.source.read(path, self.env_name)

    def provenance(self, path: Path) -> dict[str, Any]:
        return self.source.provenance(path, self.env_name)

    def declared(self, path: Path) -> Mapping[str, Declared]:
        return self.source.declared(path, self.env_name)

    @property
    def remote(self) -> Remote | None:
        return self.source.remote(self.env_name)

    @property
    def downloadable(self) -> bool:
        return self.source.downloadable(self.env_name)

    @property
    def is_published(self) -> bool:
        return self.source.is_published(self.env_name)

    def local(self) -> Path | None:
        return self.source.local(self.env_name)

    def found(self) -> Path | None:
        return self.source.found(self.env_name)

    def import_commands(self) -> list[str]:
        return self.source.import_commands(self.env_name)

    def download(self, folder: Path, progress: Callable[[int, int], None] | None = None) -> Path:
        return self.source.download(self.env_name, folder, progress)

    def expert(self) -> Expert | None:
        return self.source.expert(self.env_name)

    def simulator_state(self, env: gymnasium.Env) -> dict[str, np.ndarray]:
        return self.source.simulator_state(env)

    def rendering(self, options: Mapping[str, str]) -> Settings | None:
        return self.source.rendering(self.env_name, options)

    def without_pictures(self, settings: Settings | None) -> tuple[str, Settings | None] | None:
        return self.source.without_pictures(self.env_name, settings)

    def observed(self, env: gymnasium.Env, state: Mapping[str, np.ndarray]) -> Any:
        return self.source.observed(env, state)


def source_for(env_name: str) -> Source:
    """Return the source that a dataset's name belongs to, or raise UnknownName with the nearest known name."""
    for _, source in sources.items():
        if source.matches(env_name):
            return source
    known = [name for _, source in sources.items() for name in source.known_names()]
    raise UnknownName(f"unknown environment {env_name!r}{did_you_mean(env_name, known, limit=6)}")


def task_of(env_name: str) -> Task:
    """Return the task that a dataset's name stands for, or raise UnknownName with the nearest known name."""
    return source_for(env_name).task(env_name)


def is_goal_conditioned(env_name: str) -> bool:
    """Return whether a policy for the dataset's task must be told a goal; no, for names of no source."""
    return any(source.matches(env_name) and source.task(env_name).goal_conditioned for _, source in sources.items())


def missing_package(env_name: str, package: str, extra: str) -> UserError:
    """Return the error for a simulator that is not installed."""
    return UserError(f"{env_name}: its simulator needs {package!r}; {to_install(extra)}")
