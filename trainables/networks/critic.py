"""The value of action chunks in the hands of the demonstrator, by which flow_bc chooses among samples.

Q(o, a) regresses on what the demonstrations then earned, their discounted return to the end of the episode: one step
of improvement over the demonstrator and no more, which needs no bootstrapping and no target network (Brandfonbrener et
al. 2021, arXiv 2106.08909). The best of several samples by a Q is EMaQ's and Q-chunking's (arXiv 2007.11091,
2507.07969). Shape suffixes: B samples, E members of the ensemble, I inputs.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch
from torch import nn

from understudy.trainables.networks.mlp import gelu, linear

ENSEMBLE = 2


class Critic(nn.Module):
    """E values [B, E] of inputs [B, I]; layers are dense, GELU, LayerNorm (none: left out), in Q-chunking's order."""

    def __init__(
        self,
        inputs: int,
        hidden_dims: Sequence[int],
        generator: torch.Generator,
        *,
        members: int = ENSEMBLE,
        norm_eps: float | None = 1e-5,
    ) -> None:
        super().__init__()
        self.members = nn.ModuleList(_member(inputs, hidden_dims, generator, norm_eps) for _ in range(members))

    def forward(self, inputs_BI: torch.Tensor) -> torch.Tensor:
        """Return every member's value."""
        return torch.cat([member(inputs_BI) for member in self.members], dim=-1)


class _Activated(nn.Module):
    def __init__(self, width: int, eps: float | None) -> None:
        super().__init__()
        self.norm = nn.Identity() if eps is None else nn.LayerNorm(width, eps=eps)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.norm(gelu(x))


def _member(
    inputs: int, hidden_dims: Sequence[int], generator: torch.Generator, norm_eps: float | None
) -> nn.Sequential:
    layers: list[nn.Module] = []
    for before, width in itertools.pairwise([inputs, *hidden_dims]):
        layers += [linear(before, width, generator), _Activated(width, norm_eps)]
    return nn.Sequential(*layers, linear([inputs, *hidden_dims][-1], 1, generator))
