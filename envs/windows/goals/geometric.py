"""Near states more often than far ones, by `discount`."""

from __future__ import annotations

import numpy as np

from understudy.envs.windows.relabelling import Relabelled
from understudy.registry import goal_strategies


@goal_strategies.register("geometric")
def geometric(steps: Relabelled) -> np.ndarray:
    """Draw k states ahead with a probability in proportion to discount^k.

    In OGBench's the end takes what lies beyond it; BridgeData's, which begins after the next state, is cut off there.
    """
    rate = np.log(min(steps.discount, 1.0 - 1e-12))
    if not steps.after_next:
        return 1 + np.floor(np.log1p(-steps.places) / rate)  # float64: it may be very large
    count = np.maximum(steps.ahead - 1, 1)
    share = -np.expm1(rate * count)  # of an unbounded geometric distribution, up to count
    return 1 + np.clip(1 + np.floor(np.log1p(-steps.places * share) / rate), 1, count)
