"""The reverse process of a diffusion over actions, with the options of diffusers' DDPM and DDIM schedulers.

A noisy chunk is x = sqrt(k) x_0 + sqrt(1 - k) eps, with the signal's power k at each diffusion time. A step goes from a
time of power k to one of power `before` (1 at the end). DDPM: arXiv 2006.11239; DDIM: arXiv 2010.02502. Numbers of
diffusers' schedulers are in `tests/golden/diffusers.json`.
Shape suffixes: B samples, D numbers of a chunk.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch

Sampler = Literal["ddpm", "ddim"]
Predicts = Literal["noise", "actions"]
Variance = Literal["beta", "fixed_small"]
Predict = Callable[[torch.Tensor, int], torch.Tensor]
"""predict(x [B, D], time) -> what the network says of it, [B, D]: the noise in it, or the actions without."""


def leading_times(steps: int, visited: int) -> list[int]:
    """Return the times that are visited, the noisiest first: every floor(steps / visited)-th (diffusers' leading)."""
    return [index * (steps // visited) for index in reversed(range(visited))]


def deviation(kept: float, before: float, variance: Variance) -> float:
    """Return the deviation of the noise that a DDPM step adds: sqrt(beta), or sqrt(beta (1 - before) / (1 - k))."""
    beta = 1 - kept / before
    return math.sqrt(beta if variance == "beta" else beta * (1 - before) / (1 - kept))


@dataclass(frozen=True)
class Reverse:
    """How a network's predictions become actions."""

    kept: np.ndarray
    """The signal's power k at each diffusion time, [T]."""
    times: list[int]
    sampler: Sampler = "ddpm"
    predicts: Predicts = "noise"
    variance: Variance = "fixed_small"
    x0_range: float | None = 1.0
    """The predicted x_0 is clipped to +- this in every step; None: it is not."""

    @property
    def fresh(self) -> int:
        """Noises that one decision takes: its start and, for ddpm, what each step but the last adds."""
        return len(self.times) if self.sampler == "ddpm" else 1

    def run(self, predict: Predict, noise_BND: torch.Tensor) -> torch.Tensor:
        """Return the chunk [B, D] that the noises [B, fresh, D] lead to."""
        x_BD = noise_BND[:, 0]
        for index, time in enumerate(self.times):
            last = index + 1 == len(self.times)
            before = 1.0 if last else float(self.kept[self.times[index + 1]])
            added = None if last or self.sampler == "ddim" else noise_BND[:, index + 1]
            x_BD = self.step(x_BD, predict(x_BD, time), float(self.kept[time]), before, added)
        return x_BD

    def step(
        self, x_BD: torch.Tensor, said_BD: torch.Tensor, kept: float, before: float, noise_BD: torch.Tensor | None
    ) -> torch.Tensor:
        """Return one step from power `kept` to `before`.

        ddpm: N(mean, deviation^2), mean = sqrt(before) beta / (1 - k) x_0 + sqrt(alpha) (1 - before) / (1 - k) x, with
        alpha = k / before and beta = 1 - alpha; ddim: sqrt(before) x_0 + sqrt(1 - before) eps.
        """
        if self.predicts == "noise":
            eps_BD, start_BD = said_BD, (x_BD - math.sqrt(1 - kept) * said_BD) / math.sqrt(kept)
        else:
            eps_BD, start_BD = (x_BD - math.sqrt(kept) * said_BD) / math.sqrt(1 - kept), said_BD
        if self.x0_range is not None:
            start_BD = start_BD.clamp(-self.x0_range, self.x0_range)
        if self.sampler == "ddim":
            return math.sqrt(before) * start_BD + math.sqrt(1 - before) * eps_BD
        alpha = kept / before
        by_start = math.sqrt(before) * (1 - alpha) / (1 - kept)
        mean_BD = by_start * start_BD + math.sqrt(alpha) * (1 - before) / (1 - kept) * x_BD
        return mean_BD if noise_BD is None else mean_BD + deviation(kept, before, self.variance) * noise_BD
