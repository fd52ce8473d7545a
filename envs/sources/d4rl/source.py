"""D4RL (Fu et al. 2020, arXiv 2004.07219): MuJoCo, AntMaze, Adroit and Kitchen datasets, without the d4rl package.

d4rl itself needs mujoco_py. The environments are those of `d4rl_envs.py`, where what still differs from d4rl 1.1 is
named; the files are read and written in `d4rl_files.py`. Names are D4RL's; the types `policy` and `scripted` in place
of a published one are for data made here (hopper-policy-v2, antmaze-large-policy-v2, pen-policy-v1, kitchen-policy-v0,
kitchen-mixed-policy-v0). The version of a name says where its file is published; all versions of a task play in one
environment.

In the store AntMaze rewards are minus 1 (0 at the goal, -1 elsewhere), as is usual for these data; the environment
itself pays D4RL's 1 at the goal and 0 elsewhere. `terminals` are the file's. Optional columns: `qpos` and `qvel` of
the simulator (in AntMaze's published files those of the state after the action), and `goals` [2], where the policy
that collected an AntMaze episode was walking to, which is not the goal that the rewards are for.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from understudy.envs.files.downloads import Remote
from understudy.envs.sources.d4rl import envs as d4rl_envs
from understudy.envs.sources.d4rl.files import Layout, described, read_episodes, write_episodes
from understudy.envs.sources.source import Source
from understudy.envs.sources.task import Episode, Settings
from understudy.errors import DatasetError, did_you_mean
from understudy.files import tools_path
from understudy.registry import sources

if TYPE_CHECKING:
    import gymnasium

MUJOCO = {"halfcheetah": (17, 6), "hopper": (11, 3), "walker2d": (17, 6), "ant": (111, 8)}
ADROIT = {"pen": (45, 24), "hammer": (46, 26), "door": (39, 28), "relocate": (39, 30)}
ANTMAZE, KITCHEN = (29, 8), (60, 9)
"""Observation and action dims."""
MUJOCO_TYPES = ("random", "medium", "expert", "medium-replay", "medium-expert", "full-replay")
ADROIT_TYPES = ("human", "cloned", "expert")
ANTMAZE_TYPES = ("umaze", "umaze-diverse", "medium-play", "medium-diverse", "large-play", "large-diverse")
KITCHEN_TYPES = ("complete", "partial", "mixed")
MADE_HERE = ("policy", "scripted")


def _any_of(*words: str) -> str:
    return "|".join(sorted(words, key=len, reverse=True))


NAME = re.compile(
    rf"(?P<task>{_any_of(*MUJOCO)})-(?P<type>{_any_of(*MUJOCO_TYPES, *MADE_HERE)})-v(?P<version>[012])"
    rf"|(?P<hand>{_any_of(*ADROIT)})-(?P<by>{_any_of(*ADROIT_TYPES, *MADE_HERE)})-v(?P<edition>[01])"
    rf"|antmaze-(?P<maze>{_any_of(*ANTMAZE_TYPES)}|(?:umaze|medium|large)-(?:{_any_of(*MADE_HERE)}))-v(?P<release>[012])"
    rf"|kitchen-(?P<kitchen>{_any_of(*KITCHEN_TYPES)}|(?:mixed-)?(?:{_any_of(*MADE_HERE)}))-v0"
)
REFERENCE_SCORES = {
    "halfcheetah": (-280.178953, 12135.0),
    "hopper": (-20.272305, 3234.3),
    "walker2d": (1.629008, 4592.3),
    "ant": (-325.6, 3879.7),
    "antmaze": (0.0, 1.0),
    "pen": (96.262799, 3076.8331017826877),
    "hammer": (-274.856578, 12794.134825156867),
    "door": (-56.512833, 2880.5693087298737),
    "relocate": (-6.425911, 4233.877797728884),
    "kitchen": (0.0, 4.0),
}
"""Mean returns of a random and of an expert policy, from D4RL's `infos.py`."""
PUBLISHED = "http://rail.eecs.berkeley.edu/datasets/offline_rl"


class D4RL(Source):
    """D4RL's datasets and the environments that fit them."""

    name = "d4rl"
    suffix = ".hdf5"

    def matches(self, env_name: str) -> bool:
        """Return whether the name is one of D4RL's, such as halfcheetah-medium-v2."""
        return NAME.fullmatch(env_name) is not None

    def known_names(self) -> list[str]:
        """Return the newest version of each dataset's name."""
        names = [f"{task}-{kind}-v2" for task in MUJOCO for kind in MUJOCO_TYPES]
        names += [f"{task}-{kind}-v1" for task in ADROIT for kind in ADROIT_TYPES]
        names += [f"antmaze-{kind}-v2" for kind in ANTMAZE_TYPES]
        return names + [f"kitchen-{kind}-v0" for kind in KITCHEN_TYPES]

    def env_id(self, env_name: str) -> str:
        """Return the gymnasium id of the simulator; AntMaze's is D4RL's own name."""
        found = self._parse(env_name)
        if found["maze"]:
            return env_name
        return d4rl_envs.FRANKA if found["kitchen"] else d4rl_envs.IDS[found["task"] or found["hand"]]

    def make_env(
        self, env_name: str, *, render: bool = False, size: int = 256, settings: Settings | None = None
    ) -> gymnasium.Env:
        """Return the environment with D4RL's observations, rewards and time limit."""
        found = self._parse(env_name)
        limit = self.max_episode_steps(env_name)
        if found["maze"]:
            return d4rl_envs.make_antmaze(env_name, found["maze"].split("-")[0], limit, render, size)
        if found["kitchen"]:
            return d4rl_envs.make_kitchen(env_name, "mixed" in found["kitchen"], limit, render, size)
        if found["hand"]:
            return d4rl_envs.make_adroit(env_name, found["hand"], limit, render, size)
        return d4rl_envs.make_mujoco(env_name, found["task"], limit, render, size)

    def max_episode_steps(self, env_name: str) -> int:
        """Return D4RL's time limit."""
        found = self._parse(env_name)
        if found["hand"]:
            return 100 if found["hand"] == "pen" else 200
        if found["kitchen"]:
            return 280
        return 700 if (found["maze"] or "").startswith("umaze") else 1000

    def has_success(self, env_name: str) -> bool:
        """Return whether the task tells success: all but the MuJoCo ones do."""
        return not self._parse(env_name)["task"]

    def normalized_score(self, env_name: str, returns: np.ndarray, settings: Settings | None = None) -> np.ndarray:
        """Return 100 (return - random) / (expert - random)."""
        found = self._parse(env_name)
        task = found["task"] or found["hand"] or ("antmaze" if found["maze"] else "kitchen")
        low, high = REFERENCE_SCORES[task]
        return 100.0 * (np.asarray(returns, np.float64) - low) / (high - low)

    def read(self, path: Path, env_name: str) -> Iterator[Episode]:
        """Yield the episodes of one HDF5 file."""
        loose = bool(self._parse(env_name)["maze"])
        for episode in read_episodes(path, self._layout(env_name)):
            if loose:
                episode["rewards"] = episode["rewards"] - 1.0
            yield episode

    def write(self, path: Path, episodes: Iterable[Episode], env_name: str, provenance: Mapping[str, Any]) -> None:
        """Write a D4RL HDF5 file; episodes of other sources' tasks too, with their rewards as they are."""
        found = NAME.fullmatch(env_name)
        loose = found is not None and bool(found["maze"])
        made_by = str(provenance.get("made_by", ""))
        write_episodes(path, episodes, reward_shift=1.0 if loose else 0.0, loose=loose, made_by=made_by)

    def stored_reward(self, env_name: str, reward: float) -> float:
        """Return AntMaze's 0 and 1 as the store's -1 and 0."""
        return reward - 1.0 if self._parse(env_name)["maze"] else reward

    def remote(self, env_name: str) -> Remote | None:
        """Return the published address; no checksums are published."""
        place = _published_place(self._parse(env_name), env_name)
        return Remote(f"{PUBLISHED}/{place}") if place else None

    def found(self, env_name: str) -> Path | None:
        """Return the file that the d4rl package has fetched, in $D4RL_DATASET_DIR or ~/.d4rl/datasets."""
        remote = self.remote(env_name)
        folder = tools_path(os.environ.get("D4RL_DATASET_DIR", "~/.d4rl/datasets"))
        file = folder / remote.file_name if remote else None
        return file if file is not None and file.is_file() else None

    def simulator_state(self, env: gymnasium.Env) -> dict[str, np.ndarray]:
        """Return MuJoCo's qpos and qvel."""
        data: Any = vars(env.unwrapped)["data"]
        return {"qpos": np.array(data.qpos), "qvel": np.array(data.qvel)}

    def provenance(self, path: Path, env_name: str) -> dict[str, Any]:
        """Return what the rewards are, how ends of episodes were found, and what a file made here says of itself."""
        layout = self._layout(env_name)
        return {**({"rewards": "minus 1"} if layout.loose else {}), **described(path, layout)}

    def _layout(self, env_name: str) -> Layout:
        found = self._parse(env_name)
        dims = MUJOCO.get(found["task"]) or ADROIT.get(found["hand"]) or (ANTMAZE if found["maze"] else KITCHEN)
        return Layout(env_name, dims, limit=self.max_episode_steps(env_name), loose=bool(found["maze"]))

    def _parse(self, env_name: str) -> re.Match[str]:
        found = NAME.fullmatch(env_name)
        if found is None:
            raise DatasetError(f"{env_name!r} is no D4RL name{did_you_mean(env_name, self.known_names(), limit=6)}")
        return found


def _published_place(found: re.Match[str], env_name: str) -> str | None:
    """Return the path below PUBLISHED; None for names that D4RL has not published."""
    if found["task"] and found["type"] in MUJOCO_TYPES:
        return _mujoco_place(found["task"], found["type"], int(found["version"]))
    if found["hand"] and found["by"] in ADROIT_TYPES:
        if found["edition"] == "1":
            return f"hand_dapg_v1/{env_name}.hdf5"
        forms = {"human": "{}-v0_demos_clipped", "cloned": "{}-demos-v0-bc-combined", "expert": "{}-v0_expert_clipped"}
        return f"hand_dapg/{forms[found['by']].format(found['hand'])}.hdf5"
    if found["maze"] in ANTMAZE_TYPES:
        return _antmaze_place(found["maze"], int(found["release"]))
    if found["kitchen"] in KITCHEN_TYPES:
        solved = "bottomburner_light" if found["kitchen"] == "mixed" else "light_slider"
        return f"kitchen/{'mini_' * (found['kitchen'] == 'complete')}kitchen_microwave_kettle_{solved}-v0.hdf5"
    return None


def _mujoco_place(task: str, kind: str, version: int) -> str | None:
    if version > 0:
        return f"gym_mujoco_v{version}/{task}_{kind.replace('-', '_')}-v{version}.hdf5"
    if kind == "full-replay":
        return None
    if kind == "medium-replay":
        return f"gym_mujoco/{'walker' if task == 'walker2d' else task}_mixed.hdf5"
    return f"gym_mujoco/{task}_{kind.replace('-', '_')}.hdf5"


def _antmaze_place(kind: str, version: int) -> str:
    older = {"umaze": "u-maze", "medium": "big-maze", "large": "hardest-maze"}
    size = kind.split("-")[0]
    maze = size if version == 1 else older[size]
    starts, goals = kind != "umaze", kind.endswith("diverse")
    file = f"Ant_maze_{maze}_noisy_multistart_{starts}_multigoal_{goals}_sparse{'_fixed' if version == 2 else ''}"
    return f"{('ant_maze_new', 'ant_maze_v1', 'ant_maze_v2')[version]}/{file}.hdf5"


sources.register("d4rl")(D4RL())
