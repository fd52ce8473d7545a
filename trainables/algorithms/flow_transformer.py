"""A flow-matching transformer: DiT blocks over the steps of a chunk, told time and observation by AdaLN.

The action head of today's generalist policies on its own (pi0, arXiv 2410.24164; DiT policies, arXiv 2410.15959): the
flow of flow matching (arXiv 2210.02747, straight paths) in a diffusion transformer (DiT, arXiv 2212.09748), whose
condition, the flow's time and the observation, scales, shifts and gates each block; the observation is a token beside
those of the steps too. The time of a training sample is
uniform, of a logit-normal (arXiv 2403.03206), or pi0's Beta(1.5, 1) towards noise. Shape suffixes: B samples, H steps
of the chunk, A action dims, F features, W the tokens' width.
"""

from __future__ import annotations

from typing import Annotated, Literal

import torch
from pydantic import Field, model_validator
from torch import nn
from torch.nn import functional

from understudy.algorithm import Algorithm, Batch, Draws, LossAndMetrics, Targets
from understudy.observations import Observations, ObservationShape
from understudy.registry import algorithms
from understudy.spec.learning import AlgorithmConfig
from understudy.spec.part import LOG, ActsOnly
from understudy.spec.parts import Chunks, Language, Vision
from understudy.trainables.networks.blocks import ModulatedBlock, Sines, dense, learned, modulated
from understudy.trainables.networks.observation import ObservationEncoder
from understudy.trainables.networks.transformer import check_heads

TIME_SCALE = 1000.0
"""The highest frequency of the time's features, in radians over the whole flow."""


class FlowTransformerConfig(Chunks, Vision, Language, AlgorithmConfig):
    """Settings of flow_transformer."""

    lr: float = Field(default=1e-4, gt=0, lt=10, json_schema_extra=LOG, description="learning rate of AdamW")
    weight_decay: float = Field(default=1e-6, ge=0, json_schema_extra=LOG, description="AdamW's decay")
    horizon_length: int = Field(default=16, ge=1, le=10_000, description="actions in a chunk")
    action_chunking: bool = Field(default=True, description="predict horizon_length actions at once")
    dim_model: int = Field(default=256, ge=4, le=16_384, multiple_of=4, description="width of the tokens")
    n_heads: int = Field(default=4, ge=1, le=1024, description="heads of the attention")
    n_layers: int = Field(default=6, ge=1, le=256, description="DiT blocks")
    time_sampling: Literal["uniform", "logit_normal", "beta"] = Field(
        default="uniform", description="where along the flow training samples lie: beta is pi0's, more of them at noise"
    )
    flow_steps: Annotated[int, ActsOnly()] = Field(
        default=10, ge=1, le=1000, description="Euler steps from noise to actions when acting"
    )

    @model_validator(mode="after")
    def _consistent(self) -> FlowTransformerConfig:
        check_heads(self.dim_model, self.n_heads)
        return self


class FlowTransformer(nn.Module):
    """Velocities [B, H, A] of chunks on their way from noise to actions, for an observation and a time in [0, 1]."""

    def __init__(
        self,
        shape: ObservationShape,
        chunk: tuple[int, int],
        config: FlowTransformerConfig,
        generator: torch.Generator,
    ) -> None:
        super().__init__()
        width, (steps, action_dim) = config.dim_model, chunk
        self.encoder = ObservationEncoder(shape, config, generator)
        self.by_observation = dense(self.encoder.features, width, generator)
        self.sines = Sines(width, scale=TIME_SCALE)
        self.time_in, self.time_out = dense(width, width, generator), dense(width, width, generator)
        self.by_action, self.positions = dense(action_dim, width, generator), learned(1 + steps, width, generator)
        self.blocks = nn.ModuleList(ModulatedBlock(width, config.n_heads, generator) for _ in range(config.n_layers))
        self.modulation, self.out = dense(width, 2 * width, generator), dense(width, action_dim, generator)

    def told(self, observations_BO: Observations) -> torch.Tensor:
        """Return the observation's token, which is added to the condition too, [B, W]."""
        return self.by_observation(self.encoder(observations_BO))

    def forward(self, told_BW: torch.Tensor, x_BHA: torch.Tensor, time_B1: torch.Tensor) -> torch.Tensor:
        """Return velocities [B, H, A]."""
        condition_BW = told_BW + self.time_out(functional.silu(self.time_in(self.sines(time_B1))))
        tokens_BNW = torch.cat((told_BW.unsqueeze(1), self.by_action(x_BHA)), dim=1) + self.positions
        for block in self.blocks:
            tokens_BNW = block(tokens_BNW, condition_BW)
        shift_BW, scale_BW = self.modulation(functional.silu(condition_BW)).chunk(2, dim=-1)
        return self.out(modulated(tokens_BNW[:, 1:], shift_BW, scale_BW))


@algorithms.register("flow_transformer")
class FlowTransformerBC(Algorithm):
    """Regress the velocity from noise to the demonstrated chunk by a diffusion transformer over its steps."""

    Config = FlowTransformerConfig
    name = "flow_transformer"
    example = (
        "understudy train algo=flow_transformer env_name=cube-single-scripted-singletask-task1-v0 horizon_length=8"
        " n_action_steps=5 dim_model=64 n_layers=2 lr=1e-3 batch_size=64 training_steps=2000 eval_temperature=0,1"
        " eval_episodes=50"
    )
    expected = (
        "Success 0.58 [0.44, 0.71] at temperature 0 and 0.46 [0.33, 0.60] at 1, the same policy of one seed on 50"
        " episodes, on 100 demonstrations of OGBench's oracle: a short training that had not ended to improve."
    )
    config: FlowTransformerConfig

    @property
    def chunk(self) -> tuple[int, int]:
        """Steps and dims of a chunk, (H, A)."""
        return (self.chunk_length, self.action_dim)

    def network(self, generator: torch.Generator) -> FlowTransformer:
        """Build encoder and transformer."""
        return FlowTransformer(self.observation_shape, self.chunk, self.config, generator)

    def draw(self, batch_size: int, generator: torch.Generator) -> Draws:
        """Draw noise [B, H, A] and times [B, 1], 0 at noise."""
        device, kind = generator.device, self.config.time_sampling
        noise = torch.randn((batch_size, *self.chunk), generator=generator, device=device)
        if kind == "logit_normal":
            time = torch.randn(batch_size, 1, generator=generator, device=device).sigmoid()
        else:
            time = torch.rand(batch_size, 1, generator=generator, device=device)
        if kind == "beta":  # 1 - t ~ Beta(1.5, 1), whose distribution function is s^1.5
            time = 1 - time.pow(1 / 1.5)
        return {"noise": noise, "time": time}

    def loss(self, network: nn.Module, target: Targets, batch: Batch, draws: Draws) -> LossAndMetrics:
        """Return mean((v(o, x_t, t) - (x_1 - x_0))^2 valid); the mean divides by all entries, masked or not."""
        assert isinstance(network, FlowTransformer)
        actions_BHA, noise_BHA, time_B1 = batch["actions"], draws["noise"], draws["time"]
        point_BHA = torch.lerp(noise_BHA, actions_BHA, time_B1.unsqueeze(-1))
        velocity_BHA = network(network.told(batch["observations"]), point_BHA, time_B1)
        error_BHA = (velocity_BHA - (actions_BHA - noise_BHA)).square()
        loss = (error_BHA * batch["valid"].unsqueeze(-1)).mean()
        return loss, {"actor_loss": loss, "bc_flow_loss": loss}

    def noise_shape(self) -> tuple[int, ...]:
        """One decision starts from noise [H, A]."""
        return self.chunk

    def act(self, network: nn.Module, observations_BO: Observations, noise: torch.Tensor) -> torch.Tensor:
        """Integrate the field from the noise with `flow_steps` Euler steps; clipped once, at the end."""
        assert isinstance(network, FlowTransformer)
        told_BW, x_BHA, steps = network.told(observations_BO), noise, self.config.flow_steps
        for index in range(steps):
            time_B1 = torch.full_like(told_BW[:, :1], index / steps)
            x_BHA = x_BHA + network(told_BW, x_BHA, time_B1) / steps
        return x_BHA.clamp(-1.0, 1.0) if self.config.action_clip else x_BHA
