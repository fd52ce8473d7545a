"""Play gym-hil's pick cube: gym-hil's own task and controller, made a pure function of the reset's seed, quick to draw.

gym-hil places the cube by the global `np.random`, whatever seed `reset` gets, and renders with shadows and smoothed
edges, which takes ten times as long on CPUs. States, rewards and endings here are gym-hil's, bit for bit. Pictures are
drawn from the positions that a step ends with, which gym-hil's are 2 ms behind, so that they can be drawn later too,
from nothing but `qpos`.
"""

from __future__ import annotations

import copy
import types
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

import gymnasium
import numpy as np

from understudy.envs.simulators.deterministic import global_numpy_seed
from understudy.envs.simulators.rendering import FAST, Rendering, close_at_exit, whole
from understudy.errors import UserError, did_you_mean

CAMERAS = {"front": "front", "wrist": "handcam_rgb"}
"""Our names, which are gym-hil's in its observations, and the model's."""
CONTROL_HZ, MAX_STEPS = 10.0, 100
STEP = 0.025
"""What an action of 1 moves the hand's target by, in metres; gym-hil's default."""
SIDE = (8, 1024)
"""Pixels that a picture may have along a side."""


@dataclass(frozen=True)
class Pictures:
    """Which pictures are observed, their size in pixels, and how they are drawn.

    By default quickly: two pictures take 0.05 s of CPU; gym-hil's own (shadows, 8 samples a pixel) 0.5 s.
    """

    cameras: tuple[str, ...] = tuple(CAMERAS)
    height: int = 128
    width: int = 128
    rendering: Rendering = FAST

    @classmethod
    def of(cls, env_name: str, settings: Mapping[str, Any]) -> Pictures:
        """Return the pictures that an environment's settings say (JSON values); UserError for nonsense."""
        known = asdict(cls())
        for name in settings:
            if name not in known:
                raise UserError(f"{env_name}: no setting {name!r}{did_you_mean(name, known)}")
        return cls(
            cameras=_cameras(env_name, settings.get("cameras", cls.cameras)),
            height=whole(env_name, "height", settings.get("height", cls.height), *SIDE),
            width=whole(env_name, "width", settings.get("width", cls.width), *SIDE),
            rendering=Rendering.of(env_name, settings.get("rendering", {}), FAST),
        )

    @classmethod
    def asked(cls, env_name: str, options: Mapping[str, str]) -> Pictures:
        """Return the pictures that a command line asks for: cameras (by commas), height, width and how to draw them."""
        own = {name: value for name, value in options.items() if name in asdict(cls()) and name != "rendering"}
        drawing = {name: value for name, value in options.items() if name in asdict(FAST)}
        odd = [name for name in options if name not in own and name not in drawing]
        if odd:
            hint = did_you_mean(odd[0], [*(name for name in asdict(cls()) if name != "rendering"), *asdict(FAST)])
            raise UserError(f"{env_name}: no rendering option {odd[0]!r}{hint}")
        cameras = {"cameras": own["cameras"].split(",")} if "cameras" in own else {}
        return cls.of(env_name, {**own, **cameras, "rendering": drawing})

    def settings(self) -> dict[str, Any]:
        """Return everything as JSON values."""
        return {**asdict(self), "cameras": list(self.cameras)}


class PickCube(gymnasium.Env):
    """Lift the cube by more than 10 cm; the reward is 1 in the step that does it, which ends the episode, else 0.

    Actions are [x, y, z, gripper] in [-1, 1]: how far the hand's target moves along the world's axes, in steps of
    2.5 cm, and 1 to close the gripper, -1 to open it (gym-hil's gripper is this plus 1: 0 opens, 2 closes). They are
    clipped to that.

    The state [18] float32 is gym-hil's `agent_pos`: 7 joint angles, their velocities, the gripper's command (0 to 255)
    and the hand's position. Observations are a dict of `state` and the cameras' pictures [height, width, 3] uint8;
    without cameras the state alone, with `cube` followed by the cube's position: [21].
    """

    max_episode_steps = MAX_STEPS
    metadata = {"render_modes": ["rgb_array"], "render_fps": int(CONTROL_HZ)}

    def __init__(self, pictures: Pictures, *, cube: bool = False, render_size: int | None = None) -> None:
        from gym_hil.envs import PandaPickCubeGymEnv

        with _no_renderer():
            self.task: Any = PandaPickCubeGymEnv(random_block_position=True)
        self._pictures, self._cube, self._film_size = pictures, cube, render_size
        self.render_mode = None if render_size is None else "rgb_array"
        self._camera: _Camera | None = None
        self._film: _Camera | None = None
        self._seed = self._steps = 0
        self.action_space = gymnasium.spaces.Box(-1.0, 1.0, (4,), np.float32)
        state = gymnasium.spaces.Box(-np.inf, np.inf, (21 if cube else 18,), np.float32)
        picture = gymnasium.spaces.Box(0, 255, (pictures.height, pictures.width, 3), np.uint8)
        parts: dict[str, gymnasium.Space] = {"state": state, **dict.fromkeys(pictures.cameras, picture)}
        self.observation_space = gymnasium.spaces.Dict(parts) if pictures.cameras else state

    @property
    def hand(self) -> np.ndarray:
        """The place between the fingertips [3], in metres."""
        return self.task.data.sensor("2f85/pinch_pos").data.copy()

    @property
    def cube(self) -> np.ndarray:
        """The cube's position [3], in metres."""
        return self.task.data.sensor("block_pos").data.copy()

    @property
    def target(self) -> np.ndarray:
        """Where the hand is told to be [3], in metres: the sum of the moves so far, within bounds."""
        return self.task.data.mocap_pos[0].copy()

    @property
    def grip(self) -> float:
        """How far the gripper is told to close, 0 to 1."""
        return float(self.task.get_gripper_pose()[0]) / 255.0

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Reset with a seed (counting on from the last one without it)."""
        self._seed = self._seed + 1 if seed is None else int(seed)
        super().reset(seed=self._seed)
        with global_numpy_seed(self._seed):
            observation, _ = self.task.reset(seed=self._seed)
        self._steps = 0
        return self._observed(observation), {"success": False}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """Execute an action [4] for a tenth of a second; an episode also ends when the cube leaves its area."""
        chosen = np.asarray(action, np.float32)  # as actions are stored, so that replays are exact
        if chosen.shape != (4,):
            raise UserError(f"action of shape {chosen.shape}: this task takes (4,)")
        x, y, z, gripper = np.clip(chosen, -1.0, 1.0).astype(np.float64)
        moves = np.array([x * STEP, y * STEP, z * STEP, 0.0, 0.0, 0.0, gripper])
        observation, reward, ended, _, info = self.task.step(moves)
        self._steps += 1
        told = {"success": bool(info["succeed"])}
        return self._observed(observation), float(reward), bool(ended), self._steps >= MAX_STEPS, told

    def qpos(self) -> np.ndarray:
        """Return the positions [22] float64 that pictures are drawn from."""
        return np.array(self.task.data.qpos)

    def pictures(self, qpos: np.ndarray) -> dict[str, np.ndarray]:
        """Return what the cameras see of positions [22]; the simulation stays as it is."""
        if np.shape(qpos) != self.task.data.qpos.shape:
            raise UserError(f"simulator positions of shape {np.shape(qpos)}: this task's have (22,)")
        if self._camera is None:
            self._camera = _Camera(self.task.model, self._pictures)
        return self._camera.shoot(np.asarray(qpos, np.float64))

    def render(self) -> np.ndarray | None:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Return the front camera's picture [size, size, 3] uint8, or None without `render_size`."""
        if self._film_size is None:
            return None
        if self._film is None:
            self._film = _Camera(self.task.model, Pictures(("front",), self._film_size, self._film_size))
        return self._film.shoot(self.qpos())["front"]

    def close(self) -> None:
        """Free the renderers."""
        for camera in (self._camera, self._film):
            if camera is not None:
                camera.close()
        self._camera = self._film = None

    def _observed(self, observation: Mapping[str, np.ndarray]) -> Any:
        state = np.asarray(observation["agent_pos"], np.float32)
        if self._cube:
            state = np.concatenate([state, observation["environment_state"]], dtype=np.float32)
        return {"state": state, **self.pictures(self.qpos())} if self._pictures.cameras else state


class _Camera:
    """A renderer with its own copy of the model, whose options it sets, and of the positions."""

    def __init__(self, model: Any, pictures: Pictures) -> None:
        import mujoco

        self._cameras, self._model = pictures.cameras, copy.copy(model)
        pictures.rendering.apply(self._model)
        buffer = self._model.vis.global_
        buffer.offheight, buffer.offwidth = pictures.height, pictures.width
        self._data = mujoco.MjData(self._model)  # pyright: ignore[reportAttributeAccessIssue]
        self._renderer = mujoco.Renderer(self._model, pictures.height, pictures.width)
        close_at_exit(self._renderer)

    def shoot(self, qpos: np.ndarray) -> dict[str, np.ndarray]:
        """Return each camera's picture [height, width, 3] uint8 of positions [22]."""
        import mujoco

        self._data.qpos[:] = qpos
        for update in ("mj_kinematics", "mj_comPos", "mj_camlight"):  # all of mj_forward that pictures need
            getattr(mujoco, update)(self._model, self._data)
        pictures = {}
        for name in self._cameras:
            self._renderer.update_scene(self._data, camera=CAMERAS[name])
            pictures[name] = self._renderer.render()
        return pictures

    def close(self) -> None:
        """Free the renderer."""
        self._renderer.close()


@contextmanager
def _no_renderer() -> Iterator[None]:
    """Let gym-hil build a task without the renderer that it never uses here: it takes a second, and OpenGL."""
    from gym_hil import mujoco_gym_env

    class NoRenderer:
        def __init__(self, *sizes: Any, **named: Any) -> None: ...

        def render(self) -> None: ...

        def close(self) -> None: ...

    original: Any = mujoco_gym_env.mujoco
    mujoco_gym_env.mujoco = types.SimpleNamespace(**{**vars(original), "Renderer": NoRenderer})  # type: ignore[assignment]
    try:
        yield
    finally:
        mujoco_gym_env.mujoco = original


def _cameras(env_name: str, value: Any) -> tuple[str, ...]:
    if not isinstance(value, (list, tuple)):
        raise UserError(f"{env_name}: cameras={value!r}: a list is needed, of {', '.join(CAMERAS)}")
    for camera in value:
        if camera not in CAMERAS:
            raise UserError(f"{env_name}: no camera {camera!r}; there are {', '.join(CAMERAS)}")
    if len(set(value)) != len(value):
        raise UserError(f"{env_name}: cameras={','.join(value)}: one is named twice")
    return tuple(value)
