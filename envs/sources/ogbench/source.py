"""OGBench (Park et al. 2024, arXiv 2410.20092): manipulation and locomotion for states and pixels, npz datasets.

A dataset's name is its environment's with the dataset's type in it. There are three variants of each:
`cube-single-play-singletask-task1-v0` has the fixed task of `cube-single-singletask-task1-v0`; `cube-single-play-v0` is
goal-conditioned, goals are observations; `cube-single-play-oraclerep-v0` has shorter goals (places, button states). All
read the same file. Rewards of single tasks come from `ogbench.relabel_utils`, for the state before the action;
goal-conditioned files have none. The types `scripted` and `policy` are made here.

Names with `visual-` see one picture of 64 x 64 and nothing else. How data's pictures were drawn (shadows, smoothed
edges, reflections) is in the manifest as the environment's settings: OGBench's own files with all of it.
"""

from __future__ import annotations

import functools
import importlib.util
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from understudy.envs.files.downloads import Remote
from understudy.envs.files.reading import read_npz
from understudy.envs.simulators.rendering import FAST, PUBLISHED, Rendering
from understudy.envs.simulators.video import choose_renderer
from understudy.envs.sources.ogbench.envs import PICTURE, VISUAL, make, registered, states_of
from understudy.envs.sources.ogbench.files import STATE_KEYS, Trajectories, open_trajectories, write_npz
from understudy.envs.sources.source import Source, missing_package
from understudy.envs.sources.task import Episode, Expert, Settings
from understudy.errors import DatasetError, UserError
from understudy.files import tools_path
from understudy.registry import sources

if TYPE_CHECKING:
    import gymnasium

URL = "https://rail.eecs.berkeley.edu/datasets/ogbench"
CUBES, PUZZLES = ("single", "double", "triple", "quadruple", "octuple"), ("3x3", "4x4", "4x5", "4x6")
ARM = {"cube": CUBES, "scene": (), "puzzle": PUZZLES}
MAZES = ("medium", "large", "giant", "teleport")
LOCOMOTION = {"pointmaze": MAZES, "antmaze": MAZES, "humanoidmaze": MAZES[:3], "antsoccer": ("arena", "medium")}
DRAWN, NOT_DRAWN = ("cube", "scene", "puzzle", "antmaze", "humanoidmaze"), ("cube-octuple",)
"""What there are visual environments of, and what of it there is not."""
MADE_HERE = ("scripted", "policy")
TYPES = ("play", "noisy", "navigate", "stitch", "explore")
STEPS = {"cube-single": 200, "cube-double": 500, "cube-triple": 1000, "cube-quadruple": 1000, "cube-octuple": 1500,
         "scene": 750, "puzzle-3x3": 500, "puzzle-4x4": 500, "puzzle-4x5": 1000, "puzzle-4x6": 1000,
         "humanoidmaze-medium": 2000, "humanoidmaze-large": 2000, "humanoidmaze-giant": 4000}  # fmt: skip
"""Used where OGBench is not installed (1000 for others); gymnasium's registry is asked where it is."""
NAME = re.compile(
    r"(?P<family>(visual-)?(cube|scene|puzzle|pointmaze|antmaze|humanoidmaze|antsoccer)(-\w+)?)"
    rf"-(?P<type>{'|'.join((*TYPES, *MADE_HERE))})"
    r"(-(?P<variant>(?P<single>singletask)(?P<task>-task[1-5])?|oraclerep))?-v0"
)
_STATE_OF = {"qpos": ("cube", "scene", "maze", "soccer"), "button_states": ("scene", "puzzle")}
"""The simulator states that OGBench's relabelling reads, by family."""


class OGBench(Source):
    """OGBench's datasets and environments, single-task and goal-conditioned."""

    name = "ogbench"
    suffix = ".npz"

    def matches(self, env_name: str) -> bool:
        """Return whether the name is `<environment>-<dataset type>[-singletask[-task1..5] | -oraclerep]-v0`."""
        found = NAME.fullmatch(env_name)
        return found is not None and found["family"] in _families()

    def known_names(self) -> list[str]:
        """Return the published names, for states and for pictures, and the scripted ones that an expert solves."""
        variants = ("", "-oraclerep", "-singletask", *(f"-singletask-task{i}" for i in range(1, 6)))
        return [
            name
            for family in _families()
            for kind in (*_published(family), "scripted")
            for name in (f"{family}-{kind}{variant}-v0" for variant in variants)
            if kind != "scripted" or self.expert(name) is not None
        ]

    def env_id(self, env_name: str) -> str:
        """Return the gymnasium id: the name without the dataset's type and without `oraclerep`."""
        found = _parse(env_name)
        return f"{found['family']}{'-singletask' if found['single'] else ''}{found['task'] or ''}-v0"

    def is_goal_conditioned(self, env_name: str) -> bool:
        """Return True for every name but the single-task ones."""
        return _parse(env_name)["single"] is None

    def make_env(
        self, env_name: str, *, render: bool = False, size: int = 256, settings: Settings | None = None
    ) -> gymnasium.Env:
        """Return the environment, made deterministic; pixel observations keep their 64 x 64 in videos.

        Goal-conditioned ones evaluate task `seed % 5 + 1`, so that consecutive seeds cover the five tasks evenly.
        `settings` are `{"rendering": ...}` for visual ones.
        """
        rendering = _rendering(env_name, (settings or {}).get("rendering", {}), PUBLISHED)
        if importlib.util.find_spec("ogbench") is None:
            raise missing_package(env_name, "ogbench", "envs")
        choose_renderer()
        oracle_goals = _has_oracle_goals(env_name)
        return make(
            self.env_id(env_name), render=render, size=size, oracle_goals=oracle_goals, rendering=rendering or PUBLISHED
        )

    def max_episode_steps(self, env_name: str) -> int:
        """Return the time limit that OGBench registers."""
        if importlib.util.find_spec("ogbench") is None:
            return STEPS.get(_parse(env_name)["family"].removeprefix(VISUAL), 1000)
        return int(registered(self.env_id(env_name)).max_episode_steps or 1000)

    def has_success(self, env_name: str) -> bool:
        """Every OGBench task tells success."""
        return True

    def stored_reward(self, env_name: str, reward: float) -> float:
        """Return -1 for goal-conditioned tasks, whose data have no other rewards."""
        return -1.0 if self.is_goal_conditioned(env_name) else reward

    def remote(self, env_name: str) -> Remote | None:
        """Return the training file's address, which the three variants share (validation data: `<stem>-val.npz`)."""
        found = _parse(env_name)
        if found["type"] not in _published(found["family"]) or "octuple" in found["family"]:
            return None
        return Remote(f"{URL}/{found['family']}-{found['type']}-v0.npz")

    def found(self, env_name: str) -> Path | None:
        """Return the file that the ogbench package has fetched, in ~/.ogbench/data."""
        remote = self.remote(env_name)
        file = tools_path("~/.ogbench/data") / remote.file_name if remote else None
        return file if file is not None and file.is_file() else None

    def expert(self, env_name: str) -> Expert | None:
        """Return a new expert made of OGBench's oracles, for the arm tasks that they solve."""
        from understudy.envs.sources.ogbench.experts import expert_for

        return expert_for(env_name)

    def rendering(self, env_name: str, options: Mapping[str, str]) -> Settings | None:
        """Return how pictures are drawn: shadows, offsamples, reflections; quickly, where the options do not say."""
        rendering = _rendering(env_name, options, FAST)
        return None if rendering is None else {"rendering": rendering.settings()}

    def simulator_state(self, env: gymnasium.Env) -> dict[str, np.ndarray]:
        """Return qpos, qvel and, where there are buttons, button_states."""
        return states_of(env)

    def files(self, path: Path) -> list[Path]:
        """Return `path`, or the training files (*.npz without -val) of a folder, sorted."""
        if not path.is_dir():
            return [path]
        found = sorted(p for p in path.glob("*.npz") if not p.stem.endswith("-val"))
        if not found:
            raise DatasetError(f"{path}: no .npz files in this folder")
        return found

    def provenance(self, path: Path, env_name: str) -> dict[str, Any]:
        """Return how the rewards were made, and what a file made here says about itself; `environment`: rendering."""
        header = read_npz(self.files(path)[0], (), ("made_by", "rewards", *STATE_KEYS), headers=True)
        drawn = [_drawn(file, env_name) for file in self.files(path)]
        if len(set(drawn)) > 1:
            raise DatasetError(f"{path}: its files' pictures were drawn with different options: {drawn[0]} and others")
        return {
            "rewards": self._reward_note(header, env_name),
            **({"made_by": str(header["made_by"])} if "made_by" in header else {}),
            **({"environment": {"rendering": drawn[0].settings()}} if drawn[0] else {}),
        }

    def read(self, path: Path, env_name: str) -> Iterator[Episode]:
        """Yield the trajectories of one or more npz files; `oraclerep` ones have `achieved_goals` [T, G]."""
        env = None
        if importlib.util.find_spec("ogbench") is not None:  # the task with states says the same, and need not render
            env = self.make_env(env_name.removeprefix(VISUAL))
        for file in self.files(path):
            with open_trajectories(file) as data:
                self._check_task(data, file, env_name, env)
                self._label(data.rows, file, env_name, env)
                yield from data.episodes()

    def write(self, path: Path, episodes: Iterable[Episode], env_name: str, provenance: Mapping[str, Any]) -> None:
        """Write an npz that OGBench's own loader reads too; each trajectory ends with a row of its final state."""
        notes = {"made_by": str(provenance.get("made_by") or "")}
        if self.matches(env_name) and env_name.startswith(VISUAL):
            drawn = _rendering(env_name, (provenance.get("environment") or {}).get("rendering", {}), PUBLISHED)
            notes["environment"] = json.dumps({"rendering": (drawn or PUBLISHED).settings()})
        write_npz(path, episodes, env_name, notes)

    def _check_task(self, data: Trajectories, file: Path, env_name: str, env: gymnasium.Env | None) -> None:
        """Refuse data of another task here, where the file is known, and not far away in a network's first layer."""
        if env is None:
            return
        visual = env_name.startswith(VISUAL)
        shapes = {"observations": PICTURE if visual else env.observation_space.shape, "actions": env.action_space.shape}
        for key, found in (("observations", data.observations), ("actions", data.rows["actions"])):
            if found.shape[1:] != shapes[key]:
                raise DatasetError(
                    f"{file}: {key} have shape {found.shape[1:]}, {self.env_id(env_name)} has {shapes[key]}; "
                    "is it the file of another task?"
                )
        if visual != (data.observations.dtype == np.uint8):
            raise DatasetError(
                f"{file}: observations hold {data.observations.dtype}; pictures, and only they, are uint8"
            )

    def _relabels(self, present: Iterable[str], env_name: str) -> bool:
        """Return whether OGBench can compute the rewards: a single task, and the states that it reads are stored."""
        wanted = {name for name, words in _STATE_OF.items() if any(word in env_name for word in words)}
        installed = importlib.util.find_spec("ogbench") is not None
        return installed and not self.is_goal_conditioned(env_name) and wanted <= set(present)

    def _label(self, rows: dict[str, np.ndarray], file: Path, env_name: str, env: gymnasium.Env | None) -> None:
        """Add rewards and masks [rows], and achieved_goals [rows, G] where they are not the observations."""
        count = len(rows["actions"])
        if self.is_goal_conditioned(env_name) or "rewards" not in rows:
            rows["rewards"] = np.full(count, -1.0, np.float32)
        if self.is_goal_conditioned(env_name) or "masks" not in rows:
            rows["masks"] = np.ones(count, np.float32)
        task = self.env_id(env_name.removeprefix(VISUAL))
        try:
            if self._relabels(rows, env_name):
                from ogbench.relabel_utils import relabel_dataset

                relabel_dataset(task, env, rows)
            elif _has_oracle_goals(env_name):
                from ogbench.relabel_utils import add_oracle_reps

                add_oracle_reps(task, env, rows)
                rows["achieved_goals"] = rows.pop("oracle_reps")
        except ImportError as error:
            raise missing_package(env_name, "ogbench", "envs") from error
        except KeyError as error:
            raise DatasetError(
                f"{file}: has no {error.args[0]!r}, which the goals of {env_name} are made of"
            ) from error
        except (IndexError, ValueError) as error:
            raise DatasetError(f"{file}: its qpos or button_states do not fit {task} ({error})") from error

    def _reward_note(self, header: Mapping[str, Any], env_name: str) -> str:
        if self._relabels(header, env_name):
            return "ogbench.relabel_utils: minus the number of unmet sub-goals in the state before the action"
        if self.is_goal_conditioned(env_name):
            return "-1 everywhere and no terminals: they follow from the goals, which are chosen when training"
        if "rewards" in header:
            return "as in the file"
        return "-1 everywhere: the file holds no simulator states to compute them from"


@functools.cache
def _families() -> tuple[str, ...]:
    kinds = {**ARM, **LOCOMOTION}
    states = [f"{name}-{part}" if part else name for name, parts in kinds.items() for part in parts or ("",)]
    drawn = [family for family in states if family.partition("-")[0] in DRAWN and family not in NOT_DRAWN]
    return (*states, *(VISUAL + family for family in drawn))


def _published(family: str) -> tuple[str, ...]:
    """Return the types of dataset that are published for a family."""
    name, _, size = family.removeprefix(VISUAL).partition("-")
    if name in ARM:
        return ("play", "noisy")
    return ("navigate", "stitch", "explore") if name == "antmaze" and size != "giant" else ("navigate", "stitch")


def _rendering(env_name: str, options: Any, otherwise: Rendering) -> Rendering | None:
    """Return how a visual task's pictures are drawn; None for the others, which take no options."""
    if env_name.startswith(VISUAL):
        return Rendering.of(env_name, options, otherwise)
    if options:
        raise UserError(f"{env_name}: has no pictures, so it takes no rendering options ({next(iter(options))})")
    return None


def _drawn(file: Path, env_name: str) -> Rendering | None:
    """Return how a file says its pictures were drawn; files that say nothing are OGBench's own."""
    text = read_npz(file, (), ("environment",), headers=True).get("environment", "{}")
    try:
        said = json.loads(str(text)).get("rendering", {})
        if said and not env_name.startswith(VISUAL):
            raise DatasetError(f"{file}: holds pictures, {env_name} sees none; is it the file of another task?")
        return _rendering(env_name, said, PUBLISHED)
    except (ValueError, AttributeError, UserError) as error:
        raise DatasetError(f"{file}: `environment` is no table of rendering options ({error})") from error


def _has_oracle_goals(env_name: str) -> bool:
    return _parse(env_name)["variant"] == "oraclerep"


def _parse(env_name: str) -> re.Match[str]:
    found = NAME.fullmatch(env_name)
    if found is None:
        raise DatasetError(f"{env_name!r} is no OGBench name, like cube-single-play-singletask-task1-v0")
    return found


sources.register("ogbench")(OGBench())
