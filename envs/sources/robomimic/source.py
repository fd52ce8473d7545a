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
from understudy.envs.sources.task import Episode, Expert, Settings
from understudy.errors import DatasetError, UserError
from understudy.registry import sources

if TYPE_CHECKING:
    import gymnasium


@dataclass(frozen=True)
class Task:
    """A task: robosuite's name of it, its episode limit (Q-chunking's), the length of its array `object`, its arms.

    `cameras` and `side` are those of robomimic's own picture files, `extract_obs_from_raw_datasets.sh`.
    """

    robosuite: str
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
    "lift": Task("Lift", 300, 10),
    "can": Task("PickPlaceCan", 300, 14),
    "square": Task("NutAssemblySquare", 400, 14),
    "transport": Task("TwoArmTransport", 800, 41, arms=2, cameras=TRANSPORT),
    "tool_hang": Task("ToolHang", 1000, 44, cameras=("sideview", "robot0_eye_in_hand"), side=240),
}
TYPES = ("mh", "ph")
NAME = re.compile(rf"(?P<task>{'|'.join(TASKS)})-(?P<type>mh|ph|scripted|policy)-(?P<seen>low_dim|image)")
SCRIPTED = ("lift-scripted-low_dim", "lift-scripted-image")
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


class Robomimic(Source):
    """robomimic's datasets."""

    name = "robomimic"
    suffix = ".hdf5"

    def matches(self, env_name: str) -> bool:
        """Return whether the name is like lift-mh-low_dim; only Lift has a scripted expert."""
        found = NAME.fullmatch(env_name)
        return found is not None and (found["type"] != "scripted" or env_name in SCRIPTED)

    def known_names(self) -> list[str]:
        """Return the published datasets' names, and the scripted ones."""
        published = [f"{task}-{kind}" for task in TASKS for kind in TYPES if _published(task, kind)]
        return [*(f"{name}-{seen}" for seen in ("low_dim", "image") for name in published), *SCRIPTED]

    def env_id(self, env_name: str) -> str:
        """Return robosuite's name of the environment."""
        return _task(env_name).robosuite

    def make_env(
        self, env_name: str, *, render: bool = False, size: int = 256, settings: Settings | None = None
    ) -> gymnasium.Env:
        """Return the task in robosuite, with the cameras that `settings` name; an episode ends when it is solved."""
        task = _task(env_name)
        cameras = Cameras.of(settings or {}, task.usual) if _sees_pictures(env_name) else None
        if importlib.util.find_spec("robosuite") is None:
            raise missing_package(env_name, "robosuite", "robosuite")
        choose_renderer()
        from understudy.envs.sources.robomimic.robosuite import RobosuiteEnv

        return RobosuiteEnv(
            task.robosuite,
            settings,
            keys=_layout(env_name).keys,
            max_steps=task.max_steps,
            render_size=size if render else None,
            cameras=cameras,
        )

    def max_episode_steps(self, env_name: str) -> int:
        """Return the task's limit."""
        return _task(env_name).max_steps

    def has_success(self, env_name: str) -> bool:
        """Every task tells success."""
        return True

    def remote(self, env_name: str) -> Remote | None:
        """Return the file for robosuite 1.5; pictures are drawn from its states when it is imported."""
        _task(env_name)
        task, kind, _ = env_name.split("-")
        if not _published(task, kind):
            return None
        return Remote(f"{URL}/{task}/{kind}/low_dim_v15.hdf5", SHA256.get(f"{task}-{kind}"))

    def found(self, env_name: str) -> Path | None:
        """Return the file that robomimic's own script has fetched, in `datasets` beside its package."""
        package = importlib.util.find_spec("robomimic")
        remote = self.remote(env_name)
        if package is None or remote is None:
            return None
        task, kind, _ = env_name.split("-")
        folders = [Path(place).parent / "datasets" for place in package.submodule_search_locations or []]
        files = [folder / task / kind / remote.file_name for folder in folders]
        return next((file for file in files if file.is_file()), None)

    def expert(self, env_name: str) -> Expert | None:
        """Return the scripted controller of Lift."""
        if _task(env_name).robosuite != "Lift":
            return None
        from understudy.envs.sources.robomimic.lift_expert import LiftExpert

        return LiftExpert()

    def rendering(self, env_name: str, options: Mapping[str, str]) -> Settings | None:
        """Return `env_args` with cameras; options: cameras, height, width, shadows, offsamples, reflections."""
        from understudy.envs.sources.robomimic.robosuite import published_settings

        if not _sees_pictures(env_name):
            return super().rendering(env_name, options)
        task = _task(env_name)
        settings = Cameras.chosen(env_name, options, task.usual).settings(published_settings(task.robosuite))
        if "cameras" in options:
            self.make_env(env_name, settings=settings).close()  # which refuses cameras that the task does not have
        return settings

    def without_pictures(self, env_name: str, settings: Settings | None) -> tuple[str, Settings | None] | None:
        """Return the task of the same name with the objects' states in the place of pictures."""
        return (env_name.replace("-image", "-low_dim"), settings) if _sees_pictures(env_name) else None

    def observed(self, env: gymnasium.Env, state: Mapping[str, np.ndarray]) -> Any:
        """Return what the task's cameras and arms show of a recorded state."""
        inner: Any = env.unwrapped
        return inner.set_state(state["states"])

    def simulator_state(self, env: gymnasium.Env) -> dict[str, np.ndarray]:
        """Return the state as robomimic stores it: time, positions, velocities."""
        inner: Any = env.unwrapped
        return {"states": inner.state()}

    def provenance(self, path: Path, env_name: str) -> dict[str, Any]:
        """Return the file's env_args (robosuite's version and settings, cameras) as `environment`."""
        found = _attributes(path, env_name)
        note = {"environment": found["env_args"]} if "env_args" in found else {}
        if _sees_pictures(env_name):
            note = {"environment": self._pictured(path, env_name)}
        made = {"made_by": str(found["made_by"])} if "made_by" in found else {}
        return {**note, **made, "rewards": "minus 1"}

    def read(self, path: Path, env_name: str) -> Iterator[Episode]:
        """Yield the demonstrations in numeric order; pictures that the file has not are drawn from its states."""
        _attributes(path, env_name)
        layout = _layout(env_name)
        if not _sees_pictures(env_name):
            yield from read_demonstrations(path, layout)
        elif cameras := cameras_in(path):
            yield from read_demonstrations(path, replace(layout, cameras=cameras))
        else:
            from understudy.envs.sources.robomimic.rendering import rendered

            pictures = rendered(path, demonstrations_in(path), env_name, self._pictured(path, env_name))
            for episode, columns in zip(read_demonstrations(path, layout), pictures, strict=True):
                yield {**episode, **columns}

    def write(self, path: Path, episodes: Iterable[Episode], env_name: str, provenance: Mapping[str, Any]) -> None:
        """Write a file that robomimic's SequenceDataset loads and its EnvRobosuite can be made from."""
        from understudy.envs.sources.robomimic.robosuite import published_settings

        task, layout = _task(env_name), _layout(env_name)
        env_args = provenance.get("environment") or published_settings(task.robosuite)
        if _sees_pictures(env_name):
            remaining = iter(episodes)
            first = list(itertools.islice(remaining, 1))
            episodes = itertools.chain(first, remaining)
            layout = replace(layout, cameras=sizes_of(first[0]) if first else {})
            if first and not layout.cameras:
                raise DatasetError(f"{env_name}: episode 0 has no pictures; a name with low_dim is for states")
            env_args = Cameras(dict(layout.cameras), Cameras.of(env_args, task.usual).rendering).settings(env_args)
        write_demonstrations(path, episodes, layout, env_args, provenance.get("made_by"))

    def _pictured(self, path: Path, env_name: str) -> Settings:
        """Return a file's env_args with the cameras that are in it, the task's usual ones where there are none."""
        from understudy.envs.sources.robomimic.robosuite import published_settings

        task = _task(env_name)
        env_args = _attributes(path, env_name).get("env_args") or published_settings(task.robosuite)
        try:
            said = Cameras.of(env_args, task.usual)
        except UserError as error:
            raise DatasetError(f"{path}: {error}") from error
        return Cameras(cameras_in(path) or said.sizes, said.rendering).settings(env_args)


def _attributes(path: Path, env_name: str) -> dict[str, Any]:
    """Return the attributes of the file's data, after a check that they are of this task."""
    found = read_attributes(path)
    said, expected = found.get("env_args", {}).get("env_name"), _task(env_name).robosuite
    if said is not None and said != expected:
        raise DatasetError(f"{path}: env_args say {said!r}, {env_name} plays in {expected!r}; is it of another task?")
    return found


def _sees_pictures(env_name: str) -> bool:
    _task(env_name)
    return env_name.endswith("-image")


def _layout(env_name: str) -> Layout:
    task = _task(env_name)
    return Layout(task.robosuite, task.arms, None if _sees_pictures(env_name) else task.object_dims)


def _published(task: str, kind: str) -> bool:
    return kind in TYPES and (task, kind) != ("tool_hang", "mh")


def _task(env_name: str) -> Task:
    found = NAME.fullmatch(env_name)
    if found is None:
        raise DatasetError(f"{env_name!r} is not a robomimic name, such as lift-mh-low_dim")
    return TASKS[found["task"]]


sources.register("robomimic")(Robomimic())
