"""robomimic (Mandlekar et al. 2021, arXiv 2108.03298): human demonstrations in HDF5, low-dimensional observations.

An observation is the concatenation of OBSERVATION_KEYS, in that order. Demonstrations are taken in numeric order
(demo_2 before demo_10); rewards are minus 1, so that they are -1 until the task is solved. Names are
`<task>-<mh|ph>-low_dim`. The tasks play in robosuite with the settings that the file itself carries (`env_args`),
which the manifest's provenance keeps.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from understudy.envs.reading import open_hdf5, read_dataset
from understudy.envs.source import Episode, Settings, Source
from understudy.errors import DatasetError, UserError
from understudy.registry import sources

if TYPE_CHECKING:
    import gymnasium

TASKS = {"lift": ("Lift", 300), "can": ("PickPlaceCan", 300), "square": ("NutAssemblySquare", 400),
         "transport": ("TwoArmTransport", 800), "tool_hang": ("ToolHang", 1000)}  # fmt: skip
"""robosuite's environment and the episode limit of each task."""
TYPES = ("mh", "ph")
NAME = re.compile(rf"(?P<task>{'|'.join(TASKS)})-(?P<type>{'|'.join(TYPES)})-low_dim")
ARM_KEYS = ("eef_pos", "eef_quat", "gripper_qpos")
DEMO = re.compile(r"demo_(\d+)")


class Robomimic(Source):
    """robomimic's low_dim datasets."""

    name = "robomimic"
    suffix = ".hdf5"

    def matches(self, env_name: str) -> bool:
        """Say whether the name is like lift-mh-low_dim."""
        return NAME.fullmatch(env_name) is not None

    def known_names(self) -> list[str]:
        """Return the published low_dim datasets' names."""
        return [f"{task}-{kind}-low_dim" for task in TASKS for kind in TYPES if (task, kind) != ("tool_hang", "mh")]

    def env_id(self, env_name: str) -> str:
        """Return robosuite's name of the environment."""
        return TASKS[_task(env_name)][0]

    def make_env(
        self, env_name: str, *, render: bool = False, size: int = 256, settings: Settings | None = None
    ) -> gymnasium.Env:
        """Raise UserError: robosuite is no part of understudy's environments."""
        raise UserError(f"{env_name}: understudy has no robosuite rollouts; train with eval_episodes=0")

    def max_episode_steps(self, env_name: str) -> int:
        """Return the task's usual limit."""
        return TASKS[_task(env_name)][1]

    def has_success(self, env_name: str) -> bool:
        """Every task tells success."""
        return True

    def provenance(self, path: Path, env_name: str) -> dict[str, Any]:
        """Return the file's env_args: robosuite's version and settings."""
        with open_hdf5(path) as file:
            if "data" not in file:
                raise DatasetError(f"{path}: no group 'data'; is it a robomimic file?")
            text = file["data"].attrs.get("env_args")
        if text is None:
            return {"env_args": None, "rewards": "minus 1"}
        try:
            return {"env_args": json.loads(text), "rewards": "minus 1"}
        except ValueError as error:
            raise DatasetError(f"{path}: env_args is not JSON ({error})") from error

    def read(self, path: Path, env_name: str) -> Iterator[Episode]:
        """Yield the demonstrations in numeric order."""
        keys = observation_keys(env_name)
        with open_hdf5(path) as file:
            if "data" not in file:
                raise DatasetError(f"{path}: no group 'data'; is it a robomimic file?")
            demos = [name for name in file["data"] if DEMO.fullmatch(name)]
            if not demos:
                raise DatasetError(f"{path}: no demonstrations (data/demo_0, ...)")
            for demo in sorted(demos, key=lambda name: int(name.removeprefix("demo_"))):
                yield _read_demo(path, file, f"data/{demo}", keys)


def observation_keys(env_name: str) -> list[str]:
    """Return the keys whose arrays make an observation: each arm's, then the objects'."""
    arms = ("robot0", "robot1") if _task(env_name) == "transport" else ("robot0",)
    return [f"{arm}_{key}" for arm in arms for key in ARM_KEYS] + ["object"]


def _read_demo(path: Path, file: Any, group: str, keys: list[str]) -> Episode:
    actions = read_dataset(path, file, f"{group}/actions")
    episode = {
        "observations": _observations(path, file, f"{group}/obs", keys),
        "actions": actions,
        "rewards": read_dataset(path, file, f"{group}/rewards") - 1.0,
        "terminals": read_dataset(path, file, f"{group}/dones") != 0,
    }
    for name, array in episode.items():
        if len(array) != len(actions):
            raise DatasetError(f"{path}: {group} has {len(actions)} actions but {len(array)} {name}")
    if f"{group}/next_obs" in file and len(actions):
        episode["final_observation"] = _observations(path, file, f"{group}/next_obs", keys)[-1]
    return episode


def _observations(path: Path, file: Any, group: str, keys: list[str]) -> np.ndarray:
    parts = [read_dataset(path, file, f"{group}/{key}") for key in keys]
    if len({len(part) for part in parts}) != 1 or any(part.ndim != 2 for part in parts):
        shapes = ", ".join(f"{key} {part.shape}" for key, part in zip(keys, parts, strict=True))
        raise DatasetError(f"{path}: {group} has arrays that do not fit together: {shapes}")
    return np.concatenate(parts, axis=1, dtype=np.float32)


def _task(env_name: str) -> str:
    found = NAME.fullmatch(env_name)
    if found is None:
        raise DatasetError(f"{env_name!r} is not a robomimic name, such as lift-mh-low_dim")
    return found["task"]


sources.register("robomimic")(Robomimic())
