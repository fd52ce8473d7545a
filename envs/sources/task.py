"""What a dataset's name stands for, once it is read: one task, its environment, its files, its scores.

`Source.task(env_name)` makes one; whoever has it asks it and never reads the name again. Simulators are imported
inside methods, so that reading a store needs none of them.
"""

from __future__ import annotations

import abc
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from understudy.envs.files.downloads import OnBytes, Remote, Unreachable, fetch, place_of
from understudy.envs.store.column_kinds import Declared
from understudy.errors import UserError
from understudy.files import typed

if TYPE_CHECKING:
    import gymnasium

    from understudy.envs.sources.source import Source

Episode = Mapping[str, Any]
"""observations [T, *O], actions [T, A], rewards [T], terminals [T], optionally final_observation [*O] and more.

Pictures are `images/<camera>` [T, H, W, C] uint8, the ones after the last action `final_images/<camera>` [H, W, C];
`language` is text.
"""
Settings = Mapping[str, Any]
"""What a file says about its environment (robomimic's env_args, Minari's env_spec): JSON-able."""


class Expert(Protocol):
    """Something that solves a task: a scripted controller or a trained policy."""

    def reset(self, env: Any, observation: Any, info: dict[str, Any], rng: np.random.Generator) -> None:
        """Start an episode; whatever is random in it comes from `rng`."""
        ...

    def act(self, env: Any, observation: Any, info: dict[str, Any]) -> np.ndarray:
        """Return the action [A] for the state that `env` is in."""
        ...


@dataclass(frozen=True)
class Task(abc.ABC):
    """One dataset of a source and its environment; subclasses add what else its name says, as typed fields."""

    source: Source
    env_name: str
    """The dataset's name."""

    def __reduce__(self) -> tuple[Any, tuple[str, str]]:
        """Go to other processes by name: reading it there loads the plug-ins that registered it and its environment."""
        return _read_again, (self.source.name, self.env_name)

    # ---- the environment ----

    @property
    @abc.abstractmethod
    def env_id(self) -> str:
        """The environment's own name (a gymnasium id where there is one)."""

    def env_id_in(self, provenance: Mapping[str, Any]) -> str:
        """Return the environment's own name, where files may say it; empty where there is none."""
        return self.env_id

    @property
    @abc.abstractmethod
    def max_episode_steps(self) -> int:
        """Time limit of an episode."""

    @property
    @abc.abstractmethod
    def has_success(self) -> bool:
        """Whether the task tells success (in `info["success"]`)."""

    @abc.abstractmethod
    def make_env(self, *, render: bool = False, size: int = 256, settings: Settings | None = None) -> gymnasium.Env:
        """Return an environment whose episodes are a pure function of `reset(seed=)` and the actions.

        `render` makes `env.render()` give RGB frames of `size` pixels. `settings` are what the dataset's file said
        about its environment (`provenance["environment"]` of its store); without them the published ones are used.
        A missing simulator raises UserError. Goal-conditioned ones give the episode's goal [G] in the `info` of
        `reset` as "goal", and observations without it. With cameras an observation is a dict of pictures [H, W, C]
        uint8 and `state` [O], or, where the picture of one camera is all there is, that picture.
        """

    @property
    def playable(self) -> bool:
        """Whether there is an environment that policies can be evaluated in, on some machine."""
        return True

    @property
    def goal_conditioned(self) -> bool:
        """Whether a policy for this task must be told a goal."""
        return False

    @property
    def action_names(self) -> tuple[str, ...]:
        """What each number of an action is: x, y, z (of the hand), roll, pitch, yaw, gripper; () where nobody says."""
        return ()

    @property
    def control_hz(self) -> float | None:
        """Actions that the environment takes a second, None where that is not known."""
        return None

    def normalized_score(self, returns: np.ndarray, settings: Settings | None = None) -> np.ndarray | None:
        """Return scores where 0 is the published random policy and 100 the published expert, if there are such."""
        return None

    def stored_reward(self, reward: float) -> float:
        """Return a reward of `make_env`'s environment as `read` gives it: the same, unless the store shifts rewards."""
        return reward

    # ---- its files ----

    @abc.abstractmethod
    def read(self, path: Path) -> Iterator[Episode]:
        """Yield the episodes of a file of the source's format; a damaged one raises DatasetError."""

    def provenance(self, path: Path) -> dict[str, Any]:
        """Return what the manifest should say about how these data were made; `environment` is for `make_env`.

        `notes` are lines for people, on what of the file was found odd or is not as it seems.
        """
        return {}

    def declared(self, path: Path) -> Mapping[str, Declared]:
        """Return what the file says of its pictures, by column: the order of their axes, the bounds of their values."""
        return {}

    @property
    def remote(self) -> Remote | None:
        """Where the dataset is published, None for names that are made here."""
        return None

    @property
    def downloadable(self) -> bool:
        """Whether `download` knows where to fetch the dataset."""
        return self.remote is not None

    @property
    def is_published(self) -> bool:
        """Whether the name is, or may be, one of data that others have published."""
        return self.remote is not None

    def local(self) -> Path | None:
        """Return where the dataset's files lie if its name says so: training imports them when they are new.

        A place where there is no dataset raises DatasetError.
        """
        return None

    def found(self) -> Path | None:
        """Return where the source's own tools have left the dataset on this machine; None where they have not."""
        return None

    def below(self, root: Path) -> Path | None:
        """Return where the dataset's files lie in a folder with files of several (`data_path`); None: not there."""
        file = root / self.remote.file_name if self.remote else None
        return file if file is not None and file.is_file() else None

    def like_in(self, root: Path) -> str:
        """Return a hint on what else such a folder has, for messages."""
        return ""

    def import_commands(self) -> list[str]:
        """Return the commands that import a file of one's own as this dataset."""
        what = "FILE" if self.source.suffix else "FOLDER"
        return [f"understudy data import {self.source.name} {what} --name {typed(self.env_name)}"]

    def download(self, folder: Path, progress: OnBytes | None = None) -> Path:
        """Fetch the published dataset into `folder` and return what `read` takes; DownloadError in one line.

        `progress` is called with (bytes so far, bytes in all; 0 where the server does not say).
        """
        return self.fetch_file(folder, progress)

    def fetch_file(
        self,
        folder: Path,
        progress: OnBytes | None = None,
        *,
        remote: Remote | None = None,
        overwrite: bool = False,
    ) -> Path:
        """Fetch the published file (or `remote`) into `folder`; offline, say how to bring the file here."""
        remote = remote or self.remote
        if remote is None:
            model = "" if self.expert() else " --policy MODEL"
            how = f"make it with `understudy data generate {typed(self.env_name)}{model}`, or give its --url"
            raise UserError(f"{self.env_name}: no address of it is known; {how}")
        target = place_of(remote, folder)
        try:
            return fetch(remote, target, progress, overwrite=overwrite)
        except Unreachable as error:
            command = f"understudy data import {self.source.name} {typed(target)} --name {typed(self.env_name)}"
            how = f"fetch it where there is internet, copy it to {target}, run `{command}`"
            raise Unreachable(f"{error}; {how}") from error

    # ---- demonstrations that are made here ----

    def expert(self) -> Expert | None:
        """Return a new scripted expert for the task, if there is one."""
        return None

    def simulator_state(self, env: gymnasium.Env) -> dict[str, np.ndarray]:
        """Return what the format stores of a simulator's state beside the observation, such as qpos; one row each."""
        return {}

    def gripper_closed(self, env: gymnasium.Env) -> float | None:
        """Return how far the gripper is closed, 0 to 1; None where the task has none, or does not tell."""
        return None

    def rendering(self, options: Mapping[str, str]) -> Settings | None:
        """Return the settings of `make_env` for pictures made with these options, defaults included, as JSON values.

        None for tasks without pictures, which take no options. What is unknown or out of range raises UserError.
        """
        if options:
            name = next(iter(options))
            raise UserError(f"{self.env_name}: has no pictures, so it takes no rendering options ({name})")
        return None

    def without_pictures(self, settings: Settings | None) -> tuple[str, Settings | None] | None:
        """Return name and settings of the same simulator without pictures; None where there are none to render.

        Demonstrations are then played there, and what this task's own environment shows of the recorded states is
        rendered afterwards (`observed`), in parallel and for the episodes that are kept only.
        """
        return None

    def observed(self, env: gymnasium.Env, state: Mapping[str, np.ndarray]) -> Any:
        """Return what `env` shows of a recorded simulator state: an observation, or a dict of the pictures in it.

        `state` is one row of each column of `simulator_state`; `env` was reset with the seed of that row's episode.
        Must equal, bit for bit, what playing in `env` would have shown.
        """
        raise UserError(f"{self.source.name}: pictures of recorded states cannot be rendered")


def _read_again(source: str, env_name: str) -> Any:
    from understudy.registry import sources

    found = sources.get(source)
    task = found.parse(env_name) or found.registered(env_name)
    assert task is not None, env_name
    return task
