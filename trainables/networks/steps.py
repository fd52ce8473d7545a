"""Policies over a window of steps: each observation is encoded alone, then a causal body gives each step's action.

Shape suffixes: B samples, T steps of the window, F features of a step, W the body's width, M modes, A action dims.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, ClassVar, Literal

import torch
from pydantic import Field
from torch import nn

from understudy.algorithm import Batch, LossAndMetrics
from understudy.errors import SpecError
from understudy.observations import (
    GOAL,
    LANGUAGE,
    Observations,
    ObservationShape,
    as_shape,
    is_picture,
    parts_of,
)
from understudy.spec.learning import AlgorithmConfig, Sampling
from understudy.spec.part import ActsOnly, Needs, Redefines
from understudy.spec.parts import Language, Vision
from understudy.trainables.networks.likelihoods import Mixture, act_by_mode, mixture_loss, squared_error
from understudy.trainables.networks.mlp import linear
from understudy.trainables.networks.observation import ObservationEncoder
from understudy.trainables.networks.transformer import NO_DROPOUT, Dropout


class Window(Vision, Language, AlgorithmConfig):
    """Settings of methods that see a window of observations as a sequence of steps."""

    title: ClassVar[str] = "the window"

    obs_horizon: Annotated[int, Redefines()] = Field(
        default=10, ge=2, le=1000, description="observations the policy sees: the newest and those before it"
    )

    @property
    def sampling(self) -> Sampling:
        """An action for each observation."""
        return Sampling(horizon=self.obs_horizon, before=self.obs_horizon - 1)

    @property
    def lacking(self) -> dict[str, str]:
        """Frames are never joined, whatever `history` says."""
        return {**super().lacking, "history": "a method that joins observations: here each is a step"}


class StepPolicyConfig(Window):
    """Settings of how the action of each step is predicted."""

    title: ClassVar[str] = "the actions"

    policy: Literal["gmm", "gaussian", "mse"] = Field(
        default="gmm", description="likelihood of a mixture of Gaussians or of one of them, or squared error"
    )
    modes: Annotated[int, Needs("policy=gmm")] = Field(
        default=5, ge=1, le=100, description="Gaussians of the mixture (policy=gmm)"
    )
    min_std: Annotated[float, Needs("policy=gmm|gaussian")] = Field(
        default=1e-4, gt=0, lt=1, description="least deviation of the Gaussians"
    )
    eval_std: Annotated[float | None, ActsOnly(needs="policy=gmm|gaussian"), Needs("policy=gmm|gaussian")] = Field(
        default=None,
        gt=0,
        description="deviation of the Gaussians when acting; none: what was learnt (robomimic acts with 1e-4, its"
        " low_noise_eval, and eval_temperature=1)",
    )

    @property
    def acts_at_random(self) -> bool:
        """Gaussians have deviations, a squared error has none."""
        return self.policy != "mse"

    @property
    def gaussians(self) -> int:
        """Gaussians that an action is drawn from; 0 without any."""
        return {"mse": 0, "gaussian": 1, "gmm": self.modes}[self.policy]


def step_shape(shape: ObservationShape, count: int) -> ObservationShape:
    """Return the shape of one step of a window of `count` observations; SpecError where it is no such window."""
    found: dict[str, tuple[int, ...]] = {}
    for name, part in parts_of(shape).items():
        if name.startswith(GOAL):
            raise SpecError(f"observations have {name}: a method that learns a window of steps is told no goal")
        *outer, last = part
        if name == LANGUAGE:  # each step is told it
            fits, found[name] = True, part
        elif is_picture(name):
            fits, found[name] = len(part) == 4 and part[0] == count, part[1:]
        else:
            fits, found[name] = last % count == 0, (*outer, last // count)
        if not fits:
            raise SpecError(f"observations of {name} have shape {part}, which is no window of obs_horizon={count}")
    return as_shape(found) if isinstance(shape, dict) else next(iter(found.values()))


def by_step(observations: Observations, count: int) -> Observations:
    """Return windows of `count` observations, [B, ...], as single observations, [B * T, ...], each with their text."""

    def split(part: torch.Tensor) -> torch.Tensor:
        steps = part if part.ndim == 5 else part.unflatten(-1, (count, -1)).movedim(-2, 1)
        return steps.flatten(0, 1)

    if not isinstance(observations, dict):
        return split(observations)
    return {
        name: part.repeat_interleave(count, dim=0) if name == LANGUAGE else split(part)
        for name, part in observations.items()
    }


class Body(nn.Module):
    """A causal network from the features of steps [B, T, F] to [B, T, width]."""

    width: int


class StepPolicy(nn.Module):
    """Encoder of a step, causal body over the window, and a head for each step's action or mixture of Gaussians."""

    def __init__(
        self,
        shape: ObservationShape,
        action_dim: int,
        config: StepPolicyConfig,
        generator: torch.Generator,
        body: Callable[[int, torch.Generator], Body],
    ) -> None:
        """Build it; `body` is called with the features of a step."""
        super().__init__()
        self.count, self.action_dim, self.config = config.obs_horizon, action_dim, config
        self.encoder = ObservationEncoder(step_shape(shape, self.count), config, generator)
        self.body = body(self.encoder.features, generator)
        modes = config.gaussians
        size = max(1, modes) * action_dim
        self.logits = linear(self.body.width, modes, generator) if modes > 1 else None
        self.mean = linear(self.body.width, size, generator)
        self.scale = linear(self.body.width, size, generator) if modes else None

    def features(self, observations: Observations, dropout: Dropout = NO_DROPOUT) -> torch.Tensor:
        """Return [B, T, W]."""
        features = self.encoder(by_step(observations, self.count))
        return self.body(features.unflatten(0, (-1, self.count)), dropout)

    def forward(self, hidden_NW: torch.Tensor) -> Mixture | torch.Tensor:
        """Return the mixture of each of N steps, or with policy=mse its action [N, 1, A] in (-1, 1)."""
        mean = self.mean(hidden_NW)
        if self.scale is None:
            return mean.tanh().unsqueeze(1)
        shape = (self.config.gaussians, 1, self.action_dim)
        logits = torch.zeros_like(mean[:, :1]) if self.logits is None else self.logits(hidden_NW)
        return Mixture.of(logits, mean, self.scale(hidden_NW), shape, self.config.min_std)

    def loss(self, batch: Batch, dropout: Dropout = NO_DROPOUT, *, newest_alone: bool = False) -> LossAndMetrics:
        """Return the mean over samples and steps of -log p, or over all entries of the squared error.

        Steps before an episode's start count zero, and the mean still divides by them. With `newest_alone` each
        sample's last step is its only one.
        """
        learned = slice(-1, None) if newest_alone else slice(None)
        hidden_BTW = self.features(batch["observations"], dropout)[:, learned]
        actions_BTA, valid_BT = batch["actions"][:, learned], batch["valid"][:, learned]
        predicted = self(hidden_BTW.flatten(0, 1))
        actions_N1A, valid_N1 = actions_BTA.flatten(0, 1).unsqueeze(1), valid_BT.flatten().unsqueeze(1)
        if isinstance(predicted, Mixture):
            return mixture_loss(predicted, actions_N1A, valid_N1)
        loss, mse = squared_error(predicted, actions_N1A, valid_N1)
        return loss, {"actor_loss": loss, "mse": mse}

    @staticmethod
    def noise_shape(config: StepPolicyConfig, action_dim: int) -> tuple[int, ...]:
        """One decision draws one of M modes and then a Gaussian's deviation from it; nothing for policy=mse."""
        return (config.gaussians + action_dim,) if config.gaussians else ()

    def act(self, observations: Observations, noise: torch.Tensor, eval_std: float | None) -> torch.Tensor:
        """Return the newest step's action [B, 1, A], clipped to +-1: of the likeliest mode where the noise is zero."""
        predicted = self(self.features(observations)[:, -1])
        actions = act_by_mode(predicted, noise, eval_std) if isinstance(predicted, Mixture) else predicted
        return actions.clamp(-1.0, 1.0)
