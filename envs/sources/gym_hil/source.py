"""gym-hil's pick cube (Luo et al. 2024, HIL-SERL, arXiv 2410.21845): a Panda arm, two cameras, a scripted expert.

Names are gym-hil's id with the type of the data before its version: `gym_hil/PandaPickCube-scripted-v0` sees a state
[18] and the pictures of the cameras `front` and `wrist`; `gym_hil/PandaPickCube-state-scripted-v0` sees the state with
the cube's position [21] and renders nothing. Types: scripted, policy, human (recorded), or none.

How pictures are made (cameras, size, shadows, smoothed edges) is in the manifest as the environment's settings, and
policies are evaluated with the same. Actions are [-1, 1] in all dims, which gym-hil's gripper (0 to 2) is not: see
`env.PickCube`.
"""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from understudy.envs.simulators.video import choose_renderer
from understudy.envs.sources.gym_hil.env import CONTROL_HZ, MAX_STEPS, PickCube, Pictures
from understudy.envs.sources.gym_hil.files import read_columns, read_notes, write_columns
from understudy.envs.sources.source import Source
from understudy.envs.sources.task import Episode, Expert, Settings, Task
from understudy.errors import UserError
from understudy.registry import sources

if TYPE_CHECKING:
    import gymnasium

NAME = re.compile(r"gym_hil/PandaPickCube(?P<state>-state)?(?:-(?:scripted|policy|human))?-v0")
ENV_ID = "gym_hil/PandaPickCube-v0"


@dataclass(frozen=True)
class GymHILTask(Task):
    """Pick cube, seen with cameras or with the cube's position."""

    sees_pictures: bool

    @property
    def env_id(self) -> str:
        """gym-hil's id."""
        return ENV_ID

    @property
    def max_episode_steps(self) -> int:
        """gym-hil's limit."""
        return MAX_STEPS

    @property
    def has_success(self) -> bool:
        """The task tells success."""
        return True

    @property
    def action_names(self) -> tuple[str, ...]:
        """Moves of the hand along the world's axes, and the gripper, which 1 closes."""
        return ("x", "y", "z", "gripper")

    @property
    def control_hz(self) -> float:
        """gym-hil's rate."""
        return CONTROL_HZ

    def make_env(self, *, render: bool = False, size: int = 256, settings: Settings | None = None) -> gymnasium.Env:
        """Return the task; `settings` are cameras, height, width and rendering, which is quick unless they say so."""
        pictures = self._pictures(settings or {})
        if importlib.util.find_spec("gym_hil") is None:
            raise UserError(
                f"{self.env_name}: its simulator needs 'gym-hil'; run `pip install --no-deps gym-hil==0.1.14`"
            )
        choose_renderer()
        return PickCube(pictures, cube=not self.sees_pictures, render_size=size if render else None)

    def rendering(self, options: Mapping[str, str]) -> Settings | None:
        """Return which pictures are made: cameras, height, width, shadows, offsamples, reflections."""
        if not self.sees_pictures:
            return super().rendering(options)
        return Pictures.asked(self.env_name, options).settings()

    def without_pictures(self, settings: Settings | None) -> tuple[str, Settings | None] | None:
        """Return the task with no cameras, for names that see pictures."""
        return (self.env_name, {**(settings or {}), "cameras": []}) if self.sees_pictures else None

    def observed(self, env: gymnasium.Env, state: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Return the pictures of the recorded positions."""
        task: Any = env.unwrapped
        return task.pictures(state["qpos"])

    def expert(self) -> Expert:
        """Return the scripted controller."""
        from understudy.envs.sources.gym_hil.expert import PickCubeExpert

        return PickCubeExpert()

    def simulator_state(self, env: gymnasium.Env) -> dict[str, np.ndarray]:
        """Return MuJoCo's qpos [22] and qvel [21]."""
        task: Any = env.unwrapped
        return {"qpos": task.qpos(), "qvel": np.array(task.task.data.qvel)}

    def gripper_closed(self, env: gymnasium.Env) -> float:
        """Return how far the gripper is told to close."""
        task: Any = env.unwrapped
        return task.grip

    def provenance(self, path: Path) -> dict[str, Any]:
        """Return the rendering options as `environment`, the rate, and how the file was made."""
        return {"fps": CONTROL_HZ, **read_notes(path)}

    def read(self, path: Path) -> Iterator[Episode]:
        """Yield the episodes; pictures of other cameras or sizes than the file's own settings say are refused."""
        wanted: dict[str, tuple[int, ...]] = {"observations": (18 if self.sees_pictures else 21,)}
        if self.sees_pictures:
            shown = self._pictures(read_notes(path).get("environment", {}))
            wanted |= {f"images/{camera}": (shown.height, shown.width, 3) for camera in shown.cameras}
        yield from read_columns(path, {**wanted, "actions": (4,)}, self.env_name)

    def _pictures(self, settings: Settings) -> Pictures:
        """Return what is observed; nothing where the state is all, which takes no settings."""
        if self.sees_pictures:
            return Pictures.of(self.env_name, settings)
        if settings:
            raise UserError(f"{self.env_name}: has no pictures, so it takes no settings ({next(iter(settings))})")
        return Pictures(cameras=())


class GymHIL(Source):
    """Demonstrations of gym-hil's pick cube."""

    name = "gym_hil"
    title = "gym-hil"
    suffix = ".hdf5"

    def parse(self, env_name: str) -> GymHILTask | None:
        """Return the task of a name like gym_hil/PandaPickCube-scripted-v0."""
        found = NAME.fullmatch(env_name)
        return None if found is None else GymHILTask(self, env_name, sees_pictures=found["state"] is None)

    def known_names(self) -> list[str]:
        """Return the names of what the scripted expert makes, and of the task itself."""
        return [f"gym_hil/PandaPickCube{words}-v0" for words in ("-scripted", "-state-scripted", "", "-state")]

    def write(self, path: Path, episodes: Iterable[Episode], env_name: str, provenance: Mapping[str, Any]) -> None:
        """Write an HDF5 file with all columns, pictures without loss."""
        write_columns(path, episodes, provenance)


sources.register("gym_hil")(GymHIL())
