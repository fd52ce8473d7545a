"""What a robot did in place of what it was told: actions from the states that it reached."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from understudy.envs.store.transfer import Change
from understudy.errors import DatasetError

MOVED, GRIPPER = 6, 6
"""Dims that are a movement (x, y, z, roll, pitch, yaw), and the dim of the gripper."""
OPEN, CLOSED = 0.95, 0.05
"""A gripper command above or below these is settled."""


def relabel_actions(actions: np.ndarray, states: np.ndarray) -> np.ndarray:
    """Return float32 actions [T, 7]: the movement to the next of `states` [T + 1, >= 6], and the gripper 0 or 1."""
    if actions.ndim != 2 or actions.shape[1] != GRIPPER + 1:
        raise DatasetError(f"actions of shape {actions.shape} cannot be relabelled: 6 of movement and a gripper's")
    if states.ndim != 2 or states.shape[1] < MOVED or len(states) != len(actions) + 1:
        raise DatasetError(f"states of shape {states.shape} cannot relabel {len(actions)} actions: one more is needed")
    states = np.asarray(states, np.float64)
    moved = states[1:, :MOVED] - states[:-1, :MOVED]
    return np.concatenate([moved, binarise_gripper(actions[:, GRIPPER])[:, None]], axis=1).astype(np.float32)


def binarise_gripper(commands: np.ndarray) -> np.ndarray:
    """Return commands [T] as 1 (open) or 0 (closed); one in between takes the value that settles after it.

    Commands in between at the end, where none settles any more, take the last of them as it is.
    """
    settled = (commands > OPEN) | (commands < CLOSED)
    steps = np.arange(len(commands))
    following = np.minimum.accumulate(np.where(settled, steps, len(commands))[::-1])[::-1]
    ends = following == len(commands)
    values = (commands > OPEN).astype(np.float32)[np.minimum(following, len(commands) - 1)]
    return np.where(ends, np.float32(commands[-1]), values)


def relabelled(episode: Mapping[str, Any]) -> dict[str, Any]:
    """Return an episode with its actions relabelled; it must have states and a final one."""
    if "observations" not in episode or "final_observation" not in episode:
        raise DatasetError("actions cannot be relabelled without states, the last one of the episode among them")
    states = np.concatenate([episode["observations"], np.asarray(episode["final_observation"])[None]])
    return {**episode, "actions": relabel_actions(np.asarray(episode["actions"]), states)}


RELABELLED = Change("relabel_actions", relabelled)
"""For imports: `--relabel_actions`."""
