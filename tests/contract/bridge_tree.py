"""Make a raw tree of BridgeData's shape: a hand that goes to an object on a table in MuJoCo, filmed by several cameras.

    python tests/contract/bridge_tree.py ROOT [--task reach] [--trajectories 100] [--steps 20]

Folders, file names, pickles and the size and kind of the pictures are those of the real data; states are x, y, z,
roll, pitch, yaw and gripper, commands reach them a step later.
"""

from __future__ import annotations

import argparse
import importlib
import json
import pickle
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

SCENE = """
<mujoco>
  <visual><global offwidth="640" offheight="480"/><quality offsamples="0"/></visual>
  <asset>
    <texture name="wood" type="2d" builtin="checker" rgb1=".6 .4 .2" rgb2=".5 .3 .1" width="64" height="64"/>
    <material name="wood" texture="wood" texrepeat="8 8"/>
  </asset>
  <worldbody>
    <light pos="0 0 2" castshadow="false"/>
    <geom type="plane" size="1 1 .1" material="wood"/>
    <body name="hand" mocap="true"><geom type="box" size=".04 .08 .03" rgba=".2 .2 .3 1"/></body>
    <body pos=".1 .05 .03"><freejoint/><geom type="capsule" size=".02 .06" rgba="1 .5 .1 1"/></body>
    <camera name="images0" pos="0 -.7 .6" xyaxes="1 0 0 0 .6 .8"/>
    <camera name="images1" pos=".7 0 .6" xyaxes="0 1 0 -.6 0 .8"/>
  </worldbody>
</mujoco>
"""


@dataclass(frozen=True)
class Recorded:
    """What was written of one trajectory, for comparison: [T + 1] of everything but actions [T]."""

    folder: Path
    states: np.ndarray
    stamps: np.ndarray
    actions: np.ndarray
    language: list[str]


def make_tree(
    root: Path,
    dated: Sequence[str] = ("lift_carrot_100/2022-01-01_00-00-00",),
    *,
    trajectories: int = 3,
    steps: int = 5,
    cameras: Sequence[str] = ("images0",),
    saliency: bool = False,
    seed: int = 0,
) -> list[Recorded]:
    """Write `trajectories` of `steps` actions (and up to nine more) into every dated folder; return what they hold."""
    film = _Film()
    made = []
    for number, place in enumerate(dated):
        folder = root / place
        for index in range(trajectories):
            rng = np.random.default_rng([seed, number, index])
            target = folder / "raw" / f"traj_group{index // 2}" / f"traj{index % 2}"
            made.append(_record(target, film, rng, steps + index % 10, cameras, saliency))
        (folder / "config.json").write_text("{}")
        (folder / "collection_metadata.json").write_text(json.dumps({"robot": "widowx"}))
    film.close()
    return made


def _record(
    folder: Path, film: _Film, rng: np.random.Generator, steps: int, cameras: Sequence[str], saliency: bool
) -> Recorded:
    from PIL import Image

    thing = np.array([*rng.uniform(-0.2, 0.2, 2), -0.2])
    film.place(thing)
    moves = np.c_[rng.normal(0, 0.01, (steps, 6)), np.clip(np.linspace(1.4, -0.4, steps), 0, 1)]
    states = np.zeros((steps + 1, 7))
    states[0] = [*rng.uniform(-0.2, 0.2, 3), 0, 0, 0, 1]
    for t, move in enumerate(moves):
        move[:3] += np.clip(0.3 * (thing - states[t, :3]), -0.04, 0.04)
        states[t + 1, :6] = states[t, :6] + 0.9 * move[:6]
        states[t + 1, 6] = move[6]
    for camera in cameras:
        (folder / camera).mkdir(parents=True)
        for t, state in enumerate(states):
            Image.fromarray(film.picture(state, camera)).save(folder / camera / f"im_{t}.jpg", quality=95)
    stamps = 1.64e9 + 0.2 * np.arange(steps + 1) + rng.uniform(0, 0.01)
    observed: dict[str, Any] = {"full_state": states, "time_stamp": stamps.tolist(), "env_done": [False] * (steps + 1)}
    commands = [{"actions": move, "new_robot_transform": np.eye(4), "policy_type": "VRTeleopPolicy"} for move in moves]
    _dump(folder / "obs_dict.pkl", {**observed, "qpos": np.zeros((steps + 1, 6), np.float32)})
    _dump(folder / "policy_out.pkl", commands)
    _dump(folder / "agent_data.pkl", {"traj_ok": True})
    (folder / "lang.txt").write_text("lift the carrot\nconfidence: 1\npick up the orange thing\nconfidence: 0.5\n")
    if saliency:
        _dump(folder / "saliency_map.pkl", _saliency(states))
    return Recorded(folder, states, stamps, moves, ["lift the carrot", "pick up the orange thing"])


def _saliency(states: np.ndarray) -> np.ndarray:
    """Return a bump [T + 1, 1, 480, 640] where the hand is."""
    rows, columns = np.mgrid[:480, :640]
    middle = 240 - 400 * states[:, 1, None, None], 320 + 400 * states[:, 0, None, None]
    far = (rows - middle[0]) ** 2 + (columns - middle[1]) ** 2
    return np.exp(-far / (2 * 60.0**2)).astype(np.float32)[:, None]


def _dump(file: Path, value: Any) -> None:
    file.write_bytes(pickle.dumps(value))


class _Film:
    """The scene, seen by a camera at 640 x 480."""

    def __init__(self) -> None:
        from understudy.envs.simulators.video import choose_renderer

        choose_renderer()  # before mujoco is imported
        self._mujoco: Any = importlib.import_module("mujoco")
        self._model = self._mujoco.MjModel.from_xml_string(SCENE)
        self._data = self._mujoco.MjData(self._model)
        self._renderer = self._mujoco.Renderer(self._model, 480, 640)

    def place(self, thing: np.ndarray) -> None:
        """Put the object where the hand will go, on the table."""
        self._data.qpos[:2] = thing[:2]
        self._mujoco.mj_forward(self._model, self._data)

    def picture(self, state: np.ndarray, camera: str) -> np.ndarray:
        """Return the scene with the hand at a state; cameras of other names look as the first one does."""
        self._data.mocap_pos[0] = state[:3] + np.array([0, 0, 0.3])
        self._mujoco.mj_step(self._model, self._data)
        self._renderer.update_scene(self._data, camera if camera == "images1" else "images0")
        return self._renderer.render()

    def close(self) -> None:
        """Let go of the renderer."""
        self._renderer.close()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("root", type=Path, help="folder to write the tree into")
    parser.add_argument("--task", default="reach")
    parser.add_argument("--trajectories", type=int, default=100)
    parser.add_argument("--steps", type=int, default=20, help="actions of the shortest")
    words = parser.parse_args()
    make_tree(words.root, (f"{words.task}/2022-01-01_00-00-00",), trajectories=words.trajectories, steps=words.steps)
