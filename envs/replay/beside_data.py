"""Draws from fixed data and from a replay buffer as one: each row of either is as likely, and none is copied.

The published Q-chunking copies the data into the front of its ring, which new steps overwrite once it is full; here all
of the data stay, and `capacity` bounds the newest steps beside them. The newest horizon - 1 steps begin no window, as
there: what follows them has not been done yet. Shape suffixes: b windows.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from understudy.algorithm import EXECUTED, Batch
from understudy.envs.replay.replay import Replay
from understudy.envs.windows.windows import Windows
from understudy.observations import each, together
from understudy.randomness import numpy_generator


class DataAndReplay:
    """The windows of a store, and those of a member's buffer after them."""

    def __init__(self, windows: Windows, discount: float) -> None:
        self._windows, self._discount = windows, discount

    def rows(self, buffer: Replay, seed: int, step: int, count: int) -> np.ndarray:
        """Return draws [count] of (seed, step): rows below `num_transitions` are the data's, the rest the buffer's."""
        begun = max(len(buffer) - self._windows.horizon + 1, 0)
        stream = numpy_generator(seed, "data and replay", step)
        return stream.integers(0, self._windows.num_transitions + begun, count)

    def gather(self, buffer: Replay, rows: np.ndarray) -> Batch:
        """Return the windows that begin at `rows` [b], as `Windows.gather` does."""
        of_data = rows < self._windows.num_transitions
        shown = self._windows.gather(rows[of_data], (int(of_data.sum()),))
        if of_data.all():
            return shown
        places = buffer.first + rows[~of_data] - self._windows.num_transitions
        done = buffer.gather(places, self._windows.horizon, self._discount)
        if EXECUTED in shown:
            done[EXECUTED] = done["actions"]
        order = torch.as_tensor(np.argsort(np.concatenate([np.flatnonzero(of_data), np.flatnonzero(~of_data)])))
        parts = {name: together(_joined, [shown[name], done[name]]) for name in shown}
        return {name: each(lambda values: values[order], value) for name, value in parts.items()}


def _joined(parts: list[Any]) -> torch.Tensor:
    return torch.cat([torch.as_tensor(part) for part in parts])
