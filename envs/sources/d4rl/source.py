"""D4RL (Fu et al. 2020, arXiv 2004.07219): MuJoCo, AntMaze, Adroit and Kitchen datasets, without the d4rl package.

d4rl itself needs mujoco_py. The environments are those of `envs.py`, where what still differs from d4rl 1.1 is
named; the files are read and written in `files.py`. Names are D4RL's; the types `policy` and `scripted` in place
of a published one are for data made here (hopper-policy-v2, antmaze-large-policy-v2, pen-policy-v1, kitchen-policy-v0,
kitchen-mixed-policy-v0). The version of a name says where its file is published; all versions of a task play in one
environment.

In the store AntMaze rewards are minus 1 (0 at the goal, -1 elsewhere), as is usual for these data; the environment
itself pays D4RL's 1 at the goal and 0 elsewhere. `terminals` are the file's. Optional columns: `qpos` and `qvel` of
the simulator (in AntMaze's published files those of the state after the action), and `goals` [2], where the policy
that collected an AntMaze episode was walking to, which is not the goal that the rewards are for.
"""

from __future__ import annotations

import abc
import functools
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from understudy.envs.files.downloads import Remote
from understudy.envs.sources.d4rl import envs as d4rl_envs
from understudy.envs.sources.d4rl.files import Layout, described, read_episodes, write_episodes
from understudy.envs.sources.source import Source
from understudy.envs.sources.task import Episode, Settings, Task
from understudy.files import tools_path
from understudy.registry import sources

if TYPE_CHECKING:
    import gymnasium

MUJOCO = {"halfcheetah": (17, 6), "hopper": (11, 3), "walker2d": (17, 6), "ant": (111, 8)}
ADROIT = {"pen": (45, 24), "hammer": (46, 26), "door": (39, 28), "relocate": (39, 30)}
DIMS = {**MUJOCO, **ADROIT, "antmaze": (29, 8), "kitchen": (60, 9)}
"""Observation and action dims."""
LIMITS = {"pen": 100, "hammer": 200, "door": 200, "relocate": 200, "kitchen": 280}
"""D4RL's time limits where they are not 1000."""
MADE_HERE = ("policy", "scripted")
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


@dataclass(frozen=True)
class D4RLTask(Task):
    """The parts of a dataset's name, `<robot>-<kind>-v<version>`; each subclass is one of D4RL's domains."""

    robot: str
    """halfcheetah, pen, antmaze and so on; kitchen."""
    kind: str
    """The dataset's type, such as medium-replay; with the maze in AntMaze's, such as large-play."""
    version: int

    robots: ClassVar[tuple[str, ...]]
    published: ClassVar[tuple[str, ...]]
    """Types of the published datasets."""
    made_here: ClassVar[tuple[str, ...]] = MADE_HERE
    versions: ClassVar[str]
    """One digit each, the newest one last."""
    loose: ClassVar[bool] = False
    """Whether the files are AntMaze's: terminals end no episode, and the store's rewards are the file's minus 1."""

    @classmethod
    @functools.cache
    def names(cls) -> re.Pattern[str]:
        """Return the pattern of the domain's names."""
        robots, kinds = "|".join(cls.robots), "|".join((*cls.published, *cls.made_here))
        return re.compile(rf"(?P<robot>{robots})-(?P<kind>{kinds})-v(?P<version>[{cls.versions}])")

    @property
    def env_id(self) -> str:
        """The gymnasium id of the simulator; AntMaze's is D4RL's own name."""
        return d4rl_envs.IDS[self.robot]

    @property
    def max_episode_steps(self) -> int:
        """D4RL's time limit."""
        return LIMITS.get(self.robot, 1000)

    @property
    def has_success(self) -> bool:
        """Whether the task tells success: all but the MuJoCo ones do."""
        return True

    def normalized_score(self, returns: np.ndarray, settings: Settings | None = None) -> np.ndarray:
        """Return 100 (return - random) / (expert - random)."""
        low, high = REFERENCE_SCORES[self.robot]
        return 100.0 * (np.asarray(returns, np.float64) - low) / (high - low)

    def read(self, path: Path) -> Iterator[Episode]:
        """Yield the episodes of one HDF5 file."""
        for episode in read_episodes(path, self._layout):
            if self.loose:
                episode["rewards"] = episode["rewards"] - 1.0
            yield episode

    def stored_reward(self, reward: float) -> float:
        """Return AntMaze's 0 and 1 as the store's -1 and 0."""
        return reward - 1.0 if self.loose else reward

    @property
    def remote(self) -> Remote | None:
        """The published address; no checksums are published."""
        place = self._place() if self.kind in self.published else None
        return Remote(f"{PUBLISHED}/{place}") if place else None

    def found(self) -> Path | None:
        """Return the file that the d4rl package has fetched, in $D4RL_DATASET_DIR or ~/.d4rl/datasets."""
        folder = tools_path(os.environ.get("D4RL_DATASET_DIR", "~/.d4rl/datasets"))
        file = folder / self.remote.file_name if self.remote else None
        return file if file is not None and file.is_file() else None

    def simulator_state(self, env: gymnasium.Env) -> dict[str, np.ndarray]:
        """Return MuJoCo's qpos and qvel."""
        data: Any = vars(env.unwrapped)["data"]
        return {"qpos": np.array(data.qpos), "qvel": np.array(data.qvel)}

    def provenance(self, path: Path) -> dict[str, Any]:
        """Return what the rewards are, how ends of episodes were found, and what a file made here says of itself."""
        return {**({"rewards": "minus 1"} if self.loose else {}), **described(path, self._layout)}

    @property
    def _layout(self) -> Layout:
        return Layout(self.env_name, DIMS[self.robot], limit=self.max_episode_steps, loose=self.loose)

    @abc.abstractmethod
    def _place(self) -> str | None:
        """Return the published file's path below PUBLISHED; None for the few versions that never were."""


class MujocoTask(D4RLTask):
    """Gymnasium's MuJoCo tasks."""

    robots = tuple(MUJOCO)
    published = ("random", "medium", "expert", "medium-replay", "medium-expert", "full-replay")
    versions = "012"

    @property
    def has_success(self) -> bool:
        """Whether the task tells success: it does not."""
        return False

    def make_env(self, *, render: bool = False, size: int = 256, settings: Settings | None = None) -> gymnasium.Env:
        """Return HalfCheetah, Hopper, Walker2d or Ant with D4RL's observations and rewards."""
        return d4rl_envs.make_mujoco(self.env_name, self.robot, self.max_episode_steps, render, size)

    def _place(self) -> str | None:
        kind = self.kind.replace("-", "_")
        if self.version > 0:
            return f"gym_mujoco_v{self.version}/{self.robot}_{kind}-v{self.version}.hdf5"
        if kind == "full_replay":
            return None
        if kind == "medium_replay":
            return f"gym_mujoco/{'walker' if self.robot == 'walker2d' else self.robot}_mixed.hdf5"
        return f"gym_mujoco/{self.robot}_{kind}.hdf5"


class AdroitTask(D4RLTask):
    """The hand of Adroit."""

    robots = tuple(ADROIT)
    published = ("human", "cloned", "expert")
    versions = "01"

    def make_env(self, *, render: bool = False, size: int = 256, settings: Settings | None = None) -> gymnasium.Env:
        """Return the pen, hammer, door or relocate task with D4RL's observations and rewards."""
        return d4rl_envs.make_adroit(self.env_name, self.robot, self.max_episode_steps, render, size)

    def _place(self) -> str:
        if self.version == 1:
            return f"hand_dapg_v1/{self.env_name}.hdf5"
        forms = {"human": "{}-v0_demos_clipped", "cloned": "{}-demos-v0-bc-combined", "expert": "{}-v0_expert_clipped"}
        return f"hand_dapg/{forms[self.kind].format(self.robot)}.hdf5"


class AntMazeTask(D4RLTask):
    """An ant that walks to a place in a maze."""

    robots = ("antmaze",)
    published = ("umaze", "umaze-diverse", "medium-play", "medium-diverse", "large-play", "large-diverse")
    made_here = tuple(f"{maze}-{kind}" for maze in ("umaze", "medium", "large") for kind in MADE_HERE)
    versions = "012"
    loose = True

    @property
    def maze(self) -> str:
        """The maze: umaze, medium or large."""
        return self.kind.partition("-")[0]

    @property
    def env_id(self) -> str:
        """D4RL's own name."""
        return self.env_name

    @property
    def max_episode_steps(self) -> int:
        """D4RL's time limit: 700 in the smallest maze."""
        return 700 if self.maze == "umaze" else 1000

    def make_env(self, *, render: bool = False, size: int = 256, settings: Settings | None = None) -> gymnasium.Env:
        """Return the ant in its maze with D4RL's observations and rewards."""
        return d4rl_envs.make_antmaze(self.env_name, self.maze, self.max_episode_steps, render, size)

    def _place(self) -> str:
        older = {"umaze": "u-maze", "medium": "big-maze", "large": "hardest-maze"}
        maze = self.maze if self.version == 1 else older[self.maze]
        starts, goals = self.kind != "umaze", self.kind.endswith("diverse")
        fixed = "_fixed" if self.version == 2 else ""
        file = f"Ant_maze_{maze}_noisy_multistart_{starts}_multigoal_{goals}_sparse{fixed}"
        return f"{('ant_maze_new', 'ant_maze_v1', 'ant_maze_v2')[self.version]}/{file}.hdf5"


class KitchenTask(D4RLTask):
    """Four tasks in a kitchen, for a Franka arm."""

    robots = ("kitchen",)
    published = ("complete", "partial", "mixed")
    made_here = (*MADE_HERE, *(f"mixed-{kind}" for kind in MADE_HERE))
    versions = "0"

    def make_env(self, *, render: bool = False, size: int = 256, settings: Settings | None = None) -> gymnasium.Env:
        """Return the kitchen with the four tasks of the dataset."""
        return d4rl_envs.make_kitchen(self.env_name, "mixed" in self.kind, self.max_episode_steps, render, size)

    def _place(self) -> str:
        solved = "bottomburner_light" if self.kind == "mixed" else "light_slider"
        return f"kitchen/{'mini_' * (self.kind == 'complete')}kitchen_microwave_kettle_{solved}-v0.hdf5"


class D4RL(Source):
    """D4RL's datasets and the environments that fit them."""

    name = "d4rl"
    title = "D4RL"
    suffix = ".hdf5"
    domains = (MujocoTask, AdroitTask, AntMazeTask, KitchenTask)

    def parse(self, env_name: str) -> D4RLTask | None:
        """Return the task of a name such as halfcheetah-medium-v2."""
        for domain in self.domains:
            if found := domain.names().fullmatch(env_name):
                return domain(self, env_name, found["robot"], found["kind"], int(found["version"]))
        return None

    def known_names(self) -> list[str]:
        """Return the newest version of each dataset's name."""
        return [
            f"{robot}-{kind}-v{domain.versions[-1]}"
            for domain in self.domains
            for robot in domain.robots
            for kind in domain.published
        ]

    def write(self, path: Path, episodes: Iterable[Episode], env_name: str, provenance: Mapping[str, Any]) -> None:
        """Write a D4RL HDF5 file; episodes of other sources' tasks too, with their rewards as they are."""
        loose = isinstance(self.parse(env_name), AntMazeTask)
        made_by = str(provenance.get("made_by", ""))
        write_episodes(path, episodes, reward_shift=1.0 if loose else 0.0, loose=loose, made_by=made_by)


sources.register("d4rl")(D4RL())
