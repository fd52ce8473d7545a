"""The workers that share one run's batches: which one this process is, and what they agree on.

Every worker must call what is collective here, or none. Workers are processes of torch.distributed's default group.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist


@dataclass(frozen=True)
class Worker:
    """One of `world` workers."""

    rank: int = 0
    world: int = 1

    @property
    def writes(self) -> bool:
        """Whether this worker writes the run's files: one does."""
        return self.rank == 0

    def share(self, values: dict[str, torch.Tensor], rows: int) -> dict[str, torch.Tensor]:
        """Return this worker's `rows` of arrays that were drawn for all workers, [rows * world, ...]."""
        if self.world == 1:
            return values
        return {name: value[self.rank * rows : (self.rank + 1) * rows] for name, value in values.items()}

    def average(self, values: torch.Tensor) -> None:
        """Replace the values by their means over the workers; collective."""
        if self.world > 1:
            _sum(values)
            values.div_(self.world)

    def average_each(self, metrics: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Return metrics of one shape, averaged over the workers in one message; collective. Not for each step."""
        if self.world == 1:
            return metrics
        stacked = torch.stack(list(metrics.values()))
        self.average(stacked)
        return dict(zip(metrics, stacked.unbind(), strict=True))

    def any(self, vote: bool, device: torch.device) -> bool:
        """Return whether any worker votes yes; collective."""
        if self.world == 1:
            return vote
        votes = torch.tensor(float(vote), device=device)
        _sum(votes)
        return bool(votes.item())


def _sum(values: torch.Tensor) -> None:
    """Replace values by their sums over the workers; collective."""
    group: Any = dist  # whose functions have types in part only
    group.all_reduce(values)
