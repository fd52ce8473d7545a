"""Temporal ensembling: average what all chunks so far said of the next step (ACT, arXiv 2304.13705).

Shapes: H steps of a chunk, A action dims.
"""

from __future__ import annotations

import numpy as np


class TemporalEnsemble:
    """The chunks of one episode, one decided at each step, as running sums: nothing depends on other episodes.

    The i-th oldest chunk that reaches a step counts exp(-coefficient * i) for it; weights are normalised to sum to 1.
    """

    def __init__(self, coefficient: float) -> None:
        self._coefficient = coefficient
        self._sums: np.ndarray | None = None

    def add(self, chunk_HA: np.ndarray) -> np.ndarray:
        """Take the chunk that begins at this step; return this step's action [A] and go on to the next one."""
        if self._sums is None:
            self._sums = np.zeros(chunk_HA.shape, np.float64)
            self._weights = np.zeros(len(chunk_HA), np.float64)
            self._heard = np.zeros(len(chunk_HA), np.int64)
        weights = np.exp(-self._coefficient * self._heard)
        self._sums += weights[:, None] * chunk_HA
        self._weights += weights
        self._heard += 1
        action = self._sums[0] / self._weights[0]
        for values in (self._sums, self._weights, self._heard):
            values[:-1] = values[1:]
            values[-1] = 0
        return action.astype(chunk_HA.dtype)
