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

import importlib.util
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from understudy.envs.files.downloads import Remote
from understudy.envs.files.reading import read_npz
from understudy.envs.simulators.rendering import FAST, PUBLISHED, Rendering
from understudy.envs.simulators.video import choose_renderer
from understudy.envs.sources.ogbench.envs import ARMS, PICTURE, VISUAL, make, registration, states_of
from understudy.envs.sources.ogbench.experts import FAMILIES as SOLVED
from understudy.envs.sources.ogbench.experts import expert_for
from understudy.envs.sources.ogbench.files import STATE_KEYS, Trajectories, open_trajectories, write_npz
from understudy.envs.sources.ogbench.names import DRAWN, FAMILIES, NAME, STEPS, published
from understudy.envs.sources.source import Source, missing_package
from understudy.envs.sources.task import Episode, Expert, Settings, Task
from understudy.errors import DatasetError, UserError
from understudy.files import tools_path
from understudy.registry import sources

if TYPE_CHECKING:
    import gymnasium

URL = "https://rail.eecs.berkeley.edu/datasets/ogbench"
_STATE_OF = {"qpos": ("cube", "scene", "maze", "soccer"), "button_states": ("scene", "puzzle")}
"""The simulator states that OGBench's relabelling reads, by family."""


@dataclass(frozen=True)
class OGBenchTask(Task):
    """The parts of a dataset's name, `[visual-]<family>-<kind>[-singletask[-task1..5] | -oraclerep]-v0`."""

    family: str
    """The environment, such as cube-single, antmaze-giant or scene."""
    kind: str
    """The dataset's type: play, noisy, navigate, stitch, explore; scripted and policy are made here."""
    visual: bool
    """Whether pictures are all that is seen."""
    single: bool
    """Whether it is one fixed task, with rewards; else the goal is told."""
    number: str | None
    """Digit of the fixed task; None for the environment's default one."""
    oracle_goals: bool
    """Whether goals are places and button states instead of observations."""

    @property
    def env_id(self) -> str:
        """The gymnasium id: the name without the dataset's type and without `oraclerep`."""
        number = f"-task{self.number}" if self.number else ""
        return f"{VISUAL * self.visual}{self.family}{'-singletask' * self.single}{number}-v0"

    @property
    def goal_conditioned(self) -> bool:
        """Whether a goal is told: in all but the single tasks."""
        return not self.single

    @property
    def with_states(self) -> OGBenchTask:
        """The same task seen by its states."""
        return replace(self, env_name=self.env_name.removeprefix(VISUAL), visual=False)

    def make_env(self, *, render: bool = False, size: int = 256, settings: Settings | None = None) -> gymnasium.Env:
        """Return the environment, made deterministic; pixel observations keep their 64 x 64 in videos.

        Goal-conditioned ones evaluate task `seed % 5 + 1`, so that consecutive seeds cover the five tasks evenly.
        `settings` are `{"rendering": ...}` for visual ones.
        """
        rendering = self.drawn((settings or {}).get("rendering", {}), PUBLISHED) or PUBLISHED
        if importlib.util.find_spec("ogbench") is None:
            raise missing_package(self.env_name, "ogbench", "envs")
        choose_renderer()
        return make(self.env_id, render=render, size=size, oracle_goals=self.oracle_goals, rendering=rendering)

    @property
    def max_episode_steps(self) -> int:
        """The time limit that OGBench registers."""
        if importlib.util.find_spec("ogbench") is None:
            return STEPS.get(self.family, 1000)
        return int(registration(self.env_id).max_episode_steps or 1000)

    @property
    def has_success(self) -> bool:
        """Every OGBench task tells success."""
        return True

    @property
    def action_names(self) -> tuple[str, ...]:
        """What the arm takes; nothing for the mazes."""
        return ("x", "y", "z", "yaw", "gripper") if self.family.partition("-")[0] in ARMS else ()

    def stored_reward(self, reward: float) -> float:
        """Return -1 for goal-conditioned tasks, whose data have no other rewards."""
        return reward if self.single else -1.0

    @property
    def remote(self) -> Remote | None:
        """The training file's address, which the three variants share (validation data: `<stem>-val.npz`)."""
        if self.kind not in published(self.family) or self.family == "cube-octuple":
            return None
        return Remote(f"{URL}/{VISUAL * self.visual}{self.family}-{self.kind}-v0.npz")

    def found(self) -> Path | None:
        """Return the file that the ogbench package has fetched, in ~/.ogbench/data."""
        file = tools_path("~/.ogbench/data") / self.remote.file_name if self.remote else None
        return file if file is not None and file.is_file() else None

    def expert(self) -> Expert | None:
        """Return a new expert made of OGBench's oracles, for the arm tasks that they solve."""
        return expert_for(self.family)

    def rendering(self, options: Mapping[str, str]) -> Settings | None:
        """Return how pictures are drawn: shadows, offsamples, reflections; quickly, where the options do not say."""
        rendering = self.drawn(options, FAST)
        return None if rendering is None else {"rendering": rendering.settings()}

    def drawn(self, options: Any, otherwise: Rendering) -> Rendering | None:
        """Return how a visual task's pictures are drawn; None for the others, which take no options."""
        if self.visual:
            return Rendering.of(self.env_name, options, otherwise)
        super().rendering(options)
        return None

    def simulator_state(self, env: gymnasium.Env) -> dict[str, np.ndarray]:
        """Return qpos, qvel and, where there are buttons, button_states."""
        return states_of(env)

    def provenance(self, path: Path) -> dict[str, Any]:
        """Return how the rewards were made, and what a file made here says about itself; `environment`: rendering."""
        files = self.source.files(path)
        header = read_npz(files[0], (), ("made_by", "rewards", *STATE_KEYS), headers=True)
        drawn = [self._drawn_in(file) for file in files]
        if len(set(drawn)) > 1:
            raise DatasetError(f"{path}: its files' pictures were drawn with different options: {drawn[0]} and others")
        return {
            "rewards": self._reward_note(header),
            **({"made_by": str(header["made_by"])} if "made_by" in header else {}),
            **({"environment": {"rendering": drawn[0].settings()}} if drawn[0] else {}),
        }

    def read(self, path: Path) -> Iterator[Episode]:
        """Yield the trajectories of one or more npz files; `oraclerep` ones have `achieved_goals` [T, G]."""
        env = None
        if importlib.util.find_spec("ogbench") is not None:  # the task with states says the same, and need not render
            env = self.with_states.make_env()
        for file in self.source.files(path):
            with open_trajectories(file) as data:
                self._check(data, file, env)
                self._label(data.rows, file, env)
                yield from data.episodes()

    def _check(self, data: Trajectories, file: Path, env: gymnasium.Env | None) -> None:
        """Refuse data of another task here, where the file is known, and not far away in a network's first layer."""
        if env is None:
            return
        seen = PICTURE if self.visual else env.observation_space.shape
        shapes = {"observations": seen, "actions": env.action_space.shape}
        for key, found in (("observations", data.observations), ("actions", data.rows["actions"])):
            if found.shape[1:] != shapes[key]:
                raise DatasetError(
                    f"{file}: {key} have shape {found.shape[1:]}, {self.env_id} has {shapes[key]}; "
                    "is it the file of another task?"
                )
        if self.visual != (data.observations.dtype == np.uint8):
            raise DatasetError(
                f"{file}: observations hold {data.observations.dtype}; pictures, and only they, are uint8"
            )

    def _relabels(self, present: Iterable[str]) -> bool:
        """Return whether OGBench can compute the rewards: a single task, and the states that it reads are stored."""
        wanted = {name for name, words in _STATE_OF.items() if any(word in self.family for word in words)}
        return self.single and importlib.util.find_spec("ogbench") is not None and wanted <= set(present)

    def _label(self, rows: dict[str, np.ndarray], file: Path, env: gymnasium.Env | None) -> None:
        """Add rewards and masks [rows], and achieved_goals [rows, G] where they are not the observations."""
        count = len(rows["actions"])
        if not self.single or "rewards" not in rows:
            rows["rewards"] = np.full(count, -1.0, np.float32)
        if not self.single or "masks" not in rows:
            rows["masks"] = np.ones(count, np.float32)
        task = self.with_states.env_id
        try:
            if self._relabels(rows):
                from ogbench.relabel_utils import relabel_dataset

                relabel_dataset(task, env, rows)
            elif self.oracle_goals:
                from ogbench.relabel_utils import add_oracle_reps

                add_oracle_reps(task, env, rows)
                rows["achieved_goals"] = rows.pop("oracle_reps")
        except ImportError as error:
            raise missing_package(self.env_name, "ogbench", "envs") from error
        except KeyError as error:
            goals = f"which the goals of {self.env_name} are made of"
            raise DatasetError(f"{file}: has no {error.args[0]!r}, {goals}") from error
        except (IndexError, ValueError) as error:
            raise DatasetError(f"{file}: its qpos or button_states do not fit {task} ({error})") from error

    def _reward_note(self, header: Mapping[str, Any]) -> str:
        if self._relabels(header):
            return "ogbench.relabel_utils: minus the number of unmet sub-goals in the state before the action"
        if not self.single:
            return "-1 everywhere and no terminals: they follow from the goals, which are chosen when training"
        if "rewards" in header:
            return "as in the file"
        return "-1 everywhere: the file holds no simulator states to compute them from"

    def _drawn_in(self, file: Path) -> Rendering | None:
        """Return how a file says its pictures were drawn; files that say nothing are OGBench's own."""
        text = read_npz(file, (), ("environment",), headers=True).get("environment", "{}")
        try:
            said = json.loads(str(text)).get("rendering", {})
            if said and not self.visual:
                seen = f"{self.env_name} sees none"
                raise DatasetError(f"{file}: holds pictures, {seen}; is it the file of another task?")
            return self.drawn(said, PUBLISHED)
        except (ValueError, AttributeError, UserError) as error:
            raise DatasetError(f"{file}: `environment` is no table of rendering options ({error})") from error


class OGBench(Source):
    """OGBench's datasets and environments, single-task and goal-conditioned."""

    name = "ogbench"
    title = "OGBench"
    example = "cube-single-play-singletask-task1-v0"
    suffix = ".npz"

    def parse(self, env_name: str) -> OGBenchTask | None:
        """Return the task of a name like cube-single-play-singletask-task1-v0."""
        found = NAME.fullmatch(env_name)
        if found is None or (found["visual"] and found["family"] not in DRAWN):
            return None
        family, kind, visual, single, number, oracle = found.group(
            "family", "kind", "visual", "single", "number", "oracle"
        )
        return OGBenchTask(self, env_name, family, kind, bool(visual), bool(single), number, bool(oracle))

    def advice(self, env_name: str) -> str:
        """Return what is wrong with a name of one task that lacks its environment, or whose task is none of 1 to 5."""
        found = re.fullmatch(r"(?P<visual>visual-)?(?P<rest>[a-z0-9-]*?)-?singletask-task(?P<number>\d+)-v0", env_name)
        if found is None or self.matches(env_name):
            return ""
        visual, number = found["visual"] or "", min(max(int(found["number"]), 1), 5)
        rest = found["rest"] if self.matches(f"{visual}{found['rest']}-v0") else "cube-single-play"
        lacks = "" if rest == found["rest"] else "an OGBench name says the environment and the data too; "
        return f"{lacks}tasks are numbered 1 to 5: {visual}{rest}-singletask-task{number}-v0, say"

    def known_names(self) -> list[str]:
        """Return the published names, for states and for pictures, and the scripted ones that an expert solves."""
        variants = ("", "-oraclerep", "-singletask", *(f"-singletask-task{i}" for i in range(1, 6)))
        return [
            f"{seen}{family}-{kind}{variant}-v0"
            for seen, families in (("", FAMILIES), (VISUAL, DRAWN))
            for family in families
            for kind in (*published(family), *(("scripted",) if family in SOLVED else ()))
            for variant in variants
        ]

    def files(self, path: Path) -> list[Path]:
        """Return `path`, or the training files (*.npz without -val) of a folder, sorted."""
        if not path.is_dir():
            return [path]
        found = sorted(p for p in path.glob("*.npz") if not p.stem.endswith("-val"))
        if not found:
            raise DatasetError(f"{path}: no .npz files in this folder")
        return found

    def write(self, path: Path, episodes: Iterable[Episode], env_name: str, provenance: Mapping[str, Any]) -> None:
        """Write an npz that OGBench's own loader reads too; each trajectory ends with a row of its final state."""
        notes = {"made_by": str(provenance.get("made_by") or "")}
        task = self.parse(env_name)
        if task is not None and task.visual:
            drawn = task.drawn((provenance.get("environment") or {}).get("rendering", {}), PUBLISHED)
            notes["environment"] = json.dumps({"rendering": (drawn or PUBLISHED).settings()})
        write_npz(path, episodes, env_name, notes)


sources.register("ogbench")(OGBench())
