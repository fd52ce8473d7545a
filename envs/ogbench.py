"""OGBench (Park et al. 2024, arXiv 2410.20092): single-task manipulation and locomotion, npz datasets.

A dataset's name is its environment's with the dataset's type in it: `cube-single-play-singletask-task1-v0` plays
in `cube-single-singletask-task1-v0`. The type `scripted` is made here (`experts.py`). In a file the last row of
each trajectory is only a final state; rewards come from `ogbench.relabel_utils`, for the state before the action.
"""

from __future__ import annotations

import functools
import importlib.util
import re
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from understudy.envs.deterministic import SeededManipulation, SeededMaze, clone, lighten, quiet_boxes
from understudy.envs.reading import read_npz
from understudy.envs.source import Episode, Settings, Source, missing_package
from understudy.envs.video import choose_renderer
from understudy.errors import DatasetError
from understudy.registry import sources

if TYPE_CHECKING:
    import gymnasium

CUBES, PUZZLES = ("single", "double", "triple", "quadruple", "octuple"), ("3x3", "4x4", "4x5", "4x6")
ARM = {"cube": CUBES, "scene": (), "puzzle": PUZZLES}
MAZES = ("medium", "large", "giant", "teleport")
LOCOMOTION = {"pointmaze": MAZES, "antmaze": MAZES, "humanoidmaze": MAZES[:3], "antsoccer": ("arena", "medium")}
ARM_TYPES, LOCOMOTION_TYPES = ("play", "noisy", "scripted"), ("navigate", "stitch", "explore")
STEPS = {"cube-single": 200, "cube-double": 500, "cube-triple": 1000, "cube-quadruple": 1000, "cube-octuple": 1500,
         "scene": 750, "puzzle-3x3": 500, "puzzle-4x4": 500, "puzzle-4x5": 1000, "puzzle-4x6": 1000}  # fmt: skip
"""Used where OGBench is not installed; gymnasium's registry is asked where it is."""
NAME = re.compile(
    r"(?P<family>(visual-)?(cube|scene|puzzle|pointmaze|antmaze|humanoidmaze|antsoccer)(-\w+)?)"
    r"-(?P<type>play|noisy|scripted|navigate|stitch|explore)-singletask(?P<task>-task[1-5])?-v0"
)
STATE_KEYS = ("qpos", "qvel", "button_states")
_STATE_OF = {"qpos": ("cube", "scene", "maze", "soccer"), "button_states": ("scene", "puzzle")}
"""The simulator states that OGBench's relabelling reads, by family."""


class OGBench(Source):
    """OGBench's single-task datasets and environments."""

    name = "ogbench"
    suffix = ".npz"

    def matches(self, env_name: str) -> bool:
        """Say whether the name is `<environment>-<dataset type>-singletask[-task1..5]-v0`."""
        found = NAME.fullmatch(env_name)
        return found is not None and found["family"].removeprefix("visual-") in _families()

    def known_names(self) -> list[str]:
        """Return the published single-task names for states, and the scripted ones."""
        return [
            f"{family}-{kind}-singletask{task}-v0"
            for family in _families()
            for kind in (ARM_TYPES if _is_arm(family) else LOCOMOTION_TYPES)
            for task in ("", *(f"-task{i}" for i in range(1, 6)))
            if kind != "scripted" or family == "cube-single"
        ]

    def env_id(self, env_name: str) -> str:
        """Return the gymnasium id: the name without the dataset's type."""
        found = NAME.fullmatch(env_name)
        if found is None:
            raise DatasetError(
                f"{env_name!r} is no OGBench single-task name, like cube-single-play-singletask-task1-v0"
            )
        return f"{found['family']}-singletask{found['task'] or ''}-v0"

    def make_env(
        self, env_name: str, *, render: bool = False, size: int = 256, settings: Settings | None = None
    ) -> gymnasium.Env:
        """Return the environment, made deterministic; pixel observations keep their 64 x 64 in videos."""
        if importlib.util.find_spec("ogbench") is None:
            raise missing_package(env_name, "ogbench", "envs")
        choose_renderer()
        return _make(self.env_id(env_name), render, size)

    def max_episode_steps(self, env_name: str) -> int:
        """Return the time limit that OGBench registers."""
        if importlib.util.find_spec("ogbench") is None:
            return STEPS.get(self.env_id(env_name).removeprefix("visual-").split("-singletask")[0], 1000)
        return int(_registered(self.env_id(env_name)).max_episode_steps or 1000)

    def has_success(self, env_name: str) -> bool:
        """Every OGBench task tells success."""
        return True

    def files(self, path: Path) -> list[Path]:
        """Return `path`, or the training files (*.npz without -val) of a folder, sorted."""
        if not path.is_dir():
            return [path]
        found = sorted(p for p in path.glob("*.npz") if not p.stem.endswith("-val"))
        if not found:
            raise DatasetError(f"{path}: no .npz files in this folder")
        return found

    def provenance(self, path: Path, env_name: str) -> dict[str, Any]:
        """Return how the rewards were made, and what a generated file says about itself."""
        first = self.files(path)[0]
        header = read_npz(first, optional=("made_by", *STATE_KEYS), headers=True)
        note = {"rewards": _reward_note(header)}
        return {**note, "made_by": str(header["made_by"])} if "made_by" in header else note

    def read(self, path: Path, env_name: str) -> Iterator[Episode]:
        """Yield the trajectories of one or more npz files."""
        for file in self.files(path):
            yield from self._read_file(file, env_name)

    def _read_file(self, file: Path, env_name: str) -> Iterator[Episode]:
        rows = read_npz(file, ("observations", "actions", "terminals"), (*STATE_KEYS, "executed_actions"))
        ends = _check_rows(rows, file)
        self._check_task(rows, file, env_name)
        successes_first = self._rewards(rows, env_name, file)
        keep = [name for name in ("qpos", "qvel", "button_states", "executed_actions") if name in rows]
        begin = 0
        for end in ends:
            steps = slice(begin, end)  # row `end` is the state after the last action
            yield {
                "observations": rows["observations"][steps],
                "actions": rows["actions"][steps],
                "rewards": successes_first["rewards"][steps],
                "terminals": successes_first["masks"][steps] == 0,
                "final_observation": rows["observations"][end],
                **{name: rows[name][steps] for name in keep},
            }
            begin = end + 1

    def _check_task(self, rows: dict[str, np.ndarray], file: Path, env_name: str) -> None:
        """Refuse data of another task here, where the file is known, and not far away in a network's first layer."""
        if importlib.util.find_spec("ogbench") is None:
            return
        env = self.make_env(env_name)
        for key, space in (("observations", env.observation_space), ("actions", env.action_space)):
            if rows[key].shape[1:] != space.shape:
                raise DatasetError(
                    f"{file}: {key} have shape {rows[key].shape[1:]}, {self.env_id(env_name)} has {space.shape}; "
                    "is it the file of another task?"
                )

    def _rewards(self, rows: dict[str, np.ndarray], env_name: str, file: Path) -> dict[str, np.ndarray]:
        """Return rewards and masks [rows]: OGBench's relabelling, or -1 everywhere where the states are not stored."""
        count = len(rows["actions"])
        wanted = tuple(n for n, words in _STATE_OF.items() if any(word in env_name for word in words))
        if importlib.util.find_spec("ogbench") is None or any(name not in rows for name in wanted):
            return {"rewards": np.full(count, -1.0, np.float32), "masks": np.ones(count, np.float32)}
        from ogbench.relabel_utils import relabel_dataset

        labelled = {name: rows[name] for name in STATE_KEYS if name in rows}
        try:
            relabel_dataset(self.env_id(env_name), self.make_env(env_name), labelled)
        except (IndexError, ValueError, KeyError) as error:
            task = self.env_id(env_name)
            raise DatasetError(f"{file}: its qpos or button_states do not fit {task} ({error})") from error
        return labelled


@functools.cache
def _families() -> tuple[str, ...]:
    kinds = {**ARM, **LOCOMOTION}
    return tuple(f"{name}-{part}" if part else name for name, parts in kinds.items() for part in parts or ("",))


def _is_arm(name: str) -> bool:
    return name.removeprefix("visual-").split("-")[0] in ARM


def _registered(env_id: str) -> Any:
    import gymnasium

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*DISPLAY environment variable is missing.*")  # from mujoco's viewer
        import ogbench  # noqa: F401  (registers its environments)

    return gymnasium.spec(env_id)


def _make(env_id: str, render: bool, size: int) -> gymnasium.Env:
    if env_id.startswith("visual-") and _is_arm(env_id):
        return SeededManipulation(_build(env_id, {}))  # it renders at once, and a renderer cannot be copied
    if _is_arm(env_id):
        return SeededManipulation(clone(_arm_prototype(env_id, size if render else None)))
    pictures = render and not env_id.startswith("visual-")  # those have them, of the size that was trained on
    return SeededMaze(_build(env_id, {"render_mode": "rgb_array", "width": size, "height": size} if pictures else {}))


@functools.lru_cache(maxsize=4)
def _arm_prototype(env_id: str, size: int | None) -> gymnasium.Env:
    """Compile an arm environment once a process; it is only ever cloned."""
    env = _build(env_id, {} if size is None else {"width": size, "height": size})
    with quiet_boxes():
        env.reset(seed=0)
    if size is not None:
        lighten(env)
    return env


def _build(env_id: str, arguments: dict[str, Any]) -> gymnasium.Env:
    import gymnasium

    _registered(env_id)
    with quiet_boxes():
        return gymnasium.make(env_id, disable_env_checker=True, **arguments)


def _check_rows(rows: dict[str, np.ndarray], file: Path) -> np.ndarray:
    """Return the rows that end a trajectory, after checking that the arrays fit together."""
    count = len(rows["observations"])
    for name, array in rows.items():
        if array.ndim == 0 or len(array) != count:
            raise DatasetError(f"{file}: {name} has shape {array.shape}, observations have {count} rows")
    if rows["actions"].ndim != 2 or rows["terminals"].ndim != 1:
        shapes = f"actions {rows['actions'].shape}, terminals {rows['terminals'].shape}"
        raise DatasetError(f"{file}: {shapes}: must have 2 dims and 1")
    ends = np.flatnonzero(rows["terminals"])
    if len(ends) == 0 or ends[-1] != count - 1:
        raise DatasetError(f"{file}: the last row does not end a trajectory; the file is cut short or not OGBench's")
    empty = ends[np.diff(ends, prepend=-1) < 2]
    if len(empty):
        raise DatasetError(f"{file}: a trajectory has a final state but no step (row {empty[0]})")
    return ends


def _reward_note(header: dict[str, Any]) -> str:
    if any(name in header for name in ("qpos", "button_states")):
        return "ogbench.relabel_utils: minus the number of unmet sub-goals in the state before the action"
    return "-1 everywhere: the file holds no simulator states to compute them from"


sources.register("ogbench")(OGBench())
