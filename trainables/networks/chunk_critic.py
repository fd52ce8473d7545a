"""Q of a whole chunk of actions, by an ensemble: the critic of Q-chunking (arXiv 2507.07969), whose copy is its target.

It sees through an encoder of its own, which only its loss trains. Layers are dense, tanh-GELU, LayerNorm, so ordered.
Shape suffixes: B samples, E members of the ensemble, F features, D numbers in a chunk.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import nn
from torch.func import functional_call

from understudy.observations import Observations
from understudy.trainables.networks.critic import Critic
from understudy.trainables.networks.observation import ObservationEncoder

NORM_EPS = 1e-6
"""LayerNorm's epsilon: that of flax, which the published code is written in."""
Aggregate = Literal["mean", "min"]


class ChunkCritic(nn.Module):
    """E values of observations and chunks, with the observations' encoder."""

    def __init__(
        self,
        encoder: ObservationEncoder,
        size: int,
        hidden_dims: Sequence[int],
        generator: torch.Generator,
        *,
        members: int,
        layer_norm: bool,
    ) -> None:
        super().__init__()
        self.encoder = encoder
        norm = NORM_EPS if layer_norm else None
        self.values = Critic(encoder.features + size, hidden_dims, generator, members=members, norm_eps=norm)

    def forward(self, observations: Observations, actions_BD: torch.Tensor) -> torch.Tensor:
        """Return Q(o, a) of every member, [E, B]."""
        return self.of_features(self.encoder(observations), actions_BD)

    def of_features(self, features_BF: torch.Tensor, actions_BD: torch.Tensor) -> torch.Tensor:
        """Return Q(o, a) [E, B] of observations that were encoded before."""
        return self.values(torch.cat((features_BF, actions_BD), dim=-1)).t()

    def judged(self, observations: Observations, actions_BD: torch.Tensor) -> torch.Tensor:
        """Return Q(o, a) [E, B] whose gradient reaches the actions alone."""
        with torch.no_grad():
            features_BF = self.encoder(observations)
        frozen = {name: parameter.detach() for name, parameter in self.values.named_parameters()}
        return functional_call(self.values, frozen, (torch.cat((features_BF, actions_BD), dim=-1),)).t()


def aggregated(values_EB: torch.Tensor, how: Aggregate) -> torch.Tensor:
    """Return one value [B] of what the members say: their mean, or the least."""
    return values_EB.amin(dim=0) if how == "min" else values_EB.mean(dim=0)
