"""States within a range of steps ahead, `goal_delta`."""

from __future__ import annotations

import numpy as np

from understudy.envs.windows.relabelling import Relabelled
from understudy.registry import goal_strategies


@goal_strategies.register("delta_goals")
def delta_goals(steps: Relabelled) -> np.ndarray:
    """Draw uniformly from those of the states lo to hi - 1 ahead that there are; the last state if there are none."""
    low, high = steps.delta
    inside = np.maximum(np.minimum(high, steps.ahead + 1) - low, 0)
    return low + (steps.places * inside).astype(np.int64)
