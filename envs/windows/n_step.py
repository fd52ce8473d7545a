"""The returns of the steps of a window, and the discount of what comes after them: what n-step targets are made of.

Sums are Q-chunking's (arXiv 2507.07969): a termination inside the window leaves no value after it, and rewards go on
to be counted as they were recorded. Shape suffixes: b windows, H steps.
"""

from __future__ import annotations

import numpy as np


def n_step(rewards_bH: np.ndarray, terminals_bH: np.ndarray, discount: float) -> dict[str, np.ndarray]:
    """Return n_step_rewards [b], sum_j discount^j r_j, and n_step_discounts [b], discount^H or 0 after a termination.

    Summed in float64, as float32.
    """
    horizon = rewards_bH.shape[1]
    powers = np.float64(discount) ** np.arange(horizon)
    going_on = 1.0 - (terminals_bH != 0).any(1)
    return {
        "n_step_rewards": (rewards_bH.astype(np.float64) * powers).sum(1).astype(np.float32),
        "n_step_discounts": (going_on * np.float64(discount) ** horizon).astype(np.float32),
    }
