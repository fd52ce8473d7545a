"""Play robomimic's tasks in robosuite: made from a dataset's own `env_args`, deterministic by seed, quiet.

Observations, rewards and success are taken after MuJoCo's positions were brought up to date with the state, as in
robomimic's extraction of observations from recorded states. robosuite's own `step` leaves them 2 ms behind.
"""

from __future__ import annotations

import copy
import functools
import logging
import os
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import gymnasium
import numpy as np

from understudy.envs.simulators.deterministic import global_numpy_seed
from understudy.envs.simulators.rendering import FAST
from understudy.envs.sources.robomimic.cameras import Cameras, Photographer
from understudy.errors import UserError

CONTROL_HZ = 20
OSC_POSE: dict[str, Any] = {
    "type": "OSC_POSE", "input_max": 1, "input_min": -1,
    "output_max": [0.05, 0.05, 0.05, 0.5, 0.5, 0.5], "output_min": [-0.05, -0.05, -0.05, -0.5, -0.5, -0.5],
    "kp": 150, "damping": 1, "impedance_mode": "fixed", "kp_limits": [0, 300], "damping_limits": [0, 10],
    "position_limits": None, "orientation_limits": None, "uncouple_pos_ori": True, "control_delta": True,
    "interpolation": None, "ramp_ratio": 0.2, "input_ref_frame": "world", "gripper": {"type": "GRIP"},
}  # fmt: skip
"""The published datasets' controller: moves of up to 5 cm and 0.5 rad a step, in the world's axes."""
FORCED = {
    "has_renderer": False,
    "has_offscreen_renderer": False,  # pictures are rendered here, by MuJoCo's own renderer
    "renderer": "mujoco",
    "use_camera_obs": False,
    "use_object_obs": True,
    "ignore_done": True,  # episodes end here
    "hard_reset": True,  # Lift and Transport draw the sizes of their objects
}
CAMERA_SETTINGS = ("camera_names", "camera_heights", "camera_widths", "camera_depths", "camera_segmentations",
                   "render_camera", "render_gpu_device_id", "renderer_config")  # fmt: skip


def published_settings(task: str) -> dict[str, Any]:
    """Return `env_args` as in the datasets that robomimic publishes for robosuite 1.5; `task` is robosuite's name."""
    arms = {"robots": ["Panda"]}
    if task == "TwoArmTransport":
        arms = {"robots": ["Panda", "Panda"], "env_configuration": "single-arm-opposed"}
    kwargs = {
        "has_renderer": False,
        "has_offscreen_renderer": False,
        "ignore_done": True,
        "use_object_obs": True,
        "use_camera_obs": False,
        "control_freq": CONTROL_HZ,
        "controller_configs": {"type": "BASIC", "body_parts": {"right": copy.deepcopy(OSC_POSE)}},
        **arms,
        "camera_depths": False,
        "camera_heights": 84,
        "camera_widths": 84,
        "lite_physics": False,
        "reward_shaping": False,
    }
    return {"env_name": task, "env_version": "1.5.1", "type": 1, "env_kwargs": kwargs}


class RobosuiteEnv(gymnasium.Env):
    """One robosuite task with low-dimensional observations [O] float32: the arrays of `keys`, joined in that order.

    With cameras an observation is a dict: that array as `state`, and each camera's picture [H, W, 3] uint8.

    The reward is robosuite's minus 1, as in the store: -1 until the task is solved. An episode terminates when it is
    solved, unless `terminate_at_success` is set to False, and is truncated after `max_steps`.
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": CONTROL_HZ}

    def __init__(
        self,
        task: str,
        settings: Mapping[str, Any] | None,
        *,
        keys: Sequence[str],
        max_steps: int,
        render_size: int | None = None,
        camera: str = "agentview",
        cameras: Cameras | None = None,
    ) -> None:
        self._keys, self.max_episode_steps = tuple(keys), max_steps
        self._cameras = cameras
        self._film = Cameras({camera: (render_size, render_size)}, FAST) if render_size is not None else None
        if self._film is not None and cameras is not None:  # both are drawn from one model, which has these options
            self._film = Cameras(self._film.sizes, cameras.rendering)
        self._photographers: dict[str, Photographer] = {}
        self.render_mode = None if render_size is None else "rgb_array"
        self.terminate_at_success = True
        self._seed = self._steps = 0
        kwargs = robosuite_arguments(task, settings)
        with global_numpy_seed(0):
            self.robosuite = _make(task, kwargs)
        low, high = (np.asarray(bound, np.float32) for bound in self.robosuite.action_spec)
        self.action_space = gymnasium.spaces.Box(low, high)
        state = gymnasium.spaces.Box(-np.inf, np.inf, self._state_seen().shape)
        self.observation_space = state
        if cameras is not None:
            cameras.check(task, self._model_and_data()[0])
            pictures = {
                name: gymnasium.spaces.Box(0, 255, (*size, 3), np.uint8) for name, size in cameras.sizes.items()
            }
            self.observation_space = gymnasium.spaces.Dict({"state": state, **pictures})

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Reset with a seed (counting on from the last one without it)."""
        self._seed = self._seed + 1 if seed is None else int(seed)
        super().reset(seed=self._seed)
        self._free()  # the model is compiled anew
        with global_numpy_seed(self._seed):
            self.robosuite.reset()
        self._steps = 0
        return self._observation(), {"success": self._success()}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """Execute an action [A] for one twentieth of a second."""
        chosen = np.asarray(action, np.float64)
        if chosen.shape != self.action_space.shape:
            raise UserError(f"action of shape {chosen.shape}: this task takes {self.action_space.shape}")
        self.robosuite.step(chosen)
        self._steps += 1
        observation, success = self._observation(), self._success()
        reward = float(self.robosuite.reward(chosen)) - 1.0
        ended = success and self.terminate_at_success
        return observation, reward, ended, self._steps >= self.max_episode_steps, {"success": success}

    def render(self) -> np.ndarray | None:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Return the camera's picture [size, size, 3] uint8, or None without `render_size`."""
        return None if self._film is None else next(iter(self._pictures("film", self._film).values()))

    def close(self) -> None:
        """Free the simulation and the renderer."""
        self._free()
        self.robosuite.close()

    def state(self) -> np.ndarray:
        """Return the simulator's state [1 + positions + velocities] float64 as robomimic stores it, time first."""
        return np.asarray(self.robosuite.sim.get_state().flatten())

    def set_model(self, xml: str) -> None:
        """Take the model that a dataset has stored (`model_file`) in place of the last reset's."""
        self._free()
        self.robosuite.reset_from_xml_string(self.robosuite.edit_model_xml(xml))
        self.robosuite.sim.reset()

    def set_state(self, state: np.ndarray) -> Any:
        """Put the simulator into a state of this episode's model and return its observation."""
        expected = self.state().shape
        if np.shape(state) != expected:
            raise UserError(f"simulator state of shape {np.shape(state)}: this task's have {expected}")
        self.robosuite.sim.set_state_from_flattened(np.asarray(state, np.float64))
        self.robosuite.sim.forward()
        return self._observation()

    def _observation(self) -> Any:
        state = self._state_seen()
        return state if self._cameras is None else {"state": state, **self._pictures("cameras", self._cameras)}

    def _state_seen(self) -> np.ndarray:
        import mujoco

        # Positions and contacts of the state that the last step ended in. It changes nothing of what follows: the
        # next step computes them again, and unlike mj_forward it leaves the solver's warm start alone.
        mujoco.mj_fwdPosition(*self._model_and_data())  # pyright: ignore[reportAttributeAccessIssue]
        values = self.robosuite._get_observations(force_update=True)
        return np.concatenate([values[_ROBOSUITE_KEY.get(key, key)] for key in self._keys], dtype=np.float32)

    def _pictures(self, use: str, cameras: Cameras) -> dict[str, np.ndarray]:
        model, data = self._model_and_data()
        if use not in self._photographers:
            self._photographers[use] = Photographer(model, cameras)
        return self._photographers[use].pictures(data)

    def _success(self) -> bool:
        return bool(self.robosuite._check_success())

    def _model_and_data(self) -> tuple[Any, Any]:
        return self.robosuite.sim.model._model, self.robosuite.sim.data._data

    def _free(self) -> None:
        for photographer in self._photographers.values():
            photographer.close()
        self._photographers.clear()


_ROBOSUITE_KEY = {"object": "object-state"}


def robosuite_arguments(task: str, settings: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return robosuite's keyword arguments for a file's `env_args`, whichever robosuite wrote them.

    Files from before 1.5 name one arm controller. It is put into 1.5's whole-robot form with what was fixed then:
    moves in the world's axes, and MuJoCo stepped without the shortcut that 1.5 calls `lite_physics`.
    """
    settings = settings if settings and settings.get("env_kwargs") else published_settings(task)
    kwargs = copy.deepcopy(dict(settings["env_kwargs"]))
    version = tuple(int(part) for part in str(settings.get("env_version") or "1.5").split(".")[:2] if part.isdigit())
    if version < (1, 5):
        kwargs.setdefault("lite_physics", False)
    for name in CAMERA_SETTINGS:
        kwargs.pop(name, None)
    configs = kwargs.get("controller_configs")
    if isinstance(configs, (list, tuple)):
        kwargs["controller_configs"] = [_whole_robot(task, config) for config in configs]
    else:
        kwargs["controller_configs"] = _whole_robot(task, configs)
    return {**kwargs, **FORCED}


def _whole_robot(task: str, config: Any) -> dict[str, Any] | None:
    if config is None:
        return None
    if isinstance(config, Mapping) and isinstance(config.get("body_parts"), Mapping):
        return dict(config)
    if not isinstance(config, Mapping) or "type" not in config:
        said = f"controller_configs={config!r}"[:120]
        raise UserError(f"{task}: env_args with {said}: neither robosuite 1.5's form (body_parts) nor the one before")
    arm = {"input_ref_frame": "world", **config, "gripper": {"type": "GRIP"}}
    if "damping" in config:
        arm["damping_ratio"] = config["damping"]
    if "damping_limits" in config:
        arm["damping_ratio_limits"] = config["damping_limits"]
    if config.get("control_delta") is False:
        arm["input_type"] = "absolute"
    return {"type": "BASIC", "body_parts": {"right": arm}}


def _make(task: str, kwargs: dict[str, Any]) -> Any:
    robosuite = _robosuite()
    try:
        return robosuite.make(task, **kwargs)
    except Exception as error:  # robosuite raises bare Exceptions and AssertionErrors for its arguments
        said = str(error).splitlines()[0][:200] if str(error) else type(error).__name__
        raise UserError(f"{task}: robosuite {robosuite.__version__} refuses its env_args ({said})") from error


@functools.cache
def _robosuite() -> Any:
    """Import robosuite without its advice on the console and without its choice of a renderer for everyone."""
    logging.getLogger("robosuite_logs").addFilter(lambda record: record.levelno >= logging.ERROR)
    chosen = os.environ.get("MUJOCO_GL")
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*DISPLAY environment variable is missing.*")  # from mujoco's viewer
        warnings.simplefilter("ignore", SyntaxWarning)  # Python 3.12 has some as it compiles robosuite's files
        import robosuite
    os.environ.pop("MUJOCO_GL", None)
    if chosen is not None:
        os.environ["MUJOCO_GL"] = chosen
    return robosuite
