"""What the tests of gym-hil's pick cube share: names, actions, and what is seen of an episode."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import numpy as np

from understudy.envs.rollouts.factory import EnvFactory

NAME = "gym_hil/PandaPickCube-scripted-v0"
STATE = "gym_hil/PandaPickCube-state-scripted-v0"
SMALL = {"height": "24", "width": "32"}


def actions_of(seed: int, steps: int) -> np.ndarray:
    """Return random actions [steps, 4], some of them beyond the bounds."""
    return np.random.default_rng(seed).uniform(-1.2, 1.2, (steps, 4)).astype(np.float32)


def seen_in(name: str, settings: dict[str, Any], seed: int, actions: np.ndarray) -> list[dict[str, np.ndarray]]:
    """Return the observations of an episode, the first one included."""
    env = EnvFactory(name, settings=json.dumps(settings))()
    looks = [env.reset(seed=seed)[0], *(env.step(action)[0] for action in actions)]
    env.close()
    return looks


def digest(looks: list[dict[str, np.ndarray]]) -> str:
    """Return a hash of all that was seen."""
    return hashlib.sha256(b"".join(look[name].tobytes() for look in looks for name in sorted(look))).hexdigest()
