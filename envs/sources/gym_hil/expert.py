"""Solve gym-hil's pick cube by a scripted controller: hover over the cube, go down, close, lift.

It keeps no phase: what to do next follows from where the hand and the cube are and whether the gripper is told to be
closed, so that noise on the executed action only sends it back. It sees the cube's place in the simulation, which a
policy must find in the pictures, and changes nothing there.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from understudy.envs.sources.gym_hil.env import STEP, PickCube

OPEN, CLOSE = -1.0, 1.0
REACHED = 0.01
"""How far the hand may be off beside the cube to go down, and a fifth of its height above the cube more."""
HELD, CLOSED = 0.02, 0.9
"""How near the hand must be, beside and above, to close; how far the gripper must be told to close to lift."""


class PickCubeExpert:
    """A controller of one episode; how high it hovers and how fast it moves differ between episodes."""

    def __init__(self) -> None:
        self._hover, self._speed = 0.08, 1.0

    def reset(self, env: Any, observation: Any, info: dict[str, Any], rng: np.random.Generator) -> None:
        """Draw this episode's hovering height and speed."""
        self._hover = float(rng.uniform(0.06, 0.1))
        self._speed = float(rng.uniform(0.7, 1.0))

    def act(self, env: Any, observation: Any, info: dict[str, Any]) -> np.ndarray:
        """Return the action [4]."""
        task: PickCube = env.unwrapped
        cube, off = task.cube, task.hand - task.cube
        beside, above = float(np.linalg.norm(off[:2])), float(off[2])
        if beside < HELD and abs(above) < HELD:
            move = np.array([0.0, 0.0, STEP]) if task.grip > CLOSED else cube - task.target
            gripper = CLOSE
        else:
            hovering = beside > REACHED + 0.2 * max(above, 0.0)
            above_cube = np.array([0.0, 0.0, self._hover if hovering else 0.0])
            move, gripper = cube + above_cube - task.target, OPEN
        moves = np.clip(self._speed * move / STEP, -1.0, 1.0)
        return np.array([*moves, gripper], np.float32)
