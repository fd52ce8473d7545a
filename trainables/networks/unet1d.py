"""Diffusion Policy's U-Net over the steps of a chunk: convolutions along time, the condition by FiLM in each block.

As in Chi et al. 2023 (arXiv 2303.04137): blocks of convolution, GroupNorm and Mish; a condition of the diffusion time
and the observation makes a scale and a bias for each channel; half as many steps at each level but the last.
Shape suffixes: B samples, C channels, T steps of the chunk, A action dims, F features, D width of the condition.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from typing import TypeVar, cast

import torch
from torch import nn
from torch.nn import functional

from understudy.trainables.networks.blank import blank
from understudy.trainables.networks.blocks import Sines

Layer = TypeVar("Layer", bound=nn.Module)


def drawn(layer: Layer, inputs: int, generator: torch.Generator) -> Layer:
    """Return a layer with weights and biases uniform in +-1 / sqrt(inputs), as torch's own are."""
    bound = 1 / math.sqrt(inputs)
    for parameter in layer.parameters():
        nn.init.uniform_(parameter, -bound, bound, generator=generator)
    return layer


def along_time(channels: tuple[int, int], kernel: int, generator: torch.Generator) -> nn.Conv1d:
    """Return a convolution that keeps the number of steps."""
    layer = blank(nn.Conv1d, *channels, kernel, padding=kernel // 2)
    return drawn(layer, channels[0] * kernel, generator)


def halving(channels: int, generator: torch.Generator) -> nn.Conv1d:
    """Return a convolution that leaves half of the steps."""
    return drawn(blank(nn.Conv1d, channels, channels, 3, 2, 1), 3 * channels, generator)


def doubling(channels: int, generator: torch.Generator) -> nn.ConvTranspose1d:
    """Return a transposed convolution that makes twice as many steps."""
    return drawn(blank(nn.ConvTranspose1d, channels, channels, 4, 2, 1), 4 * channels, generator)


def uniform_dense(inputs: int, outputs: int, generator: torch.Generator) -> nn.Linear:
    """Return a dense layer, drawn as torch's own."""
    return drawn(blank(nn.Linear, inputs, outputs), inputs, generator)


class ConvBlock(nn.Module):
    """Convolution that keeps the number of steps, GroupNorm, Mish."""

    def __init__(self, channels: tuple[int, int], kernel: int, groups: int, generator: torch.Generator) -> None:
        super().__init__()
        self.convolution = along_time(channels, kernel, generator)
        self.norm = nn.GroupNorm(groups, channels[1])

    def forward(self, x_BCT: torch.Tensor) -> torch.Tensor:
        """Return [B, C', T]."""
        return functional.mish(self.norm(self.convolution(x_BCT)))


class FilmBlock(nn.Module):
    """x' = block(scale * block(x) + bias) + x, with scale and bias [B, C'] from the condition."""

    def __init__(
        self, channels: tuple[int, int], condition: int, kernel: int, groups: int, generator: torch.Generator
    ) -> None:
        super().__init__()
        before, after = channels
        self.first = ConvBlock((before, after), kernel, groups, generator)
        self.second = ConvBlock((after, after), kernel, groups, generator)
        self.film = uniform_dense(condition, 2 * after, generator)
        self.across = along_time(channels, 1, generator) if before != after else None

    def forward(self, x_BCT: torch.Tensor, condition_BD: torch.Tensor) -> torch.Tensor:
        """Return [B, C', T]."""
        scale, bias = self.film(functional.mish(condition_BD)).unsqueeze(-1).chunk(2, dim=1)
        inner = self.second(scale * self.first(x_BCT) + bias)
        return inner + (x_BCT if self.across is None else self.across(x_BCT))


class Level(nn.Module):
    """Two FiLM blocks, and a convolution that halves or doubles the steps (none at the end)."""

    def __init__(
        self,
        channels: tuple[int, int],
        condition: int,
        sizes: tuple[int, int],
        generator: torch.Generator,
        resize: Callable[[int, torch.Generator], nn.Module] | None,
    ) -> None:
        super().__init__()
        after = channels[1]
        self.first = FilmBlock(channels, condition, *sizes, generator)
        self.second = FilmBlock((after, after), condition, *sizes, generator)
        self.resize = resize(after, generator) if resize else None

    def forward(self, x_BCT: torch.Tensor, condition_BD: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return what goes on to the next level, and what is kept for the way back."""
        kept = self.second(self.first(x_BCT, condition_BD), condition_BD)
        return (kept if self.resize is None else self.resize(kept)), kept


class StepEmbedding(nn.Module):
    """Sines and cosines of a diffusion time, then two dense layers with Mish."""

    def __init__(self, width: int, generator: torch.Generator) -> None:
        super().__init__()
        self.sines = Sines(width)
        self.widen = uniform_dense(width, 4 * width, generator)
        self.narrow = uniform_dense(4 * width, width, generator)

    def forward(self, time_B1: torch.Tensor) -> torch.Tensor:
        """Return [B, width] of times [B, 1]."""
        return self.narrow(functional.mish(self.widen(self.sines(time_B1))))


class ConditionalUnet1d(nn.Module):
    """Predict [B, T, A] of a noisy chunk [B, T, A], its diffusion time and the observation's features."""

    def __init__(
        self,
        action_dim: int,
        features: int,
        widths: Sequence[int],
        generator: torch.Generator,
        *,
        kernel: int = 5,
        groups: int = 8,
        step_width: int = 256,
    ) -> None:
        super().__init__()
        self.step = StepEmbedding(step_width, generator)
        condition, sizes, self.halvings = step_width + features, (kernel, groups), len(widths) - 1
        pairs = list(itertools.pairwise((action_dim, *widths)))
        self.down = nn.ModuleList(
            Level(pair, condition, sizes, generator, halving if index < self.halvings else None)
            for index, pair in enumerate(pairs)
        )
        middle = (widths[-1], widths[-1])
        self.middle = nn.ModuleList(FilmBlock(middle, condition, *sizes, generator) for _ in range(2))
        self.up = nn.ModuleList(
            Level((2 * after, before), condition, sizes, generator, doubling) for before, after in reversed(pairs[1:])
        )
        self.last = ConvBlock((widths[0], widths[0]), kernel, groups, generator)
        self.out = along_time((widths[0], action_dim), 1, generator)

    def forward(self, noisy_BTA: torch.Tensor, time_B1: torch.Tensor, features_BF: torch.Tensor) -> torch.Tensor:
        """Return [B, T, A]; a number of steps that cannot be halved so often is filled up with zeros inside."""
        condition_BD = torch.cat((self.step(time_B1), features_BF), dim=-1)
        steps, multiple = noisy_BTA.shape[1], 2**self.halvings
        x_BCT = functional.pad(noisy_BTA.transpose(1, 2), (0, -steps % multiple))
        kept: list[torch.Tensor] = []
        for level in self.down:
            x_BCT, before = cast(Level, level)(x_BCT, condition_BD)
            kept.append(before)
        for block in self.middle:
            x_BCT = block(x_BCT, condition_BD)
        for level in self.up:
            x_BCT, _ = cast(Level, level)(torch.cat((x_BCT, kept.pop()), dim=1), condition_BD)
        return self.out(self.last(x_BCT))[..., :steps].transpose(1, 2)
