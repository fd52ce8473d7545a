"""Diffusion Policy: a U-Net or a transformer over the steps of a chunk that takes the noise out of it.

As in Chi et al. 2023 (arXiv 2303.04137): DDPM (arXiv 2006.11239) of 100 steps with a squared-cosine schedule, the
predicted actions clipped to [-1, 1] in each reverse step and the posterior's variance (`variance=fixed_small`), or DDIM
(arXiv 2010.02502) in fewer steps; weights averaged by a power law; a history of observations (`obs_horizon=2`) as
condition; half of each chunk executed. The U-Net has the observation in each block (FiLM), the transformer attends to
it and to the diffusion time, causally along the chunk; with the same weights both give what the published networks give
(to 1e-6; of the transformer, with one observation). `preset=diffusion_policy` sets the published protocol. Shape
suffixes: B samples, H steps of the chunk, A action dims, D = H * A, F features, W the transformer's width.
"""

from __future__ import annotations

from typing import Annotated, Literal

import numpy as np
import torch
from pydantic import AliasChoices, Field, model_validator
from torch import nn
from torch.nn import functional

from understudy.algorithm import Algorithm, Batch, Draws, LossAndMetrics, Targets
from understudy.observations import Observations, ObservationShape
from understudy.registry import algorithms
from understudy.spec.learning import AlgorithmConfig
from understudy.spec.part import LOG, ActsOnly, Needs, OnlyWith, PerMember, Width
from understudy.spec.parts import Chunks, Language, Vision
from understudy.trainables.algorithms.ddpm_bc import betas
from understudy.trainables.networks.blocks import Block, Sines, causal, dense, learned, masks_of_blocks
from understudy.trainables.networks.observation import ObservationEncoder
from understudy.trainables.networks.reverse import Predicts, Reverse, Sampler, Variance, leading_times
from understudy.trainables.networks.transformer import NO_DROPOUT, Dropout, check_heads, draw_masks
from understudy.trainables.networks.unet1d import ConditionalUnet1d

MASKS = "keep_"
"""What the names of dropout masks start with."""


class DiffusionPolicyConfig(Chunks, Vision, Language, AlgorithmConfig):
    """Settings of diffusion_policy."""

    lr: float = Field(default=1e-4, gt=0, lt=10, json_schema_extra=LOG, description="learning rate of AdamW")
    weight_decay: float = Field(default=1e-6, ge=0, json_schema_extra=LOG, description="AdamW's decay")
    adam_beta1: float = Field(default=0.95, ge=0, lt=1, description="Adam's decay of the mean gradient")
    ema_rate: float | None = Field(
        default=1e-4,
        gt=0,
        le=1,
        validation_alias=AliasChoices("ema_rate", "target_update_rate"),
        description="least rate of the averaged weights that act; none: the weights themselves act",
    )
    ema_power: Annotated[float | None, OnlyWith("ema_power"), Needs("ema_rate")] = Field(
        default=0.75, gt=0, le=1, description="the average's rate begins at 1 and falls as updates^-ema_power"
    )
    horizon_length: int = Field(default=16, ge=1, le=10_000, description="actions in a chunk")
    action_chunking: bool = Field(default=True, description="predict horizon_length actions at once")
    n_action_steps: Annotated[
        int | None, OnlyWith("n_action_steps"), ActsOnly(), Needs("action_chunking=true", "n_action_steps<2")
    ] = Field(default=None, ge=1, description="actions of a chunk that are executed; none: half of them")
    denoiser: Literal["unet", "transformer"] = Field(default="unet", description="network that predicts the noise")
    down_dims: Annotated[tuple[Width, ...], OnlyWith("denoiser", "unet")] = Field(
        default=(256, 512, 1024), min_length=1, description="channels of the U-Net's levels"
    )
    kernel_size: Annotated[int, OnlyWith("denoiser", "unet")] = Field(
        default=5, ge=1, le=63, description="steps that its convolutions see; odd"
    )
    n_groups: Annotated[int, OnlyWith("denoiser", "unet")] = Field(
        default=8, ge=1, le=1024, description="groups of its normalisation; each of down_dims is a multiple"
    )
    step_embed_dim: Annotated[int, OnlyWith("denoiser", "unet")] = Field(
        default=256, ge=4, le=16_384, multiple_of=2, description="width of the diffusion time's features"
    )
    dim_model: Annotated[int, OnlyWith("denoiser", "transformer")] = Field(
        default=256, ge=4, le=16_384, multiple_of=4, description="width of the transformer's tokens"
    )
    n_heads: Annotated[int, OnlyWith("denoiser", "transformer")] = Field(
        default=4, ge=1, le=1024, description="heads of its attention"
    )
    n_layers: Annotated[int, OnlyWith("denoiser", "transformer")] = Field(
        default=8, ge=1, le=256, description="its blocks"
    )
    dropout: Annotated[float, PerMember(), OnlyWith("denoiser", "transformer")] = Field(
        default=0.3, ge=0, lt=1, description="dropout in its attention and feed-forward parts"
    )
    beta_schedule: Literal["cosine", "linear", "vp"] = Field(
        default="cosine", description="variances of the forward process; cosine is squaredcos_cap_v2"
    )
    diffusion_steps: int = Field(default=100, ge=2, le=1000, description="steps of the forward process")
    predicts: Predicts = Field(default="noise", description="what the network says: the noise, or the actions")
    sampler: Annotated[Sampler, ActsOnly()] = Field(
        default="ddpm", description="reverse process: stochastic, or deterministic"
    )
    sampling_steps: Annotated[int | None, ActsOnly()] = Field(
        default=None, ge=1, description="reverse steps when acting; none for diffusion_steps"
    )
    x0_range: Annotated[float | None, ActsOnly()] = Field(
        default=1.0,
        gt=0,
        description="each reverse step clips the actions that it predicts to +- this; none: no clipping",
    )
    variance: Annotated[Variance, ActsOnly("sampler=ddpm")] = Field(
        default="fixed_small", description="variance of a reverse step: the posterior's, or beta (fixed_large)"
    )

    @model_validator(mode="after")
    def _consistent(self) -> DiffusionPolicyConfig:
        if (self.sampling_steps or 1) > self.diffusion_steps:
            raise ValueError(f"sampling_steps {self.sampling_steps} exceeds diffusion_steps {self.diffusion_steps}")
        if self.denoiser == "transformer":
            check_heads(self.dim_model, self.n_heads)
        if self.denoiser == "unet" and any(width % self.n_groups for width in self.down_dims):
            raise ValueError(f"down_dims={list(self.down_dims)} must be multiples of n_groups={self.n_groups}")
        if self.kernel_size % 2 == 0:
            raise ValueError(f"kernel_size={self.kernel_size} must be odd")
        return self


class DiffusionTransformer(nn.Module):
    """Predict [B, H, A] of a noisy chunk: its steps attend to those before, to the diffusion time and observation."""

    allowed: torch.Tensor

    def __init__(
        self, chunk: tuple[int, int], features: int, config: DiffusionPolicyConfig, generator: torch.Generator
    ) -> None:
        super().__init__()
        width, (steps, action_dim) = config.dim_model, chunk
        self.by_action, self.by_observation = dense(action_dim, width, generator), dense(features, width, generator)
        self.time = Sines(width)
        self.positions, self.memory_positions = learned(steps, width, generator), learned(2, width, generator)
        self.widen, self.narrow = dense(width, 4 * width, generator), dense(4 * width, width, generator)
        self.blocks = nn.ModuleList(
            Block(width, config.n_heads, generator, memory=True) for _ in range(config.n_layers)
        )
        self.norm, self.out = nn.LayerNorm(width), dense(width, action_dim, generator)
        self.register_buffer("allowed", causal(steps), persistent=False)

    def forward(
        self,
        noisy_BHA: torch.Tensor,
        time_B1: torch.Tensor,
        features_BF: torch.Tensor,
        dropout: Dropout = NO_DROPOUT,
    ) -> torch.Tensor:
        """Return [B, H, A]."""
        told = torch.stack((self.time(time_B1), self.by_observation(features_BF)), dim=1) + self.memory_positions
        memory = self.narrow(functional.mish(self.widen(told)))
        x_BHW = self.by_action(noisy_BHA) + self.positions
        for index, block in enumerate(self.blocks):
            x_BHW = block(x_BHW, memory, self.allowed, dropout.of(f"blocks_{index}"))
        return self.out(self.norm(x_BHW))


class Denoiser(nn.Module):
    """The observation's encoder, and the network that denoises."""

    shares: torch.Tensor
    """How much signal and how much noise there is at each diffusion time, [T, 2]."""

    def __init__(
        self,
        shape: ObservationShape,
        chunk: tuple[int, int],
        config: DiffusionPolicyConfig,
        kept: np.ndarray,
        generator: torch.Generator,
    ) -> None:
        super().__init__()
        self.register_buffer("shares", torch.from_numpy(np.sqrt(np.stack((kept, 1 - kept), axis=1))).float(), False)
        self.encoder = ObservationEncoder(shape, config, generator)
        if config.denoiser == "transformer":
            self.denoiser = DiffusionTransformer(chunk, self.encoder.features, config, generator)
            return
        sizes = {"kernel": config.kernel_size, "groups": config.n_groups, "step_width": config.step_embed_dim}
        self.denoiser = ConditionalUnet1d(chunk[1], self.encoder.features, config.down_dims, generator, **sizes)

    def forward(
        self, noisy_BHA: torch.Tensor, time_B1: torch.Tensor, features_BF: torch.Tensor, dropout: Dropout = NO_DROPOUT
    ) -> torch.Tensor:
        """Return the noise (or the actions) in noisy chunks at times [B, 1] in 0..T-1, [B, H, A]."""
        if isinstance(self.denoiser, DiffusionTransformer):
            return self.denoiser(noisy_BHA, time_B1, features_BF, dropout)
        return self.denoiser(noisy_BHA, time_B1, features_BF)


@algorithms.register("diffusion_policy")
class DiffusionPolicy(Algorithm):
    """Predict the noise that was mixed into a chunk, by a U-Net or a transformer over its steps; act without it."""

    Config = DiffusionPolicyConfig
    name = "diffusion_policy"
    example = (
        "understudy train algo=diffusion_policy env_name=cube-single-scripted-singletask-task1-v0 obs_horizon=2"
        " normalize=bounds normalize_actions=bounds down_dims=[32,64] step_embed_dim=32 lr=1e-3 training_steps=2000"
        " batch_size=64 sampler=ddim sampling_steps=10 eval_temperature=0,1 eval_episodes=50"
    )
    expected = (
        "Success 0.68 [0.54, 0.79] at temperature 0 and 0.40 [0.28, 0.54] at 1, the same policy of one seed on 50"
        " episodes, on 100 demonstrations of OGBench's oracle: a short training of a small network."
    )
    config: DiffusionPolicyConfig

    def __init__(
        self, observation_shape: ObservationShape, action_dim: int, config: DiffusionPolicyConfig | None = None
    ) -> None:
        super().__init__(observation_shape, action_dim, config)
        self._kept = np.cumprod(1 - betas(self.config.beta_schedule, self.config.diffusion_steps))

    @property
    def executed(self) -> int:
        """Half of a chunk, unless `n_action_steps` says how many."""
        return self.config.n_action_steps or max(1, self.chunk_length // 2)

    @property
    def reverse(self) -> Reverse:
        """How the network's predictions become actions."""
        config = self.config
        times = leading_times(config.diffusion_steps, config.sampling_steps or config.diffusion_steps)
        return Reverse(self._kept, times, config.sampler, config.predicts, config.variance, config.x0_range)

    def network(self, generator: torch.Generator) -> Denoiser:
        """Build encoder and denoiser."""
        return Denoiser(
            self.observation_shape, (self.chunk_length, self.action_dim), self.config, self._kept, generator
        )

    def draw(self, batch_size: int, generator: torch.Generator) -> Draws:
        """Draw noise [B, H, A], diffusion times [B] in 0..T-1, and the transformer's dropout masks."""
        config, device = self.config, generator.device
        size = (batch_size, self.chunk_length, self.action_dim)
        drawn = {
            "noise": torch.randn(size, generator=generator, device=device),
            "time": torch.randint(config.diffusion_steps, (batch_size,), generator=generator, device=device),
        }
        if config.denoiser == "unet" or config.dropout == 0:
            return drawn
        sizes = (config.dim_model, config.n_heads)
        shapes = masks_of_blocks("blocks", config.n_layers, sizes, self.chunk_length, 2)
        named = {MASKS + name: shape for name, shape in shapes.items()}
        return drawn | draw_masks(batch_size, named, config.dropout, generator)

    def loss(self, network: nn.Module, target: Targets, batch: Batch, draws: Draws) -> LossAndMetrics:
        """Return mean((prediction - noise)^2 valid); the mean divides by all entries, masked or not.

        The published code repeats an episode's last action past its end and learns those entries too.
        """
        assert isinstance(network, Denoiser)
        actions_BHA, noise_BHA, time_B = batch["actions"], draws["noise"], draws["time"]
        signal_B11, noise_B11 = network.shares[time_B].unsqueeze(-1).split(1, dim=1)
        noisy_BHA = signal_B11 * actions_BHA + noise_B11 * noise_BHA
        features_BF = network.encoder(batch["observations"])
        dropout = Dropout(draws, self.config.dropout, MASKS)
        said_BHA = network(noisy_BHA, time_B.unsqueeze(-1).to(noisy_BHA.dtype), features_BF, dropout)
        wanted_BHA = noise_BHA if self.config.predicts == "noise" else actions_BHA
        loss = ((said_BHA - wanted_BHA).square() * batch["valid"].unsqueeze(-1)).mean()
        return loss, {"actor_loss": loss, "diffusion_loss": loss}

    def noise_shape(self) -> tuple[int, ...]:
        """One decision needs noise [N, H, A]: its start and, for ddpm, what each step but the last adds."""
        return (self.reverse.fresh, self.chunk_length, self.action_dim)

    def act(self, network: nn.Module, observations_BO: Observations, noise: torch.Tensor) -> torch.Tensor:
        """Denoise from noise[:, 0]; clipped to +-1 at the end where actions are clipped."""
        assert isinstance(network, Denoiser)
        features_BF = network.encoder(observations_BO)
        chunk = (self.chunk_length, self.action_dim)

        def predict(x_BD: torch.Tensor, time: int) -> torch.Tensor:
            times_B1 = torch.full_like(x_BD[:, :1], float(time))
            return network(x_BD.unflatten(1, chunk), times_B1, features_BF).flatten(1)

        actions_BHA = self.reverse.run(predict, noise.flatten(2)).unflatten(1, chunk)
        return actions_BHA.clamp(-1.0, 1.0) if self.config.action_clip else actions_BHA
