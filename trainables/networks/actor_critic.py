"""What actor-critic methods share: an ensemble of Q networks computed as one, and a squashed Gaussian actor.

Layers are dense, LayerNorm where asked (RLPD, arXiv 2302.02948), ReLU. Weights and biases are uniform in
+-1 / sqrt(inputs), torch's default, which SAC's published implementations in torch use. Nothing here knows of losses.
Shape suffixes: B samples, E members of the ensemble, I inputs, A action dims.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import cast

import torch
from torch import nn
from torch.nn import functional
from torch.nn.utils import skip_init

LOG_TWO = math.log(2.0)
HALF_LOG_TWO_PI = 0.5 * math.log(2.0 * math.pi)


def _uniform(shape: Sequence[int], inputs: int, generator: torch.Generator) -> nn.Parameter:
    bound = 1.0 / math.sqrt(inputs)
    return nn.Parameter(torch.empty(*shape).uniform_(-bound, bound, generator=generator))


class EnsembleLinear(nn.Module):
    """E dense layers at once: [E, B, inputs] to [E, B, outputs]."""

    def __init__(self, members: int, inputs: int, outputs: int, generator: torch.Generator) -> None:
        super().__init__()
        self.weight = _uniform((members, inputs, outputs), inputs, generator)
        self.bias = _uniform((members, 1, outputs), inputs, generator)

    def forward(self, x_EBI: torch.Tensor) -> torch.Tensor:
        """Return every member's output."""
        return torch.baddbmm(self.bias, x_EBI, self.weight)


class EnsembleNorm(nn.Module):
    """LayerNorm over the last axis, with a scale and a shift of each member's own."""

    def __init__(self, members: int, width: int) -> None:
        super().__init__()
        self.width = width
        self.weight = nn.Parameter(torch.ones(members, 1, width))
        self.bias = nn.Parameter(torch.zeros(members, 1, width))

    def forward(self, x_EBI: torch.Tensor) -> torch.Tensor:
        """Return [E, B, width]."""
        return functional.layer_norm(x_EBI, (self.width,)) * self.weight + self.bias


class QEnsemble(nn.Module):
    """E values [E, B] of features and actions."""

    def __init__(
        self, members: int, inputs: int, hidden_dims: Sequence[int], generator: torch.Generator, *, layer_norm: bool
    ) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for before, width in itertools.pairwise([inputs, *hidden_dims]):
            norm = [EnsembleNorm(members, width)] if layer_norm else []
            layers += [EnsembleLinear(members, before, width, generator), *norm, nn.ReLU()]
        layers.append(EnsembleLinear(members, [inputs, *hidden_dims][-1], 1, generator))
        self.members, self.layers = members, nn.Sequential(*layers)

    def forward(self, features_BF: torch.Tensor, actions_BA: torch.Tensor) -> torch.Tensor:
        """Return Q(s, a) of every member, [E, B]."""
        inputs_BI = torch.cat((features_BF, actions_BA), dim=-1)
        return self.layers(inputs_BI.expand(self.members, *inputs_BI.shape)).squeeze(-1)


class SquashedGaussian(nn.Module):
    """The actor: a = tanh(mean + std noise), with mean and log std from one trunk."""

    def __init__(
        self,
        inputs: int,
        hidden_dims: Sequence[int],
        action_dim: int,
        log_std_range: tuple[float, float],
        generator: torch.Generator,
    ) -> None:
        super().__init__()
        self.log_std_range = log_std_range
        widths = [inputs, *hidden_dims]
        layers: list[nn.Module] = []
        for before, width in itertools.pairwise(widths):
            layers += [_dense(before, width, generator), nn.ReLU()]
        self.trunk = nn.Sequential(*layers)
        self.head = _dense(widths[-1], 2 * action_dim, generator)

    def forward(self, features_BF: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return mean and log std [B, A] before the squashing."""
        mean, log_std = self.head(self.trunk(features_BF)).chunk(2, dim=-1)
        return mean, log_std.clamp(*self.log_std_range)

    def sample(self, features_BF: torch.Tensor, noise_BA: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return actions [B, A] in (-1, 1) made of standard normal noise, and their log density [B].

        log p(a) = sum log N(u; mean, std) - log(1 - tanh(u)^2), and log(1 - tanh(u)^2) = 2 (log 2 - u - softplus(-2u)),
        which does not cancel for large u.
        """
        mean, log_std = self(features_BF)
        before = mean + log_std.exp() * noise_BA
        density = -0.5 * noise_BA.square() - log_std - HALF_LOG_TWO_PI
        density = density - 2.0 * (LOG_TWO - before - functional.softplus(-2.0 * before))
        return before.tanh(), density.sum(-1)


def _dense(inputs: int, outputs: int, generator: torch.Generator) -> nn.Linear:
    layer = cast(nn.Linear, skip_init(nn.Linear, inputs, outputs))
    layer.weight = _uniform((outputs, inputs), inputs, generator)
    layer.bias = _uniform((outputs,), inputs, generator)
    return layer
