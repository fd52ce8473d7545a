"""Any later state, uniformly."""

from __future__ import annotations

import numpy as np

from understudy.envs.windows.relabelling import Relabelled
from understudy.registry import goal_strategies


@goal_strategies.register("uniform")
def uniform(steps: Relabelled) -> np.ndarray:
    """Draw uniformly from the later states: with the next one (OGBench), or without it (BridgeData)."""
    first = 2 if steps.after_next else 1
    return first + (steps.places * (steps.ahead + 1 - first)).astype(np.int64)
