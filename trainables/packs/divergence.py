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

    def __init__(self, seeds: Sequence[int], device: torch.device, *, freezes: bool = False) -> None:
        """With `freezes` a member that diverges is for whoever asks `check`, and the others go on."""
        self._seeds, self._freezes = list(seeds), freezes
        self._first_bad_step = torch.full((len(self._seeds),), NEVER, dtype=torch.int64, device=device)

    def note(self, losses: torch.Tensor, step: int, members: Sequence[int]) -> list[int]:
        """Note those of `members` whose loss, of all [K], is not finite; return the others.

        On the CPU, TrainingDiverged at once unless members freeze. On an accelerator `check` finds it later, and all go
        on: none depends on another.
        """
        if losses.device.type != "cpu":
            bad = torch.where(losses.isfinite(), NEVER, step)
            seen = self._first_bad_step[list(members)]
            self._first_bad_step[list(members)] = torch.minimum(seen, bad[list(members)])
            return list(members)
        values = _numbers(losses)
        bad_ones = [k for k in members if not math.isfinite(values[k])]
        for k in bad_ones:
            self._first_bad_step[k] = min(int(self._first_bad_step[k]), step)
        if bad_ones and not self._freezes:
            self.check()
        return [k for k in members if k not in bad_ones] if bad_ones else list(members)

    def check(self, members: Sequence[int] | None = None) -> None:
        """Raise TrainingDiverged, naming step and seed, if a loss of `members` so far was not finite. Synchronises."""
        steps = _numbers(self._first_bad_step)
        index = min(range(len(steps)) if members is None else members, key=steps.__getitem__)
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
