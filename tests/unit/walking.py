"""An environment for tests of rollouts, in a module that processes import quickly: without torch and pytest."""

from __future__ import annotations

import os
import signal
import time
from dataclasses import dataclass

import gymnasium
import numpy as np


class Walk(gymnasium.Env):
    """A point that noise and actions move; it ends beyond 3, or after 20 steps."""

    observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (2,), np.float64)
    action_space = gymnasium.spaces.Box(-1, 1, (1,), np.float32)
    metadata = {"render_modes": ["rgb_array"]}
    render_mode = "rgb_array"

    def __init__(self, trouble: str = "") -> None:
        self.trouble, self.steps, self.place = trouble, 0, 0.0

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.steps, self.place = 0, float(self.np_random.normal())
        return self._look(), {}

    def step(self, action):
        self.steps += 1
        self.place += float(action[0]) + 0.1 * float(self.np_random.normal())
        if self.trouble == "die" and self.steps == 5:
            os._exit(3)
        if self.trouble == "raise" and self.steps == 5:
            raise RuntimeError("the arm fell off")
        if self.trouble == "hang" and self.steps == 5:
            signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])  # as compiled code that never returns
            time.sleep(1000)
        over = self.place > 3
        return self._look(), -abs(self.place), over, self.steps >= 20, {"success": float(over)}

    def render(self):
        return np.full((8, 8, 3), self.steps, np.uint8)

    def _look(self):
        return np.array([self.place, self.steps / 20])


@dataclass(frozen=True)
class Make:
    trouble: str = ""

    def __call__(self, render: bool = False) -> gymnasium.Env:
        return Walk(self.trouble)
