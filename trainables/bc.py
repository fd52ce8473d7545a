"""Behaviour cloning by regression: a Gaussian policy's likelihood, or the mean squared error of the actions.

The Gaussian policy follows BridgeData's BC agent: fixed, global or state-dependent standard deviation, its
logarithm clipped to [-20, 2], optional tanh squashing. Chunks are predicted at once, step-masked by `valid`.
Shape suffixes: B samples, H steps of the chunk, A action dims, O observation dims.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from pydantic import Field
from torch import nn
from torch.nn import functional

from understudy.algorithm import Algorithm, AlgorithmConfig, Batch
from understudy.observations import Observations, ObservationShape
from understudy.registry import algorithms
from understudy.trainables.encoders import ObservationEncoder
from understudy.trainables.networks import MLP, linear

LOG_STD_RANGE = (-20.0, 2.0)
HALF_LOG_TWO_PI = 0.5 * math.log(2 * math.pi)


class BCConfig(AlgorithmConfig):
    """Settings of bc."""

    policy: Literal["gaussian", "mse"] = Field(
        default="gaussian", description="likelihood of a Gaussian, or squared error"
    )
    std: Literal["fixed", "global", "state"] = Field(
        default="fixed", description="what the Gaussian's deviation depends on"
    )
    fixed_std: float = Field(default=1.0, gt=0, description="the deviation when std=fixed")
    tanh_squash: bool = Field(default=False, description="squash the policy's output into (-1, 1) by tanh")


class GaussianPolicy(nn.Module):
    """Mean and log deviation [B, H, A] of the action chunk, before any squashing."""

    def __init__(
        self,
        observation_shape: ObservationShape,
        chunk: tuple[int, int],
        config: BCConfig,
        generator: torch.Generator,
    ) -> None:
        super().__init__()
        self.chunk, self.fixed_log_std = chunk, math.log(config.fixed_std)
        self.encoder = ObservationEncoder(observation_shape, config, generator)
        self.trunk = MLP(self.encoder.features, config.hidden_dims, generator, activate_final=True)
        width = config.hidden_dims[-1] if config.hidden_dims else self.encoder.features
        size = math.prod(chunk)
        self.mean = linear(width, size, generator)
        learned = config.std if config.policy == "gaussian" else "fixed"
        self.global_log_std = nn.Parameter(torch.zeros(size)) if learned == "global" else None
        self.state_log_std = linear(width, size, generator) if learned == "state" else None

    def forward(self, observations_BO: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return (mean, log_std), both [B, H, A]."""
        hidden = self.trunk(self.encoder(observations_BO))
        mean = self.mean(hidden)
        if self.state_log_std is not None:
            log_std = self.state_log_std(hidden)
        elif self.global_log_std is not None:
            log_std = self.global_log_std.expand_as(mean)
        else:
            log_std = torch.full_like(mean, self.fixed_log_std)
        return mean.unflatten(1, self.chunk), log_std.clamp(*LOG_STD_RANGE).unflatten(1, self.chunk)


def log_probability(
    actions: torch.Tensor, mean: torch.Tensor, log_std: torch.Tensor, *, tanh_squash: bool = False
) -> torch.Tensor:
    """Return log p(actions), summed over the last dim, of N(mean, std^2), squashed by tanh where asked.

    A squashed action must lie inside (-1, 1): demonstrated ones are clipped to +-(1 - 1e-5) before.
    """
    before = torch.atanh(actions) if tanh_squash else actions
    scaled = (before - mean) * torch.exp(-log_std)
    density = -0.5 * scaled.square() - log_std - HALF_LOG_TWO_PI
    if tanh_squash:
        # log(1 - tanh(u)^2) = 2 (log 2 - u - softplus(-2u)), which does not cancel for large u.
        density = density - 2.0 * (math.log(2.0) - before - functional.softplus(-2.0 * before))
    return density.sum(-1)


@algorithms.register("bc")
class BC(Algorithm):
    """Fit a policy to demonstrated actions by maximum likelihood (policy=gaussian) or squared error (policy=mse)."""

    Config = BCConfig
    name = "bc"
    config: BCConfig

    def network(self, generator: torch.Generator) -> GaussianPolicy:
        """Build the policy."""
        return GaussianPolicy(self.observation_shape, self.noise_shape(), self.config, generator)

    def draw(self, batch_size: int, generator: torch.Generator) -> dict[str, torch.Tensor]:
        """Draw nothing: the loss is deterministic."""
        return {}

    def loss(
        self, network: nn.Module, batch: Batch, draws: dict[str, torch.Tensor]
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """Return the mean over samples and steps of -log p (gaussian), or over all entries of the squared error (mse).

        Steps past an episode's end count zero, and the mean still divides by them. Metrics: `mse` summed over
        action dims, and for the Gaussian `log_probs`, `mean_std`, `max_std`.
        """
        actions_BHA, valid_BH = batch["actions"], batch["valid"]
        mean_BHA, log_std_BHA = network(batch["observations"])
        squash = self.config.tanh_squash
        predicted_BHA = mean_BHA.tanh() if squash else mean_BHA
        error_BHA = (predicted_BHA - actions_BHA).square() * valid_BH.unsqueeze(-1)
        mse = error_BHA.sum(-1).mean()
        if self.config.policy == "mse":
            loss = error_BHA.mean()
            return loss, {"actor_loss": loss, "mse": mse}

        log_prob_BH = log_probability(actions_BHA, mean_BHA, log_std_BHA, tanh_squash=squash) * valid_BH
        loss = -log_prob_BH.mean()
        std_BHA = log_std_BHA.exp()
        return loss, {
            "actor_loss": loss,
            "mse": mse,
            "log_probs": log_prob_BH.mean(),
            "mean_std": std_BHA.mean(),
            "max_std": std_BHA.amax(),
        }

    def noise_shape(self) -> tuple[int, int]:
        """One decision perturbs the mean by noise [H, A] times the deviation."""
        return (self.chunk_length, self.action_dim)

    def act(self, network: nn.Module, observations_BO: Observations, noise: torch.Tensor) -> torch.Tensor:
        """Return mean + std * noise (the mean itself for policy=mse), squashed and clipped as configured."""
        actions_BHA, log_std_BHA = network(observations_BO)
        if self.config.policy == "gaussian":
            actions_BHA = actions_BHA + log_std_BHA.exp() * noise
        if self.config.tanh_squash:
            actions_BHA = actions_BHA.tanh()
        return actions_BHA.clamp(-1.0, 1.0) if self.config.action_clip else actions_BHA
