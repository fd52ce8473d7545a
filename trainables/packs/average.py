"""The average of a pack's weights over training, where an algorithm acts with that.

Shape suffixes: K members, P padded parameters of one.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from understudy.algorithm import Algorithm
from understudy.randomness import torch_generator
from understudy.trainables.packs.flat import FlatLayout, move_into


class WeightAverage:
    """A copy [K, P] of all members' weights that follows them slowly, and the networks that hold it."""

    def __init__(
        self, algorithm: Algorithm, rate: float, seeds: Sequence[int], layout: FlatLayout, parameters: torch.Tensor
    ) -> None:
        self.rates, self._parameters = [rate] * len(seeds), parameters
        """Each member's rate."""
        self._power: float | None = algorithm.config.ema_power
        self.values = parameters.clone()
        self.members = [algorithm.network(torch_generator(seed, "weights")) for seed in seeds]
        for index, member in enumerate(self.members):
            move_into(member, layout.views(self.values[index]), None)
            member.to(parameters.device)

    def follow(self, step: int, members: Sequence[int]) -> None:
        """Move the averages of `members` after update `step`, from 1: average += rate (weights - average)."""
        if len(set(self.rates)) == 1 and len(members) == len(self.rates):
            self.values.lerp_(self._parameters, warm_rate(self.rates[0], self._power, step))
            return
        for k in members:
            self.values[k].lerp_(self._parameters[k], warm_rate(self.rates[k], self._power, step))


def warm_rate(rate: float, power: float | None, step: int) -> float:
    """Return the rate after update `step`: max(rate, (step - 1)^-power), 1 after the first two.

    Diffusion Policy's average, and that of diffusers' EMAModel: decay 1 - (1 + s)^-power with s counted from the third
    update, at most 1 - rate.
    """
    return rate if power is None else max(rate, float(max(1, step - 1)) ** -power)
