"""Behaviour cloning by regression: a Gaussian's or a mixture's likelihood, or the squared error of the actions.

The Gaussian policy follows BridgeData's BC agent (Walke et al. 2023, arXiv 2308.12952): fixed, global or
state-dependent standard deviation, its logarithm clipped to [-20, 2], optional tanh squashing. The mixture follows
robomimic's BC-GMM (Mandlekar et al. 2021, arXiv 2108.03298). Chunks are predicted at once, step-masked by `valid`.
Shape suffixes: B samples, H steps of the chunk, A action dims, O observation dims, M modes.
"""

from __future__ import annotations

import math
from typing import Annotated, Literal

import torch
from pydantic import Field, model_validator
from torch import nn

from understudy.algorithm import Algorithm, Batch, Draws, LossAndMetrics, Targets
from understudy.observations import Observations, ObservationShape
from understudy.registry import algorithms
from understudy.spec.part import ActsOnly, Needs, OnlyWith, PerMember
from understudy.spec.parts import Chunks, Dense, Language, Vision
from understudy.trainables.networks.likelihoods import (
    Mixture,
    act_by_mode,
    likelihood,
    log_probability,
    mixture_loss,
    squared_error,
)
from understudy.trainables.networks.mlp import Trunk, draw_dropout, linear
from understudy.trainables.networks.observation import ObservationEncoder
from understudy.trainables.networks.saliency import Saliency, with_saliency

LOG_STD_RANGE = (-20.0, 2.0)


class BCConfig(Chunks, Dense, Vision, Language, Saliency):
    """Settings of bc."""

    policy: Literal["gaussian", "mse", "gmm"] = Field(
        default="gaussian", description="likelihood of a Gaussian or of a mixture of them, or squared error"
    )
    std: Annotated[Literal["fixed", "global", "state"], Needs("policy=gaussian")] = Field(
        default="fixed", description="what the Gaussian's deviation depends on"
    )
    fixed_std: Annotated[float, Needs("policy=gaussian"), Needs("std=fixed")] = Field(
        default=1.0, gt=0, description="the deviation when std=fixed"
    )
    tanh_squash: bool = Field(default=False, description="squash the policy's output into (-1, 1) by tanh")
    modes: Annotated[int, Needs("policy=gmm")] = Field(
        default=5, ge=1, le=100, description="Gaussians of the mixture (policy=gmm)"
    )
    min_std: Annotated[float, Needs("policy=gmm")] = Field(
        default=1e-4, gt=0, lt=1, description="least deviation of the mixture's Gaussians"
    )
    eval_std: Annotated[float | None, OnlyWith("eval_std"), ActsOnly(needs="policy=gmm"), Needs("policy=gmm")] = Field(
        default=None,
        gt=0,
        description="deviation of the mixture's Gaussians when acting; none: what was learnt (robomimic acts with 1e-4,"
        " its low_noise_eval, and eval_temperature=1)",
    )
    dropout: Annotated[float, PerMember(), Needs("hidden_dims")] = Field(
        default=0.0, ge=0, lt=1, description="dropout before each activation"
    )
    activation: Annotated[Literal["gelu", "swish"], Needs("hidden_dims")] = Field(
        default="gelu", description="of the policy's dense layers"
    )

    @property
    def acts_at_random(self) -> bool:
        """A Gaussian and a mixture have deviations, a squared error has none."""
        return self.policy != "mse"

    @model_validator(mode="after")
    def _consistent(self) -> BCConfig:
        if self.policy == "gmm" and self.tanh_squash:
            raise ValueError("tanh_squash is for policy=gaussian and mse: a mixture's means are squashed anyway")
        return self


class Head(nn.Module):
    """The encoder and dense layers that every policy here starts with."""

    def __init__(self, observation_shape: ObservationShape, config: BCConfig, generator: torch.Generator) -> None:
        super().__init__()
        self.encoder = ObservationEncoder(observation_shape, config, generator)
        self.trunk = Trunk(self.encoder.features, config.hidden_dims, generator, config.activation)

    def features(self, observations_BO: Observations, keep: dict[str, torch.Tensor] | None = None) -> LossAndMetrics:
        """Return [B, width] and the encoder's maps."""
        encoded, maps = self.encoder.maps(observations_BO)
        return self.trunk(encoded, keep), maps


class GaussianPolicy(Head):
    """Mean and log deviation [B, H, A] of the action chunk, before any squashing."""

    def __init__(
        self,
        observation_shape: ObservationShape,
        chunk: tuple[int, int],
        config: BCConfig,
        generator: torch.Generator,
    ) -> None:
        super().__init__(observation_shape, config, generator)
        self.chunk, self.fixed_log_std = chunk, math.log(config.fixed_std)
        width, size = self.trunk.features, math.prod(chunk)
        self.mean = linear(width, size, generator)
        learned = config.std if config.policy == "gaussian" else "fixed"
        self.global_log_std = nn.Parameter(torch.zeros(size)) if learned == "global" else None
        self.state_log_std = linear(width, size, generator) if learned == "state" else None

    def forward(self, hidden: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return (mean, log_std), both [B, H, A], of what `features` gave."""
        mean = self.mean(hidden)
        if self.state_log_std is not None:
            log_std = self.state_log_std(hidden)
        elif self.global_log_std is not None:
            log_std = self.global_log_std.expand_as(mean)
        else:
            log_std = torch.full_like(mean, self.fixed_log_std)
        return mean.unflatten(1, self.chunk), log_std.clamp(*LOG_STD_RANGE).unflatten(1, self.chunk)


class MixturePolicy(Head):
    """Log weights [B, M] of a mixture, and means in (-1, 1) and deviations [B, M, H, A] of its Gaussians."""

    def __init__(
        self,
        observation_shape: ObservationShape,
        chunk: tuple[int, int],
        config: BCConfig,
        generator: torch.Generator,
    ) -> None:
        super().__init__(observation_shape, config, generator)
        self.shape, self.min_std = (config.modes, *chunk), config.min_std
        width, size = self.trunk.features, config.modes * math.prod(chunk)
        self.logits = linear(width, config.modes, generator)
        self.mean, self.scale = linear(width, size, generator), linear(width, size, generator)

    def forward(self, hidden: torch.Tensor) -> Mixture:
        """Return the mixture of what `features` gave."""
        return Mixture.of(self.logits(hidden), self.mean(hidden), self.scale(hidden), self.shape, self.min_std)


@algorithms.register("bc")
class BC(Algorithm):
    """Fit a policy to demonstrated actions by maximum likelihood (policy=gaussian, gmm) or squared error (mse)."""

    Config = BCConfig
    name = "bc"
    example = (
        "understudy train algo=bc env_name=cube-single-scripted-singletask-task1-v0 training_steps=2000"
        " hidden_dims=[256,256] lr=1e-3 action_chunking=true horizon_length=5 seeds=[0,1,2] eval_episodes=50"
    )
    expected = "Success 0.99 [0.96, 1.00] over 3 seeds x 50 episodes, on 100 demonstrations of OGBench's oracle."
    config: BCConfig

    def network(self, generator: torch.Generator) -> Head:
        """Build the policy."""
        kind = MixturePolicy if self.config.policy == "gmm" else GaussianPolicy
        return kind(self.observation_shape, (self.chunk_length, self.action_dim), self.config, generator)

    def draw(self, batch_size: int, generator: torch.Generator) -> Draws:
        """Draw the dropout masks of each layer."""
        return draw_dropout(batch_size, self.config.hidden_dims, self.config.dropout, generator)

    def loss(self, network: nn.Module, target: Targets, batch: Batch, draws: Draws) -> LossAndMetrics:
        """Return the mean over samples and steps of -log p, or over all entries of the squared error (mse).

        Steps past an episode's end count zero, and the mean still divides by them. Metrics: `mse` summed over
        action dims, and for likelihoods `log_probs`, `mean_std`, `max_std`. Saliency is regularised where asked.
        """
        assert isinstance(network, Head)
        hidden, maps = network.features(batch["observations"], draws)
        predicted = network(hidden)
        if isinstance(predicted, Mixture):
            loss, metrics = mixture_loss(predicted, batch["actions"], batch["valid"])
        else:
            loss, metrics = self._gaussian(predicted, batch)
        return with_saliency(loss, metrics, maps, batch, self.config)

    def _gaussian(self, predicted: tuple[torch.Tensor, ...], batch: Batch) -> LossAndMetrics:
        mean_BHA, log_std_BHA = predicted
        actions_BHA, valid_BH, squash = batch["actions"], batch["valid"], self.config.tanh_squash
        loss, mse = squared_error(mean_BHA.tanh() if squash else mean_BHA, actions_BHA, valid_BH)
        if self.config.policy == "mse":
            return loss, {"actor_loss": loss, "mse": mse}
        log_prob_BH = log_probability(actions_BHA, mean_BHA, log_std_BHA, tanh_squash=squash) * valid_BH
        return likelihood(log_prob_BH.mean(), mse, log_std_BHA.exp())

    def noise_shape(self) -> tuple[int, ...]:
        """One decision perturbs the mean by noise [H, A] times the deviation; a mixture first draws one of M modes."""
        chunk = (self.chunk_length, self.action_dim)
        return (self.config.modes + math.prod(chunk),) if self.config.policy == "gmm" else chunk

    def act(self, network: nn.Module, observations_BO: Observations, noise: torch.Tensor) -> torch.Tensor:
        """Return mean + std * noise (the mean itself for policy=mse), squashed and clipped as configured.

        A mixture's mode is the likeliest one where the noise is zero, else one drawn by its weight; robomimic draws the
        mode and acts with deviations of 1e-4, which is `eval_temperature=1 eval_std=1e-4`.
        """
        assert isinstance(network, Head)
        predicted = network(network.features(observations_BO)[0])
        if isinstance(predicted, Mixture):
            actions_BHA = act_by_mode(predicted, noise, self.config.eval_std)
        else:
            actions_BHA, log_std_BHA = predicted
            if self.config.policy == "gaussian":
                actions_BHA = actions_BHA + log_std_BHA.exp() * noise
        if self.config.tanh_squash:
            actions_BHA = actions_BHA.tanh()
        return actions_BHA.clamp(-1.0, 1.0) if self.config.action_clip else actions_BHA
