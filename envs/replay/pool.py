"""Several replay buffers of one learner drawn as one, and the demonstrations with the corrections among their rows.

A correction is a row of a buffer that somebody chose in the policy's place: its number is in both draws, and nothing is
copied. What a draw gives is a pure function of (seed, update, `counts`), the rows that each buffer had: an update can
be drawn again later. Shape suffixes: b rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from understudy.algorithm import Batch
from understudy.envs.replay.replay import Replay
from understudy.envs.windows.windows import Windows
from understudy.observations import each, together
from understudy.randomness import numpy_generator

INTERVENTIONS = "interventions"
"""The mark of rows whose action somebody chose in the policy's place."""


class Pool:
    """The buffers, and which of their rows are corrections; `from_start`, if draws of the past will be made again."""

    def __init__(self, buffers: Sequence[Replay], discount: float, *, from_start: bool = False) -> None:
        self.buffers, self._discount = list(buffers), discount
        self._corrected: list[np.ndarray] = [np.zeros(0, np.int64) for _ in self.buffers]
        self._scanned = [0 if from_start else buffer.first for buffer in self.buffers]

    def counts(self) -> list[int]:
        """Return the rows of each buffer, which draws are a function of."""
        return [buffer.counters.rows for buffer in self.buffers]

    def _firsts(self, counts: Sequence[int]) -> list[int]:
        return [max(0, count - buffer.capacity) for buffer, count in zip(self.buffers, counts, strict=True)]

    def corrections(self, counts: Sequence[int]) -> list[np.ndarray]:
        """Return the corrections among the rows of each buffer, as far as they are drawn."""
        found: list[np.ndarray] = []
        for place, (buffer, count, first) in enumerate(zip(self.buffers, counts, self._firsts(counts), strict=True)):
            rows = buffer.counters.rows
            if self._scanned[place] < rows:
                new = buffer.marked(INTERVENTIONS, self._scanned[place])
                self._corrected[place] = np.concatenate([self._corrected[place], new])
                self._scanned[place] = rows
            mine = self._corrected[place]
            found.append(mine[(mine >= first) & (mine < count)])
        return found

    def draw(self, seed: int, update: int, count: int, counts: Sequence[int] | None = None) -> Batch:
        """Return `count` transitions, every row of every buffer as likely."""
        counts = self.counts() if counts is None else counts
        firsts = self._firsts(counts)
        sizes = np.array([rows - first for rows, first in zip(counts, firsts, strict=True)])
        drawn = numpy_generator(seed, "replay", update).integers(0, int(sizes.sum()), count)
        ends = sizes.cumsum()
        whose = np.searchsorted(ends, drawn, side="right")
        rows = drawn - (ends - sizes)[whose] + np.array(firsts)[whose]
        return self._gather(whose, rows)

    def draw_shown(
        self, windows: Windows, seed: int, update: int, count: int, counts: Sequence[int] | None = None
    ) -> Batch:
        """Return `count` transitions of demonstrations and corrections, each of them as likely."""
        corrected = self.corrections(self.counts() if counts is None else counts)
        sizes = np.array([windows.num_transitions, *map(len, corrected)])
        drawn = numpy_generator(seed, "demonstrations", update).integers(0, int(sizes.sum()), count)
        ends = sizes.cumsum()
        whose = np.searchsorted(ends, drawn, side="right")
        places = drawn - (ends - sizes)[whose]
        of_data = whose == 0
        shown = self._like_own(windows.gather(places[of_data], (int(of_data.sum()),)))
        if of_data.all():
            return shown
        rows = np.concatenate(corrected)[drawn[~of_data] - windows.num_transitions]
        own = self._gather(whose[~of_data] - 1, rows)
        return _joined([(np.flatnonzero(of_data), shown), (np.flatnonzero(~of_data), own)])

    def _like_own(self, shown: Batch) -> Batch:
        """Return a batch of the data with marks of 0, where it has none."""
        size = len(shown["actions"])
        return _tensors(shown) | {mark: torch.zeros(size) for mark in self.buffers[0].marks if mark not in shown}

    def _gather(self, whose: np.ndarray, rows: np.ndarray) -> Batch:
        """Return the transitions of rows [b] of buffers `whose` [b]."""
        parts: list[tuple[np.ndarray, Batch]] = []
        for place, buffer in enumerate(self.buffers):
            mine = whose == place
            if mine.any():
                parts.append((np.flatnonzero(mine), _tensors(buffer.gather(rows[mine], 1, self._discount))))
        return _joined(parts)


def _tensors(batch: dict[str, Any]) -> Batch:
    return {name: each(torch.as_tensor, value) for name, value in batch.items()}


def _joined(parts: Sequence[tuple[np.ndarray, Batch]]) -> Batch:
    """Return batches as one, whose samples lie at the places [b] that stand beside each."""
    if len(parts) == 1:
        return parts[0][1]
    order = torch.as_tensor(np.argsort(np.concatenate([places for places, _ in parts])))
    joined = {name: together(torch.cat, [batch[name] for _, batch in parts]) for name in parts[-1][1]}
    return {name: each(lambda values: values[order], value) for name, value in joined.items()}
