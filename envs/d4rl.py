"""D4RL (Fu et al. 2020, arXiv 2004.07219): MuJoCo, AntMaze and Adroit datasets in HDF5, read without the d4rl package.

d4rl itself needs mujoco_py. MuJoCo tasks play in gymnasium's v4 environments: their observations are D4RL's, and v5
changed the physics of some. Adroit plays in gymnasium-robotics where that is installed.

Episodes: a row ends one when the environment terminated, at a time-out, or when the next row's observation does not
follow (distance above 1e-6). In AntMaze `terminals` are set all over the goal region and end nothing, and rewards
are minus 1. `terminals` of the store are the file's, whatever ended the episode.
"""

from __future__ import annotations

import importlib.util
import re
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from understudy.envs.reading import open_hdf5, read_dataset
from understudy.envs.source import Episode, Settings, Source, missing_package
from understudy.envs.video import choose_renderer
from understudy.errors import DatasetError, UserError
from understudy.registry import sources

if TYPE_CHECKING:
    import gymnasium

FOLLOWS = 1e-6
MUJOCO = {"halfcheetah": "HalfCheetah-v4", "hopper": "Hopper-v4", "walker2d": "Walker2d-v4", "ant": "Ant-v4"}
MUJOCO_TYPES = ("random", "medium", "expert", "medium-replay", "medium-expert", "full-replay")
ADROIT = {"pen": "AdroitHandPen-v1", "hammer": "AdroitHandHammer-v1", "door": "AdroitHandDoor-v1",
          "relocate": "AdroitHandRelocate-v1"}  # fmt: skip
ADROIT_TYPES = ("human", "cloned", "expert")
ANTMAZE_TYPES = ("umaze", "umaze-diverse", "medium-play", "medium-diverse", "large-play", "large-diverse")
NAME = re.compile(
    rf"(?P<task>{'|'.join(MUJOCO)})-(?:{'|'.join(sorted(MUJOCO_TYPES, key=len, reverse=True))})-v[012]"
    rf"|(?P<hand>{'|'.join(ADROIT)})-(?:{'|'.join(ADROIT_TYPES)})-v[01]"
    rf"|(?P<maze>antmaze)-(?P<size>umaze|medium|large)(?:-diverse|-play)?-v[012]"
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
}
"""Mean returns of a random and of an expert policy, from D4RL's `infos.py`."""


class D4RL(Source):
    """D4RL's datasets and the environments that fit them."""

    name = "d4rl"
    suffix = ".hdf5"

    def matches(self, env_name: str) -> bool:
        """Say whether the name is one of D4RL's, such as halfcheetah-medium-v2."""
        return NAME.fullmatch(env_name) is not None

    def known_names(self) -> list[str]:
        """Return the newest version of each dataset's name."""
        names = [f"{task}-{kind}-v2" for task in MUJOCO for kind in MUJOCO_TYPES]
        names += [f"{task}-{kind}-v1" for task in ADROIT for kind in ADROIT_TYPES]
        return names + [f"antmaze-{kind}-v2" for kind in ANTMAZE_TYPES]

    def env_id(self, env_name: str) -> str:
        """Return the gymnasium id of the MuJoCo and Adroit tasks, and AntMaze's D4RL name."""
        found = _parse(env_name)
        return MUJOCO.get(found["task"] or "") or ADROIT.get(found["hand"] or "") or env_name

    def make_env(
        self, env_name: str, *, render: bool = False, size: int = 256, settings: Settings | None = None
    ) -> gymnasium.Env:
        """Return the environment; AntMaze and missing simulators raise UserError."""
        found = _parse(env_name)
        if found["maze"]:
            raise UserError(f"{env_name}: no simulator here has D4RL's fixed AntMaze goals; train with eval_episodes=0")
        package = "gymnasium_robotics" if found["hand"] else "mujoco"
        if importlib.util.find_spec(package) is None:
            raise missing_package(env_name, package.replace("_", "-"), "envs")
        choose_renderer()
        import gymnasium

        arguments: dict[str, Any] = {"render_mode": "rgb_array", "width": size, "height": size} if render else {}
        if found["hand"]:
            import gymnasium_robotics  # pyright: ignore[reportMissingImports]

            gymnasium.register_envs(gymnasium_robotics)
            arguments["max_episode_steps"] = self.max_episode_steps(env_name)
        if found["task"] == "ant":
            arguments["use_contact_forces"] = True  # D4RL's 111 dims hold them
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*is out of date.*")
            return gymnasium.make(self.env_id(env_name), disable_env_checker=True, **arguments)

    def max_episode_steps(self, env_name: str) -> int:
        """Return D4RL's time limit."""
        found = _parse(env_name)
        if found["hand"]:
            return 100 if found["hand"] == "pen" else 200
        return 700 if found["size"] == "umaze" else 1000

    def has_success(self, env_name: str) -> bool:
        """Say whether the simulator tells success: Adroit's does."""
        return _parse(env_name)["hand"] is not None

    def normalized_score(self, env_name: str, returns: np.ndarray) -> np.ndarray:
        """Return 100 (return - random) / (expert - random)."""
        found = _parse(env_name)
        low, high = REFERENCE_SCORES[found["task"] or found["hand"] or found["maze"]]
        return 100.0 * (np.asarray(returns, np.float64) - low) / (high - low)

    def read(self, path: Path, env_name: str) -> Iterator[Episode]:
        """Yield the episodes of one HDF5 file."""
        names = ("observations", "actions", "rewards", "terminals")
        with open_hdf5(path) as file:
            rows = {name: read_dataset(path, file, name) for name in names}
            for name in ("timeouts", "next_observations"):
                if name in file:
                    rows[name] = read_dataset(path, file, name)
        _check_rows(rows, path)
        is_maze = _parse(env_name)["maze"] is not None
        ends = episode_ends(rows, is_maze, self.max_episode_steps(env_name))
        if is_maze:
            rows["rewards"] = rows["rewards"] - 1.0
        begin = 0
        for end in ends:
            steps = slice(begin, end + 1)
            episode = {name: rows[name][steps] for name in names}
            if "next_observations" in rows:
                episode["final_observation"] = rows["next_observations"][end]
            yield episode
            begin = end + 1


def episode_ends(rows: dict[str, np.ndarray], is_maze: bool, limit: int) -> np.ndarray:
    """Return the last row of each episode; an unfinished one at the file's end counts too.

    With neither time-outs nor next observations in the file, episodes are also cut at the time limit, as D4RL does.
    """
    count = len(rows["actions"])
    over = np.zeros(count, bool) if is_maze else rows["terminals"].astype(bool)
    if "timeouts" in rows:
        over |= rows["timeouts"].astype(bool)
    if "next_observations" in rows:
        jumps = np.linalg.norm(rows["observations"][1:] - rows["next_observations"][:-1], axis=-1) > FOLLOWS
        over[:-1] |= jumps
    over[-1] = True
    if "timeouts" in rows or "next_observations" in rows:
        return np.flatnonzero(over)
    cut = []
    begin = 0
    for end in np.flatnonzero(over):
        cut += [*range(begin + limit - 1, end, limit), end]
        begin = end + 1
    return np.asarray(cut, np.int64)


def _parse(env_name: str) -> re.Match[str]:
    found = NAME.fullmatch(env_name)
    if found is None:
        raise DatasetError(f"{env_name!r} is not a D4RL name, such as halfcheetah-medium-v2 or pen-human-v1")
    return found


def _check_rows(rows: dict[str, np.ndarray], path: Path) -> None:
    count = len(rows["actions"])
    if count == 0:
        raise DatasetError(f"{path}: holds no transitions")
    rows["rewards"], rows["terminals"] = rows["rewards"].reshape(-1), rows["terminals"].reshape(-1)
    if "timeouts" in rows:
        rows["timeouts"] = rows["timeouts"].reshape(-1)
    for name, array in rows.items():
        if len(array) != count:
            raise DatasetError(f"{path}: {name} has {len(array)} rows, actions have {count}; the file is cut short")
    if rows["observations"].ndim != 2 or rows["actions"].ndim != 2:
        shapes = f"observations {rows['observations'].shape}, actions {rows['actions'].shape}"
        raise DatasetError(f"{path}: {shapes}: both must have 2 dims")
    if "next_observations" in rows and rows["next_observations"].shape != rows["observations"].shape:
        raise DatasetError(
            f"{path}: next_observations {rows['next_observations'].shape} are not shaped like observations"
        )


sources.register("d4rl")(D4RL())
