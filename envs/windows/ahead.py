"""Chunks of actions: from given rows of a column on, up to their episodes' ends.

Shape suffixes: b samples, H steps of a chunk, A action dims.
"""

from __future__ import annotations

import numpy as np

from understudy.envs.windows.views import opaque


class ActionsAhead:
    """Actions [N, A] of episodes, the longest of which has `longest` steps, gathered `horizon` at a time."""

    def __init__(self, actions: np.ndarray, horizon: int, longest: int) -> None:
        self._actions, self.horizon = actions, horizon
        self._chunks = opaque(actions, rows=horizon) if horizon <= longest else None
        """Views of all chunks; none where no chunk is whole."""
        self._valid = np.tri(horizon, dtype=np.float32)  # row `left` has left + 1 ones

    def gather(self, first: np.ndarray, left: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the actions [b, H, A] from rows `first` [b] on, and which are inside their episodes [b, H].

        After each row's own action `left` [b] more are inside; past them the last one is repeated.
        """
        if self._chunks is None:
            steps = np.minimum(np.arange(self.horizon), left[:, None])
            return self._actions[first[:, None] + steps], self._valid[left]
        valid = np.ones((len(first), self.horizon), np.float32)
        short = np.flatnonzero(left < self.horizon - 1)
        whole = np.minimum(first, len(self._chunks) - 1) if len(short) else first
        actions = self._chunks[whole].view(np.float32)
        # (`take` would copy overlapping rows)
        actions = actions.reshape(len(first), self.horizon, self._actions.shape[1])
        if len(short):
            steps = np.minimum(np.arange(self.horizon), left[short, None])
            actions[short] = self._actions[first[short, None] + steps]
            valid[short] = self._valid[left[short]]
        return actions, valid
