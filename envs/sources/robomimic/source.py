"""robomimic (Mandlekar et al. 2021, arXiv 2108.03298): human demonstrations in HDF5, of states or of pictures.

An observation is each arm's eef_pos, eef_quat and gripper_qpos, then the array `object`. Names are
`<task>-<mh|ph>-<low_dim|image>`; in the place of `object`, `image` ones have the pictures of cameras: those that are
in the file (`obs/<camera>_image`), or where there are none the usual ones of the task, drawn from the file's states.
Demonstrations are taken in numeric order (demo_2 before demo_10); rewards are minus 1, so that they are -1 until the
task is solved. Of the types `scripted` and `policy` are datasets that are made here. The tasks play in robosuite with
the settings that the file itself carries (`env_args`), which the manifest's provenance keeps.
"""

from __future__ import annotations

import importlib.util
import itertools
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from understudy.envs.files.downloads import Remote
from understudy.envs.simulators.video import choose_renderer
from understudy.envs.sources.robomimic.cameras import Cameras
from understudy.envs.sources.robomimic.files import (
    Layout,
    cameras_in,
    demonstrations_in,
    read_attributes,
    read_demonstrations,
    write_demonstrations,
)
from understudy.envs.sources.robomimic.images import sizes_of
from understudy.envs.sources.source import Source, missing_package
from understudy.envs.sources.task import Episode, Expert, Settings, Task
from understudy.errors import DatasetError, UserError
from understudy.registry import sources

if TYPE_CHECKING:
    import gymnasium


@dataclass(frozen=True)
class RobosuiteTask:
    """A task's name in robosuite, its episode limit (Q-chunking's), the length of its array `object`, its arms.

    `cameras` and `side` are those of robomimic's own picture files, `extract_obs_from_raw_datasets.sh`.
    """

    name: str
    max_steps: int
    object_dims: int
    arms: int = 1
    cameras: tuple[str, ...] = ("agentview", "robot0_eye_in_hand")
    side: int = 84

    @property
    def usual(self) -> Cameras:
        """The cameras of the task's picture files, drawn with all that MuJoCo draws."""
        return Cameras(dict.fromkeys(self.cameras, (self.side, self.side)))


TRANSPORT = ("shouldercamera0", "shouldercamera1", "robot0_eye_in_hand", "robot1_eye_in_hand")
TASKS = {
    "lift": RobosuiteTask("Lift", 300, 10),
    "can": RobosuiteTask("PickPlaceCan", 300, 14),
    "square": RobosuiteTask("NutAssemblySquare", 400, 14),
    "transport": RobosuiteTask("TwoArmTransport", 800, 41, arms=2, cameras=TRANSPORT),
    "tool_hang": RobosuiteTask("ToolHang", 1000, 44, cameras=("sideview", "robot0_eye_in_hand"), side=240),
}
TYPES = ("mh", "ph")
NAME = re.compile(rf"(?P<task>{'|'.join(TASKS)})-(?P<kind>mh|ph|scripted|policy)-(?P<seen>low_dim|image)")
SOLVED = "lift"
"""The task that the scripted expert solves."""
REVISION = "74fa018461f479cd9fd15b924a16103012096203"
URL = f"https://huggingface.co/datasets/robomimic/robomimic_datasets/resolve/{REVISION}/v1.5"
SHA256 = {
    "lift-ph": "2067777cb8b532e9263dd09fd6448c41cc31224bb27be4a3b734010ae13eb540",
    "can-ph": "3f2eb92e0a5025d0095e866ac16cc8092d6a762abe27dec90dbaff9027282962",
    "square-ph": "45d8cabb6d57a4c03e839aa5e4b3e58fb60fe8bd20e1951fec563a2abfd14951",
    "transport-ph": "260515618f4c8b660e54171497ecceb08c7c6463691a9ce862b158bcacd950b4",
    "tool_hang-ph": "c5cb01b119a109a3d4842ca515906e86f1f35a8ee1a333d22b3503c1a513a8f4",
}
"""Hashes of the files for robosuite 1.5 at that revision, where known."""


@dataclass(frozen=True)
class RobomimicTask(Task):
    """The parts of a dataset's name, `<task>-<kind>-<low_dim|image>`."""

    task: str
    kind: str
    """mh or ph (published), scripted or policy (made here)."""
    sees_pictures: bool

    @property
    def played(self) -> RobosuiteTask:
        """The task in robosuite."""
        return TASKS[self.task]

    @property
    def layout(self) -> Layout:
        """What the files of the task hold; cameras are added to it."""
        return Layout(self.played.name, self.played.arms, None if self.sees_pictures else self.played.object_dims)

    @property
    def env_id(self) -> str:
        """robosuite's name of the environment."""
        return self.played.name

    def make_env(self, *, render: bool = False, size: int = 256, settings: Settings | None = None) -> gymnasium.Env:
        """Return the task in robosuite, with the cameras that `settings` name; an episode ends when it is solved."""
        cameras = Cameras.of(settings or {}, self.played.usual) if self.sees_pictures else None
        if importlib.util.find_spec("robosuite") is None:
            raise missing_package(self.env_name, "robosuite", "robosuite")
        choose_renderer()
        from understudy.envs.sources.robomimic.robosuite import RobosuiteEnv

        return RobosuiteEnv(
            self.played.name,
            settings,
            keys=self.layout.keys,
            max_steps=self.played.max_steps,
            render_size=size if render else None,
            cameras=cameras,
        )

    @property
    def max_episode_steps(self) -> int:
        """The task's limit."""
        return self.played.max_steps

    @property
    def has_success(self) -> bool:
        """Every task tells success."""
        return True

    @property
    def action_names(self) -> tuple[str, ...]:
        """What robosuite's operational-space controller takes of one arm; nothing for two."""
        return ("x", "y", "z", "roll", "pitch", "yaw", "gripper") if self.played.arms == 1 else ()

    @property
    def remote(self) -> Remote | None:
        """The file for robosuite 1.5; pictures are drawn from its states when it is imported."""
        if not _published(self.task, self.kind):
            return None
        return Remote(f"{URL}/{self.task}/{self.kind}/low_dim_v15.hdf5", SHA256.get(f"{self.task}-{self.kind}"))

    def found(self) -> Path | None:
        """Return the file that robomimic's own script has fetched, in `datasets` beside its package."""
        package, remote = importlib.util.find_spec("robomimic"), self.remote
        if package is None or remote is None:
            return None
        folders = [Path(place).parent / "datasets" for place in package.submodule_search_locations or []]
        files = [folder / self.task / self.kind / remote.file_name for folder in folders]
        return next((file for file in files if file.is_file()), None)

    def expert(self) -> Expert | None:
        """Return the scripted controller of Lift."""
        if self.task != SOLVED:
            return None
        from understudy.envs.sources.robomimic.lift_expert import LiftExpert

        return LiftExpert()

    def rendering(self, options: Mapping[str, str]) -> Settings | None:
        """Return `env_args` with cameras; options: cameras, height, width, shadows, offsamples, reflections."""
        from understudy.envs.sources.robomimic.robosuite import published_settings

        if not self.sees_pictures:
            return super().rendering(options)
        chosen = Cameras.chosen(self.env_name, options, self.played.usual)
        settings = chosen.settings(published_settings(self.played.name))
        if "cameras" in options:
            self.make_env(settings=settings).close()  # which refuses cameras that the task does not have
        return settings

    def without_pictures(self, settings: Settings | None) -> tuple[str, Settings | None] | None:
        """Return the task of the same name with the objects' states in the place of pictures."""
        return (self.env_name.replace("-image", "-low_dim"), settings) if self.sees_pictures else None

    def observed(self, env: gymnasium.Env, state: Mapping[str, np.ndarray]) -> Any:
        """Return what the task's cameras and arms show of a recorded state."""
        inner: Any = env.unwrapped
        return inner.set_state(state["states"])

    def simulator_state(self, env: gymnasium.Env) -> dict[str, np.ndarray]:
        """Return the state as robomimic stores it: time, positions, velocities."""
        inner: Any = env.unwrapped
        return {"states": inner.state()}

    def provenance(self, path: Path) -> dict[str, Any]:
        """Return the file's env_args (robosuite's version and settings, cameras) as `environment`."""
        found = self._attributes(path)
        note = {"environment": found["env_args"]} if "env_args" in found else {}
        if self.sees_pictures:
            note = {"environment": self._pictured(path)}
        made = {"made_by": str(found["made_by"])} if "made_by" in found else {}
        return {**note, **made, "rewards": "minus 1"}

    def read(self, path: Path) -> Iterator[Episode]:
        """Yield the demonstrations in numeric order; pictures that the file has not are drawn from its states."""
        self._attributes(path)
        if not self.sees_pictures:
            yield from read_demonstrations(path, self.layout)
        elif cameras := cameras_in(path):
            yield from read_demonstrations(path, replace(self.layout, cameras=cameras))
        else:
            from understudy.envs.sources.robomimic.rendering import rendered

            pictures = rendered(path, demonstrations_in(path), self.env_name, self._pictured(path))
            for episode, columns in zip(read_demonstrations(path, self.layout), pictures, strict=True):
                yield {**episode, **columns}

    def _attributes(self, path: Path) -> dict[str, Any]:
        """Return the attributes of the file's data, after a check that they are of this task."""
        found = read_attributes(path)
        said, expected = found.get("env_args", {}).get("env_name"), self.played.name
        if said is not None and said != expected:
            plays = f"{self.env_name} plays in {expected!r}"
            raise DatasetError(f"{path}: env_args say {said!r}, {plays}; is it of another task?")
        return found

    def _pictured(self, path: Path) -> Settings:
        """Return a file's env_args with the cameras that are in it, the task's usual ones where there are none."""
        from understudy.envs.sources.robomimic.robosuite import published_settings

        env_args = self._attributes(path).get("env_args") or published_settings(self.played.name)
        try:
            said = Cameras.of(env_args, self.played.usual)
        except UserError as error:
            raise DatasetError(f"{path}: {error}") from error
        return Cameras(cameras_in(path) or said.sizes, said.rendering).settings(env_args)


class Robomimic(Source):
    """robomimic's datasets."""

    name = "robomimic"
    example = "lift-mh-low_dim"
    suffix = ".hdf5"

    def parse(self, env_name: str) -> RobomimicTask | None:
        """Return the task of a name like lift-mh-low_dim; only Lift has a scripted expert."""
        found = NAME.fullmatch(env_name)
        if found is None or (found["kind"] == "scripted" and found["task"] != SOLVED):
            return None
        return RobomimicTask(self, env_name, found["task"], found["kind"], found["seen"] == "image")

    def known_names(self) -> list[str]:
        """Return the published datasets' names, and the scripted ones."""
        seen = ("low_dim", "image")
        published = [f"{task}-{kind}" for task in TASKS for kind in TYPES if _published(task, kind)]
        return [f"{name}-{what}" for names in (published, [f"{SOLVED}-scripted"]) for what in seen for name in names]

    def write(self, path: Path, episodes: Iterable[Episode], env_name: str, provenance: Mapping[str, Any]) -> None:
        """Write a file that robomimic's SequenceDataset loads and its EnvRobosuite can be made from."""
        from understudy.envs.sources.robomimic.robosuite import published_settings

        task = self.parse(env_name) or self.refuse(env_name)
        layout = task.layout
        env_args = provenance.get("environment") or published_settings(task.played.name)
        if task.sees_pictures:
            remaining = iter(episodes)
            first = list(itertools.islice(remaining, 1))
            episodes = itertools.chain(first, remaining)
            layout = replace(layout, cameras=sizes_of(first[0]) if first else {})
            if first and not layout.cameras:
                raise DatasetError(f"{env_name}: episode 0 has no pictures; a name with low_dim is for states")
            env_args = Cameras(dict(layout.cameras), Cameras.of(env_args, task.played.usual).rendering).settings(
                env_args
            )
        write_demonstrations(path, episodes, layout, env_args, provenance.get("made_by"))


def _published(task: str, kind: str) -> bool:
    return kind in TYPES and (task, kind) != ("tool_hang", "mh")


sources.register("robomimic")(Robomimic())
