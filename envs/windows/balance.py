"""Draw as many transitions with a reward above a bound as others: what a reward classifier learns from."""

from __future__ import annotations

import numpy as np

from understudy.envs.windows.episodes import Split
from understudy.errors import DatasetError


def sides(rewards: np.ndarray, above: float, name: str, split: Split) -> tuple[np.ndarray, np.ndarray]:
    """Return the transitions whose reward is above a bound, and the others; DatasetError where either has none."""
    positive = rewards > above
    if positive.all() or not positive.any():
        raise DatasetError(
            f"{name!r}: {'every' if positive.all() else 'no'} reward of the {split} episodes is above"
            f" reward_threshold={above:g}; they are from {rewards.min():g} to {rewards.max():g}, and both are needed"
        )
    return np.flatnonzero(positive), np.flatnonzero(~positive)


def balanced(
    sides: tuple[np.ndarray, np.ndarray], generator: np.random.Generator, shape: tuple[int, int]
) -> np.ndarray:
    """Return transitions [steps, samples]: even samples are drawn from the first side, odd ones from the second."""
    numbers = np.empty(shape, np.int64)
    for place, side in enumerate(sides):
        count = len(range(place, shape[1], 2))
        numbers[:, place::2] = side[generator.integers(0, len(side), (shape[0], count))]
    return numbers
