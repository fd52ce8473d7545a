"""Solve robosuite's Lift by a scripted controller: hover over the cube, turn to it, go down, close, lift.

It sees what a policy sees, robomimic's 19 numbers, and keeps no phase: what to do next follows from where the hand
and the cube are, so that a policy without memory can learn it, and noise on the executed action only sends it back.
"""

from __future__ import annotations

from typing import Any

import numpy as np

EEF, QUATERNION, FINGERS, CUBE, CUBE_QUATERNION = (
    slice(0, 3), slice(3, 7), slice(7, 9), slice(9, 12), slice(12, 16),
)  # fmt: skip
"""Places in the observation: metres, quaternions (x, y, z, w), finger joints."""
STEP, TURN = 0.05, 0.5
"""What an action of 1 asks for, in metres and radians (OSC_POSE's output_max)."""
OPEN, CLOSE = -1.0, 1.0
CLOSED_ON_CUBE = 0.055
"""Fingers nearer to each other than this hold the 4 cm cube, or are about to."""
REACHED, GRASP_HEIGHT = 0.012, 0.015
"""How far the hand may be off beside the cube to go down or to close, and above it to close."""


class LiftExpert:
    """A controller of one episode; how high it hovers and how fast it moves differ between episodes."""

    def __init__(self) -> None:
        self._hover, self._gain = 0.06, 1.0

    def reset(self, env: Any, observation: np.ndarray, info: dict[str, Any], rng: np.random.Generator) -> None:
        """Draw this episode's hovering height and speed."""
        self._hover = float(rng.uniform(0.04, 0.08))
        self._gain = float(rng.uniform(0.7, 1.0))

    def act(self, env: Any, observation: np.ndarray, info: dict[str, Any]) -> np.ndarray:
        """Return the action [7]: moves of the hand along and about the world's axes, and the gripper's direction."""
        hand, cube = observation[EEF].astype(np.float64), observation[CUBE].astype(np.float64)
        beside = float(np.linalg.norm((cube - hand)[:2]))
        above = hand[2] - cube[2]
        gap = float(observation[FINGERS][0] - observation[FINGERS][1])
        target, gripper = cube.copy(), OPEN
        if beside < 2 * REACHED and above < GRASP_HEIGHT:
            gripper = CLOSE
            if gap < CLOSED_ON_CUBE:
                target[2] += STEP  # the cube comes along, so the target keeps rising
        elif beside > REACHED + 0.2 * max(above, 0.0):
            target[2] += self._hover
        turn = _turn(observation[QUATERNION], observation[CUBE_QUATERNION]) if gripper == OPEN else 0.0
        rotation = np.array([*_upright(observation[QUATERNION]), turn]) / TURN
        move = self._gain * (target - hand) / STEP
        return np.clip([*move, *rotation, gripper], -1.0, 1.0).astype(np.float32)


def _upright(hand: np.ndarray) -> tuple[float, float]:
    """Return the angles about the world's x and y, while they are small, after which the hand points straight down."""
    x, y, z, w = hand.astype(np.float64)
    return -2 * (y * z - w * x), 2 * (x * z + w * y)  # the hand's z axis, crossed with down


def _turn(hand: np.ndarray, cube: np.ndarray) -> float:
    """Return the angle about the vertical, at most 45 degrees, after which the hand faces a side of the cube."""
    off = _heading(cube) - _heading(hand)
    return float((off + np.pi / 4) % (np.pi / 2) - np.pi / 4)


def _heading(quaternion: np.ndarray) -> float:
    """Return the direction of a body's x axis seen from above."""
    x, y, z, w = quaternion.astype(np.float64)
    return float(np.arctan2(2 * (x * y + z * w), 1 - 2 * (y * y + z * z)))
