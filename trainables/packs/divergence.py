"""The members of a pack whose loss stopped being finite, and since when."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch

from understudy.errors import TrainingDiverged

NEVER = 2**62


class Divergence:
    """The first step at which each member's loss was not finite, kept on the device of the losses."""

    def __init__(self, seeds: Sequence[int], device: torch.device) -> None:
        self._seeds = list(seeds)
        self._first_bad_step = torch.full((len(self._seeds),), NEVER, dtype=torch.int64, device=device)

    def note(self, losses: torch.Tensor, step: int) -> None:
        """Note the members whose loss [K] is not finite; on the CPU, raise TrainingDiverged at once."""
        if losses.device.type == "cpu":
            for index, loss in enumerate(_numbers(losses)):
                if not math.isfinite(loss):
                    self._first_bad_step[index] = min(int(self._first_bad_step[index]), step)
                    self.check()
        else:
            bad = torch.where(losses.isfinite(), NEVER, step)
            torch.minimum(self._first_bad_step, bad, out=self._first_bad_step)

    def check(self) -> None:
        """Raise TrainingDiverged, naming step and seed, if any loss so far was not finite. Synchronises."""
        steps = _numbers(self._first_bad_step)
        index = min(range(len(steps)), key=steps.__getitem__)
        if steps[index] != NEVER:
            raise TrainingDiverged(
                f"the loss of seed {self._seeds[index]} stopped being finite at step {steps[index]}:"
                " lower lr, or set grad_clip"
            )

    def forget(self, k: int) -> None:
        """Forget what was noted of member k, which goes on from an earlier state."""
        self._first_bad_step[k] = NEVER


def _numbers(values: torch.Tensor) -> list[Any]:
    """Return what a tensor [K] holds; its own `tolist` has types in part only."""
    whole: Any = values
    return whole.tolist()
