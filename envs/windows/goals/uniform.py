"""Any later state, uniformly."""

from __future__ import annotations

import numpy as np

from understudy.envs.windows.relabelling import Relabelled
from understudy.registry import goal_strategies


@goal_strategies.register("uniform")
def uniform(steps: Relabelled) -> np.ndarray:
    """Draw uniformly from the later states: with the next one (OGBench), or without it (BridgeData).

    OGBench rounds a point between the next and the last state, which gives these two half of the others' chance.
    """
    first = 2 if steps.after_next else 1
    return first + (steps.places * (steps.ahead + 1 - first)).astype(np.int64)
