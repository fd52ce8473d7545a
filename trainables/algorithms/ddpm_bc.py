"""Diffusion behaviour cloning: a score network that denoises an action chunk in `diffusion_steps` steps.

Schedules, network, loss and reverse step follow BridgeData's DDPM agent (DDPM: arXiv 2006.11239; cosine schedule:
arXiv 2102.09672; vp: arXiv 2011.13456; DDIM: arXiv 2010.02502). Observations are states or encoded pictures. Shape
suffixes: B samples, H steps, A action dims, D = H * A, T diffusion steps, W the score network's width.
"""

from __future__ import annotations

import math
from typing import Annotated, Literal

import numpy as np
import torch
from pydantic import AliasChoices, Field, model_validator
from torch import nn
from torch.nn import functional

from understudy.algorithm import Algorithm, Batch, Draws, LossAndMetrics, Targets
from understudy.observations import Observations, ObservationShape
from understudy.registry import algorithms
from understudy.spec.part import ActsOnly, OnlyWith, PerMember, Width
from understudy.spec.parts import Chunks, Dense, Language, Vision
from understudy.trainables.networks.mlp import linear
from understudy.trainables.networks.observation import ObservationEncoder
from understudy.trainables.networks.reverse import Reverse, Variance, deviation, leading_times
from understudy.trainables.networks.saliency import Saliency, with_saliency

TIME_FEATURES = 32
SAMPLE_RANGE = 2.0
"""Every reverse step is clipped to +- this."""


class DDPMBCConfig(Chunks, Dense, Vision, Language, Saliency):
    """Settings of ddpm_bc."""

    hidden_dims: tuple[Width, ...] = Field(
        default=(256, 256, 256), min_length=1, description="width of each residual block"
    )
    grad_clip: float | None = Field(default=1.0, gt=0, description="largest gradient norm of one member")
    beta_schedule: Literal["cosine", "linear", "vp"] = Field(
        default="cosine", description="variances of the forward process"
    )
    diffusion_steps: int = Field(default=20, ge=2, le=1000, description="steps of the forward process")
    dropout: Annotated[float, PerMember()] = Field(
        default=0.1, ge=0, lt=1, description="dropout in the residual blocks"
    )
    ema_rate: float | None = Field(
        default=0.002,
        gt=0,
        le=1,
        validation_alias=AliasChoices("ema_rate", "target_update_rate"),
        description="Polyak rate of the averaged weights that act; none: the weights themselves act",
    )
    sampler: Annotated[Literal["ddpm", "ddim"], ActsOnly()] = Field(
        default="ddpm", description="reverse process: stochastic, or deterministic"
    )
    sampling_steps: Annotated[int | None, ActsOnly()] = Field(
        default=None, ge=1, description="reverse steps when acting; none for diffusion_steps"
    )
    repeat_last_step: Annotated[int, ActsOnly()] = Field(
        default=0, ge=0, le=100, description="times the last reverse step is done again"
    )

    x0_range: Annotated[float | None, OnlyWith("x0_range"), ActsOnly()] = Field(
        default=None,
        gt=0,
        description="each reverse step clips the actions that it predicts to +- this (Diffusion Policy's: 1); none: it"
        " clips what it leads to to +-2, as BridgeData's",
    )
    variance: Annotated[Literal["fixed_small"] | None, OnlyWith("variance"), ActsOnly("sampler=ddpm")] = Field(
        default=None,
        description="variance of a reverse step: the posterior's, beta (1 - k') / (1 - k) (Diffusion Policy's); none:"
        " beta",
    )
    spacing: Annotated[Literal["leading"] | None, OnlyWith("spacing"), ActsOnly("sampling_steps")] = Field(
        default=None,
        description="times of fewer sampling_steps: every floor(T / n)-th from 0 (diffusers', Diffusion Policy's);"
        " none: evenly from the last to 0",
    )

    @model_validator(mode="after")
    def _consistent(self) -> DDPMBCConfig:
        if len(set(self.hidden_dims)) > 1:
            raise ValueError(f"hidden_dims of residual blocks must be equal, not {self.hidden_dims}")
        if (self.sampling_steps or 1) > self.diffusion_steps:
            raise ValueError(f"sampling_steps {self.sampling_steps} exceeds diffusion_steps {self.diffusion_steps}")
        return self

    def reverse_times(self) -> list[int]:
        """Return the times that acting visits, by default evenly spaced from the last to 0 (one: the last)."""
        count = self.sampling_steps or self.diffusion_steps
        if self.spacing == "leading":
            return leading_times(self.diffusion_steps, count)
        return [int(time) for time in np.linspace(self.diffusion_steps - 1, 0, count).round()]


def betas(schedule: str, steps: int) -> np.ndarray:
    """Return the forward process' variances [T], float64, each at most 0.999."""
    if schedule == "cosine":
        t = np.linspace(0, 1, steps + 1)
        kept = np.cos((t + 0.008) / 1.008 * np.pi / 2) ** 2
        return np.clip(1 - kept[1:] / kept[:-1], 0, 0.999)
    if schedule == "linear":
        return np.linspace(1e-4, 2e-2, steps)
    t = np.arange(1, steps + 1)
    low, high = 0.1, 10.0
    return 1 - np.exp(-low / steps - 0.5 * (high - low) * (2 * t - 1) / steps**2)


class ResidualBlock(nn.Module):
    """x + dense(swish(dense(LayerNorm(dropout(x))))), four times as wide inside."""

    def __init__(self, width: int, generator: torch.Generator) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.widen = linear(width, 4 * width, generator)
        self.narrow = linear(4 * width, width, generator)

    def forward(self, x_BW: torch.Tensor, keep_BW: torch.Tensor | None) -> torch.Tensor:
        """Return [B, W]; `keep_BW` is the dropout mask, already divided by the probability of keeping."""
        inner = x_BW if keep_BW is None else x_BW * keep_BW
        return x_BW + self.narrow(functional.silu(self.widen(self.norm(inner))))


class ScoreNetwork(nn.Module):
    """Predict a noisy chunk's noise: learnable Fourier time, then residual blocks over concat(time, obs, chunk)."""

    shares: torch.Tensor
    """How much signal and how much noise there is at each diffusion time, [T, 2]."""

    def __init__(
        self,
        observation_shape: ObservationShape,
        size: int,
        config: DDPMBCConfig,
        generator: torch.Generator,
    ) -> None:
        super().__init__()
        width = config.hidden_dims[0]
        kept = np.cumprod(1 - betas(config.beta_schedule, config.diffusion_steps))
        shares = torch.from_numpy(np.sqrt(np.stack((kept, 1 - kept), axis=1))).float()
        self.register_buffer("shares", shares, persistent=False)
        self.encoder = ObservationEncoder(observation_shape, config, generator)
        self.frequencies = nn.Parameter(torch.empty(TIME_FEATURES // 2).normal_(0.0, 0.2, generator=generator))
        self.time_in = linear(TIME_FEATURES, 2 * TIME_FEATURES, generator)
        self.time_out = linear(2 * TIME_FEATURES, TIME_FEATURES, generator)
        self.first = linear(TIME_FEATURES + self.encoder.features + size, width, generator)
        self.blocks = nn.ModuleList(ResidualBlock(width, generator) for _ in config.hidden_dims)
        self.last = linear(width, size, generator)

    def forward(
        self, features_BF: torch.Tensor, noisy_BD: torch.Tensor, time_B1: torch.Tensor, keep: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Return predicted noise [B, D] at times [B, 1] in 0..T-1; `keep` [B, blocks, W] holds dropout masks."""
        angles = 2 * math.pi * time_B1 * self.frequencies
        time = self.time_out(functional.silu(self.time_in(torch.cat((angles.cos(), angles.sin()), dim=-1))))
        hidden = self.first(torch.cat((time, features_BF, noisy_BD), dim=-1))
        for index, block in enumerate(self.blocks):
            hidden = block(hidden, None if keep is None else keep[:, index])
        return self.last(functional.silu(hidden))


@algorithms.register("ddpm_bc")
class DDPMBC(Algorithm):
    """Predict the noise that was mixed into the demonstrated chunk; act by reversing the mixing step by step."""

    Config = DDPMBCConfig
    name = "ddpm_bc"
    example = (
        "understudy train algo=ddpm_bc env_name=cube-single-scripted-singletask-task1-v0 target_update_rate=0.01"
        " training_steps=4000 hidden_dims=[256,256] lr=1e-3 action_chunking=true horizon_length=5 seeds=[0,1,2]"
        " eval_episodes=50"
    )
    expected = "Success 1.00 [0.98, 1.00] over 3 seeds x 50 episodes, on 100 demonstrations of OGBench's oracle."
    config: DDPMBCConfig

    def __init__(
        self, observation_shape: ObservationShape, action_dim: int, config: DDPMBCConfig | None = None
    ) -> None:
        super().__init__(observation_shape, action_dim, config)
        self._kept = np.cumprod(1 - betas(self.config.beta_schedule, self.config.diffusion_steps))

    def network(self, generator: torch.Generator) -> ScoreNetwork:
        """Build the score network."""
        return ScoreNetwork(self.observation_shape, self.chunk_length * self.action_dim, self.config, generator)

    def draw(self, batch_size: int, generator: torch.Generator) -> Draws:
        """Draw noise [B, D], diffusion times [B] in 0..T-1, and dropout masks [B, blocks, W]."""
        config, device = self.config, generator.device
        size = (batch_size, self.chunk_length * self.action_dim)
        drawn = {
            "noise": torch.randn(size, generator=generator, device=device),
            "time": torch.randint(config.diffusion_steps, (batch_size,), generator=generator, device=device),
        }
        if config.dropout > 0:
            masks = (batch_size, len(config.hidden_dims), config.hidden_dims[0])
            kept = torch.rand(masks, generator=generator, device=device) >= config.dropout
            drawn["keep"] = kept.to(torch.float32).div_(1 - config.dropout)
        return drawn

    def loss(self, network: nn.Module, target: Targets, batch: Batch, draws: Draws) -> LossAndMetrics:
        """Return the squared error of the noise: summed over action dims, masked by `valid`, mean elsewhere."""
        assert isinstance(network, ScoreNetwork)
        time_B, noise_BD = draws["time"], draws["noise"]
        signal_B1, noise_B1 = network.shares[time_B].split(1, dim=-1)
        noisy_BD = signal_B1 * batch["actions"].flatten(1) + noise_B1 * noise_BD
        time_B1 = time_B.unsqueeze(-1).to(torch.float32)
        features_BF, maps = network.encoder.maps(batch["observations"])
        predicted_BD = network(features_BF, noisy_BD, time_B1, draws.get("keep"))
        error_BHA = (predicted_BD - noise_BD).square().unflatten(1, (-1, self.action_dim))
        loss = (error_BHA.sum(-1) * batch["valid"]).mean()
        return with_saliency(loss, {"actor_loss": loss, "ddpm_loss": loss}, maps, batch, self.config)

    def noise_shape(self) -> tuple[int, ...]:
        """One decision needs noise [N, H, A]: its start and, for ddpm, what each step but the last adds."""
        fresh = len(self.config.reverse_times()) if self.config.sampler == "ddpm" else 1
        return (fresh, self.chunk_length, self.action_dim)

    def act(self, network: nn.Module, observations_BO: Observations, noise: torch.Tensor) -> torch.Tensor:
        """Denoise from noise[:, 0]; clipped to +-2 after each step (or x_0 in it, with `x0_range`), and to +-1 at the
        end where actions are clipped."""
        assert isinstance(network, ScoreNetwork)
        features_BF = network.encoder(observations_BO)
        noise_BND = noise.flatten(2)
        x_BD = noise_BND[:, 0]
        times = self.config.reverse_times()
        variance: Variance = self.config.variance or "beta"
        clipped = Reverse(self._kept, times, self.config.sampler, "noise", variance, self.config.x0_range)
        visits = [*enumerate(times), *[(len(times) - 1, times[-1])] * self.config.repeat_last_step]
        for index, time in visits:
            predicted_BD = network(features_BF, x_BD, torch.full_like(x_BD[:, :1], float(time)))
            before = float(self._kept[times[index + 1]]) if index + 1 < len(times) else 1.0
            kept, adds = float(self._kept[time]), self.config.sampler == "ddpm" and index + 1 < len(times)
            added_BD = noise_BND[:, index + 1] if adds else None
            if self.config.x0_range is not None:
                x_BD = clipped.step(x_BD, predicted_BD, kept, before, added_BD)
                continue
            x_BD = self._reverse(x_BD, predicted_BD, kept, before)
            if added_BD is not None:
                x_BD = x_BD + deviation(kept, before, variance) * added_BD
            x_BD = x_BD.clamp(-SAMPLE_RANGE, SAMPLE_RANGE)
        actions_BHA = x_BD.unflatten(1, (self.chunk_length, self.action_dim))
        return actions_BHA.clamp(-1.0, 1.0) if self.config.action_clip else actions_BHA

    def _reverse(self, x_BD: torch.Tensor, predicted_BD: torch.Tensor, kept: float, before: float) -> torch.Tensor:
        """Return the mean of one reverse step from signal power `kept` to `before` (1 at the end).

        ddpm: (x - beta / sqrt(1 - kept) eps) / sqrt(alpha), with alpha = kept / before and beta = 1 - alpha;
        ddim: sqrt(before) x_0 + sqrt(1 - before) eps, with x_0 = (x - sqrt(1 - kept) eps) / sqrt(kept).
        """
        if self.config.sampler == "ddpm":
            alpha = kept / before
            return (x_BD - (1 - alpha) / math.sqrt(1 - kept) * predicted_BD) / math.sqrt(alpha)
        start_BD = (x_BD - math.sqrt(1 - kept) * predicted_BD) / math.sqrt(kept)
        return math.sqrt(before) * start_BD + math.sqrt(1 - before) * predicted_BD
