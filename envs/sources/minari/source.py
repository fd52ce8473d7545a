"""Minari (Farama Foundation): datasets of gymnasium environments, read and written by the minari library.

A dataset's name is `minari:` and Minari's id: `minari:D4RL/pointmaze/umaze-v2`. It is a folder with
`data/metadata.json` and `data/main_data.hdf5` (or one folder of arrow or parquet an episode). Observations of dict,
tuple and discrete spaces are flattened as `gymnasium.spaces.flatten` does, in the order of the space in the file; so a
goal that is part of the observation is seen by the policy. What the file says about its environment is kept for
`make_env`.

The types `scripted` and `policy` are made here: `minari:pointmaze/umaze-scripted-v0`.
"""

from __future__ import annotations

import importlib.util
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from understudy.envs.sources.minari import files as minari_files
from understudy.envs.sources.minari.envs import describe_registered, recover
from understudy.envs.sources.source import Source
from understudy.envs.sources.task import Episode, Expert, Settings
from understudy.envs.store.kinds import Declared
from understudy.errors import DatasetError, UserError, to_install
from understudy.files import tools_path
from understudy.registry import sources

if TYPE_CHECKING:
    import gymnasium

NAME = re.compile(r"minari:(?P<id>(?:[\w-]+/)*[\w-]+-v\d+)")
MADE_HERE = re.compile(r"(?P<task>.+?)[-/](?:scripted|policy)-v\d+")
TASKS: dict[str, tuple[str, dict[str, Any], int, bool]] = {
    "pointmaze/umaze": ("PointMaze_UMaze-v3", {"continuing_task": False, "reset_target": False}, 300, True),
    "pointmaze/medium": ("PointMaze_Medium-v3", {"continuing_task": False, "reset_target": False}, 600, True),
    "pendulum": ("Pendulum-v1", {}, 200, False),
}
"""Gymnasium id, arguments, episode limit and whether success is told, of the tasks whose data are made here."""
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


class Minari(Source):
    """Minari's datasets, and environments as their files say."""

    name = "minari"
    unit_actions = False

    def matches(self, env_name: str) -> bool:
        """Return whether the name is `minari:<dataset id>`."""
        return NAME.fullmatch(env_name) is not None

    def known_names(self) -> list[str]:
        """Return the scripted names and some of the published ones."""
        published = [f"minari:{space}/{name}" for space, names in PUBLISHED.items() for name in names]
        return [*published, *(f"minari:{task}{'-' if '/' in task else '/'}scripted-v0" for task in TASKS)]

    def env_id(self, env_name: str) -> str:
        """Return the gymnasium id of the tasks made here, else the dataset's id: its file names the environment."""
        task = _task(env_name)
        return TASKS[task][0] if task else dataset_id(env_name)

    def make_env(
        self, env_name: str, *, render: bool = False, size: int = 256, settings: Settings | None = None
    ) -> gymnasium.Env:
        """Return the environment that the dataset's file describes; its evaluation environment where it has one."""
        return recover(env_name, self._settings(env_name, settings), render=render, size=size)

    def max_episode_steps(self, env_name: str) -> int:
        """Return the limit of the tasks made here, else 1000: the environment's own limit is in its file."""
        task = _task(env_name)
        return TASKS[task][2] if task else LIMIT

    def has_success(self, env_name: str) -> bool:
        """Return whether the task is one that is known to tell success."""
        task = _task(env_name)
        return TASKS[task][3] if task else any(word in env_name for word in TELLS_SUCCESS)

    def normalized_score(
        self, env_name: str, returns: np.ndarray, settings: Settings | None = None
    ) -> np.ndarray | None:
        """Return scores between the file's reference scores, None where it has none."""
        low, high = (settings or {}).get("ref_min_score"), (settings or {}).get("ref_max_score")
        if low is None or high is None or low == high:
            return None
        return 100.0 * (np.asarray(returns, np.float64) - low) / (high - low)

    def files(self, path: Path) -> list[Path]:
        """Return the files of the dataset's folder."""
        return minari_files.data_files(path)

    def provenance(self, path: Path, env_name: str) -> dict[str, Any]:
        """Return what the metadata say: the environment with its spaces, and who made the data."""
        _need_minari(env_name)
        return minari_files.provenance(path)

    def declared(self, path: Path, env_name: str) -> Mapping[str, Declared]:
        """Return the bounds of pictures, which the observations' space gives."""
        _need_minari(env_name)
        return minari_files.declared(path)

    def read(self, path: Path, env_name: str) -> Iterator[Episode]:
        """Yield the episodes of a dataset's folder, or of the folder of datasets that it is in."""
        _need_minari(env_name)
        yield from minari_files.read_episodes(path, lambda settings: recover(env_name, settings))

    def write(self, path: Path, episodes: Iterable[Episode], env_name: str, provenance: Mapping[str, Any]) -> None:
        """Write a dataset's folder; Minari finds it by its id where `path` is `$MINARI_DATASETS_PATH/<id>`."""
        _need_minari(env_name)
        given = provenance.get("environment") or {}
        settings = given if "observation_space" in given else describe_registered(env_name, self._known(env_name))
        minari_files.write_episodes(path, episodes, dataset_id(env_name), settings, str(provenance.get("made_by", "")))

    def expert(self, env_name: str) -> Expert | None:
        """Return a scripted expert for the tasks made here."""
        from understudy.envs.sources.minari.experts import EnergyPendulum, MazeWalker

        task = _task(env_name)
        if task is None:
            return None
        return MazeWalker() if task.startswith("pointmaze") else EnergyPendulum()

    def found(self, env_name: str) -> Path | None:
        """Return the folder that minari has fetched or recorded, in $MINARI_DATASETS_PATH or ~/.minari/datasets."""
        root = tools_path(os.environ.get("MINARI_DATASETS_PATH", "~/.minari/datasets"))
        folder = root / dataset_id(env_name)
        return folder if (folder / "data" / minari_files.METADATA).is_file() else None

    def downloadable(self, env_name: str) -> bool:
        """Return whether Minari's hub may have it: every name but those of data made here."""
        return self.is_published(env_name)

    def is_published(self, env_name: str) -> bool:
        """Return True for every name but those of data made here."""
        return _task(env_name) is None

    def download(self, env_name: str, folder: Path, progress: Callable[[int, int], None] | None = None) -> Path:
        """Fetch a published dataset with minari's own client into `folder/<dataset id>` and return that folder.

        `progress(bytes so far, bytes in all)` is called once, at the end. No connection is a DownloadError of one line.
        """
        _need_minari(env_name)
        return minari_files.download(dataset_id(env_name), folder, progress)

    def _known(self, env_name: str) -> Settings | None:
        task = _task(env_name)
        if task is None:
            return None
        env_id, arguments, limit, _ = TASKS[task]
        return {"env_spec": {"id": env_id, "kwargs": arguments, "max_episode_steps": limit}}

    def _settings(self, env_name: str, settings: Settings | None) -> Settings:
        settings = settings or self._known(env_name)
        if settings is None:
            raise UserError(f"{env_name}: its file names its environment; import the dataset first")
        return settings


def dataset_id(env_name: str) -> str:
    """Return Minari's id of a dataset; names of other sources become one that Minari accepts."""
    found = NAME.fullmatch(env_name)
    if found is not None:
        return found["id"]
    if env_name.startswith("minari:"):
        raise DatasetError(f"{env_name!r} is no Minari name, like minari:D4RL/pointmaze/umaze-v2")
    plain = re.sub(r"[^\w/-]", "/" if ":" in env_name else "_", env_name)
    return plain if re.search(r"-v\d+$", plain) else f"{plain}-v0"


def _task(env_name: str) -> str | None:
    found = MADE_HERE.fullmatch(dataset_id(env_name))
    return found["task"] if found is not None and found["task"] in TASKS else None


def _need_minari(env_name: str) -> None:
    if importlib.util.find_spec("minari") is None:
        raise UserError(f"{env_name}: needs 'minari'; {to_install('envs')}")


sources.register("minari")(Minari())
