"""Arithmetic on the rows of episodes that lie one after another: what follows a row in its own episode."""

from __future__ import annotations

import numpy as np


def steps_to_done(terminals: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """Return how many steps follow each row up to the first done at or after it, or to the end of its episode."""
    rows, ends = np.arange(len(terminals)), np.repeat(np.cumsum(lengths), lengths) - 1
    stops = np.minimum.accumulate(np.where(terminals != 0, rows, len(rows))[::-1])[::-1]
    return np.minimum(stops, ends) - rows


def returns_to_go(rewards: np.ndarray, lengths: np.ndarray, discount: float) -> np.ndarray:
    """Return sum_k discount^k r_(t + k) to the end of t's episode, float32, for rewards of episodes one after another.

    Sums of 1, 2, 4, ... terms: S_2k(t) = S_k(t) + discount^k S_k(t + k), where t + k is in the same episode.
    """
    ends = np.repeat(np.cumsum(lengths), lengths)
    total, span, place = rewards.astype(np.float64), 1, np.arange(len(rewards))
    while span < lengths.max():
        inside = np.flatnonzero(place + span < ends)
        total[inside] = total[inside] + discount**span * total[inside + span]
        span *= 2
    return total.astype(np.float32)


def steps_left(lengths: np.ndarray, horizon: int) -> np.ndarray:
    """Return how many whole steps follow each row of its episode, at most horizon - 1, episode after episode.

    Only an episode's last rows have fewer: one fill and a few scatters, so that a large store opens at once.
    """
    left = np.full(int(lengths.sum()), horizon - 1, np.min_scalar_type(horizon - 1))
    ends = np.cumsum(lengths)
    for steps in range(horizon - 1):
        left[ends[lengths > steps] - 1 - steps] = steps
    return left


def ranges(starts: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """Return the rows of several episodes, one after another."""
    offsets = np.cumsum(lengths) - lengths
    return np.arange(int(lengths.sum())) + np.repeat(starts - offsets, lengths)
