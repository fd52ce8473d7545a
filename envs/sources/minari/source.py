"""Minari (Farama Foundation): datasets of gymnasium environments, read and written by the minari library.

A dataset's name is `minari:` and Minari's id: `minari:D4RL/pointmaze/umaze-v2`. It is a folder with
`data/metadata.json` and `data/main_data.hdf5` (or one folder of arrow or parquet an episode). Pictures in dict spaces
are cameras; the rest of dict, tuple and discrete spaces is flattened as `gymnasium.spaces.flatten` does, in the order
of the space in the file, so a goal that is part of the observation is seen by the policy. What the file says about its
environment is kept for `make_env`.

The types `scripted` and `policy` are made here: `minari:pointmaze/umaze-scripted-v0`.
"""

from __future__ import annotations

import importlib.util
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from understudy.envs.files.downloads import OnBytes
from understudy.envs.sources.minari import files as minari_files
from understudy.envs.sources.minari.envs import describe_registered, recover
from understudy.envs.sources.minari.writing import write_episodes
from understudy.envs.sources.source import Source
from understudy.envs.sources.task import Episode, Expert, Settings, Task
from understudy.envs.store.column_kinds import Declared
from understudy.errors import DatasetError, UserError, to_install
from understudy.files import tools_path
from understudy.registry import sources

if TYPE_CHECKING:
    import gymnasium

NAME = re.compile(r"minari:(?P<id>(?:[\w-]+/)*[\w-]+-v\d+)")
MADE_HERE_NAME = re.compile(r"(?P<task>.+?)[-/](?:scripted|policy)-v\d+")


@dataclass(frozen=True)
class MadeHere:
    """A task whose data are made here."""

    env_id: str
    max_steps: int
    tells_success: bool
    arguments: Mapping[str, Any] = field(default_factory=dict, hash=False)

    @property
    def settings(self) -> Settings:
        """What a file would say of the environment."""
        return {"env_spec": {"id": self.env_id, "kwargs": self.arguments, "max_episode_steps": self.max_steps}}


ONE_GOAL = {"continuing_task": False, "reset_target": False}
TASKS = {
    "pointmaze/umaze": MadeHere("PointMaze_UMaze-v3", 300, True, ONE_GOAL),
    "pointmaze/medium": MadeHere("PointMaze_Medium-v3", 600, True, ONE_GOAL),
    "pendulum": MadeHere("Pendulum-v1", 200, False),
}
PUBLISHED = {
    "D4RL/pointmaze": ("open-v2", "umaze-v2", "medium-v2", "large-v2", "umaze-dense-v2", "medium-dense-v2"),
    "D4RL/antmaze": ("umaze-v1", "umaze-diverse-v1", "medium-play-v1", "medium-diverse-v1", "large-play-v1"),
    **{f"D4RL/{task}": ("human-v2", "cloned-v2", "expert-v2") for task in ("pen", "hammer", "door", "relocate")},
    "D4RL/kitchen": ("complete-v2", "partial-v2", "mixed-v2"),
    **{f"mujoco/{task}": ("simple-v0", "medium-v0", "expert-v0") for task in ("halfcheetah", "hopper", "walker2d")},
}
"""Some of the published ids, for error messages; any other will do."""
TELLS_SUCCESS = ("pointmaze", "antmaze", "pen/", "hammer/", "door/", "relocate/")
LIMIT = 1000
"""Steps of an episode where nothing says how many."""


@dataclass(frozen=True)
class MinariTask(Task):
    """A dataset of Minari's."""

    dataset_id: str
    made: MadeHere | None
    """The task, where its data are made here; None for a published dataset: its file names the environment."""

    @property
    def env_id(self) -> str:
        """The gymnasium id of the tasks made here, else the dataset's id: its file names the environment."""
        return self.made.env_id if self.made else self.dataset_id

    def make_env(self, *, render: bool = False, size: int = 256, settings: Settings | None = None) -> gymnasium.Env:
        """Return the environment that the dataset's file describes; its evaluation environment where it has one."""
        known = settings or (self.made.settings if self.made else None)
        if known is None:
            raise UserError(f"{self.env_name}: its file names its environment; import the dataset first")
        return recover(self.env_name, known, render=render, size=size)

    @property
    def max_episode_steps(self) -> int:
        """The limit of the tasks made here, else 1000: the environment's own limit is in its file."""
        return self.made.max_steps if self.made else LIMIT

    @property
    def has_success(self) -> bool:
        """Whether the task is one that is known to tell success."""
        return self.made.tells_success if self.made else any(word in self.env_name for word in TELLS_SUCCESS)

    def normalized_score(self, returns: np.ndarray, settings: Settings | None = None) -> np.ndarray | None:
        """Return scores between the file's reference scores, None where it has none."""
        low, high = (settings or {}).get("ref_min_score"), (settings or {}).get("ref_max_score")
        if low is None or high is None or low == high:
            return None
        return 100.0 * (np.asarray(returns, np.float64) - low) / (high - low)

    def provenance(self, path: Path) -> dict[str, Any]:
        """Return what the metadata say: the environment with its spaces, and who made the data."""
        _need_minari(self.env_name)
        return minari_files.provenance(path)

    def declared(self, path: Path) -> Mapping[str, Declared]:
        """Return the bounds of pictures, which the observations' space gives."""
        _need_minari(self.env_name)
        return minari_files.declared(path)

    def read(self, path: Path) -> Iterator[Episode]:
        """Yield the episodes of a dataset's folder, or of the folder of datasets that it is in."""
        _need_minari(self.env_name)
        yield from minari_files.read_episodes(path, lambda settings: recover(self.env_name, settings))

    def expert(self) -> Expert | None:
        """Return a scripted expert for the tasks made here."""
        from understudy.envs.sources.minari.experts import EnergyPendulum, MazeWalker

        if self.made is None:
            return None
        return EnergyPendulum() if self.made is TASKS["pendulum"] else MazeWalker()

    def found(self) -> Path | None:
        """Return the folder that minari has fetched or recorded, in $MINARI_DATASETS_PATH or ~/.minari/datasets."""
        root = tools_path(os.environ.get("MINARI_DATASETS_PATH", "~/.minari/datasets"))
        folder = root / self.dataset_id
        return folder if (folder / "data" / minari_files.METADATA).is_file() else None

    @property
    def downloadable(self) -> bool:
        """Whether Minari's hub may have it: every name but those of data made here."""
        return self.made is None

    @property
    def is_published(self) -> bool:
        """Whether others have published it: every name but those of data made here."""
        return self.made is None

    def download(self, folder: Path, progress: OnBytes | None = None) -> Path:
        """Fetch a published dataset with minari's own client into `folder/<dataset id>` and return that folder.

        `progress(bytes so far, bytes in all)` is called once, at the end. No connection is a DownloadError of one line.
        """
        _need_minari(self.env_name)
        return minari_files.download(self.dataset_id, folder, progress)


class Minari(Source):
    """Minari's datasets, and environments as their files say."""

    name = "minari"
    title = "Minari"
    example = "minari:D4RL/pointmaze/umaze-v2"
    unit_actions = False

    def parse(self, env_name: str) -> MinariTask | None:
        """Return the task of a name `minari:<dataset id>`."""
        found = NAME.fullmatch(env_name)
        return None if found is None else MinariTask(self, env_name, found["id"], made_here(found["id"]))

    def known_names(self) -> list[str]:
        """Return the scripted names and some of the published ones."""
        published = [f"minari:{space}/{name}" for space, names in PUBLISHED.items() for name in names]
        return [*published, *(f"minari:{task}{'-' if '/' in task else '/'}scripted-v0" for task in TASKS)]

    def files(self, path: Path) -> list[Path]:
        """Return the files of the dataset's folder."""
        return minari_files.data_files(path)

    def write(self, path: Path, episodes: Iterable[Episode], env_name: str, provenance: Mapping[str, Any]) -> None:
        """Write a dataset's folder; Minari finds it by its id where `path` is `$MINARI_DATASETS_PATH/<id>`."""
        _need_minari(env_name)
        given, made = provenance.get("environment") or {}, made_here(dataset_id(env_name))
        settings = (
            given if "observation_space" in given else describe_registered(env_name, made.settings if made else None)
        )
        described, forms = str(provenance.get("made_by", "")), provenance.get("forms")
        write_episodes(path, episodes, dataset_id(env_name), settings, described, forms)


def dataset_id(env_name: str) -> str:
    """Return Minari's id of a dataset; names of other sources become one that Minari accepts."""
    found = NAME.fullmatch(env_name)
    if found is not None:
        return found["id"]
    if env_name.startswith("minari:"):
        raise DatasetError(f"{env_name!r} is no Minari name, like minari:D4RL/pointmaze/umaze-v2")
    plain = re.sub(r"[^\w/-]", "/" if ":" in env_name else "_", env_name)
    return plain if re.search(r"-v\d+$", plain) else f"{plain}-v0"


def made_here(dataset_id: str) -> MadeHere | None:
    """Return the task of a dataset that is made here, None for a published one."""
    found = MADE_HERE_NAME.fullmatch(dataset_id)
    return TASKS.get(found["task"]) if found is not None else None


def _need_minari(env_name: str) -> None:
    if importlib.util.find_spec("minari") is None:
        raise UserError(f"{env_name}: needs 'minari'; {to_install('envs')}")


sources.register("minari")(Minari())
