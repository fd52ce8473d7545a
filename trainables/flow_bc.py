"""Flow-matching behaviour cloning: a vector field that carries noise to the demonstrated action chunk.

Loss and sampler are those of Q-chunking's actor (arXiv 2507.07969, itself from FQL, arXiv 2502.02538).
Shape suffixes: B samples, H steps of the chunk, A action dims, D = H * A, O observation dims.
"""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field

from understudy.algorithm import Algorithm, AlgorithmConfig, Batch
from understudy.observations import Observations
from understudy.registry import algorithms
from understudy.trainables.encoders import ObservationEncoder
from understudy.trainables.networks import MLP, VectorField


class FlowBCConfig(AlgorithmConfig):
    """Settings of flow_bc."""

    flow_steps: int = Field(default=10, ge=1, le=1000, description="Euler steps from noise to actions when acting")
    use_fourier_features: bool = Field(
        default=False, description="64 Fourier features of the flow's time instead of the time"
    )
    actor: Literal["flow", "one_step"] = Field(
        default="flow", description="what acts: the flow, or a network distilled from it that needs one step"
    )
    alpha: float = Field(default=100.0, gt=0, description="weight of the distillation (actor=one_step)")


class FlowPolicy(VectorField):
    """The vector field and, where one is distilled, the network mu(o, z) that jumps to where it leads."""

    def __init__(
        self, encoder: ObservationEncoder, size: int, config: FlowBCConfig, generator: torch.Generator
    ) -> None:
        super().__init__(encoder, size, config.hidden_dims, generator, fourier_features=config.use_fourier_features)
        inputs = encoder.features + size
        one_step = config.actor == "one_step"
        self.one_step = MLP(inputs, (*config.hidden_dims, size), generator) if one_step else None

    def jump(self, features_BF: torch.Tensor, noise_BD: torch.Tensor) -> torch.Tensor:
        """Return mu(o, z) [B, D]."""
        assert self.one_step is not None
        return self.one_step(torch.cat((features_BF, noise_BD), dim=-1))


@algorithms.register("flow_bc")
class FlowBC(Algorithm):
    """Regress the velocity x_1 - x_0 at a random point between noise x_0 and the demonstrated chunk x_1."""

    Config = FlowBCConfig
    name = "flow_bc"
    example = (
        "understudy train algo=flow_bc env_name=cube-single-scripted-singletask-task1-v0 training_steps=2000"
        " hidden_dims=[256,256] lr=1e-3 action_chunking=true horizon_length=5 seeds=[0,1,2] eval_episodes=50"
    )
    expected = "Success 0.99 [0.96, 1.00] over 3 seeds x 50 episodes, on 100 demonstrations of OGBench's oracle."
    evaluation_parameters = ("flow_steps",)
    config: FlowBCConfig

    @property
    def size(self) -> int:
        """Numbers in a chunk, D = H * A."""
        return self.chunk_length * self.action_dim

    def network(self, generator: torch.Generator) -> FlowPolicy:
        """Build the vector field, and the one-step network where asked."""
        encoder = ObservationEncoder(self.observation_shape, self.config, generator)
        return FlowPolicy(encoder, self.size, self.config, generator)

    def draw(self, batch_size: int, generator: torch.Generator) -> dict[str, torch.Tensor]:
        """Draw noise x_0 ~ N(0, I) [B, D] and time t ~ U[0, 1) [B, 1]; for the distillation also noise z [B, D]."""
        device = generator.device
        drawn = {
            "noise": torch.randn(batch_size, self.size, generator=generator, device=device),
            "time": torch.rand(batch_size, 1, generator=generator, device=device),
        }
        if self.config.actor == "one_step":
            drawn["distilled_noise"] = torch.randn(batch_size, self.size, generator=generator, device=device)
        return drawn

    def loss(
        self, network: torch.nn.Module, batch: Batch, draws: dict[str, torch.Tensor]
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """Return mean((v(o, x_t, t) - (x_1 - x_0))^2 * valid); the mean divides by all entries, masked or not.

        A one-step actor adds alpha * mean((mu(o, z) - Euler(o, z))^2); the Euler result is a constant there, and the
        encoder learns from both (FQL, arXiv 2502.02538).
        """
        assert isinstance(network, FlowPolicy)
        actions_BD = batch["actions"].flatten(1)
        noise_BD, time_B1 = draws["noise"], draws["time"]

        # Between noise and data: x_t = (1 - t) x_0 + t x_1.
        target_BD = actions_BD - noise_BD
        point_BD = torch.lerp(noise_BD, actions_BD, time_B1)
        features_BF = network.encoder(batch["observations"])
        velocity_BD = network(features_BF, point_BD, time_B1)

        error_BD = (velocity_BD - target_BD).square()
        if self.config.action_chunking:
            error_BD = (error_BD.unflatten(1, (-1, self.action_dim)) * batch["valid"].unsqueeze(-1)).flatten(1)
        flow_loss = error_BD.mean()
        if self.config.actor == "flow":
            return flow_loss, {"actor_loss": flow_loss, "bc_flow_loss": flow_loss}
        with torch.no_grad():
            end_BD = network.integrate(features_BF, draws["distilled_noise"], self.config.flow_steps)
        distill_loss = (network.jump(features_BF, draws["distilled_noise"]) - end_BD).square().mean()
        loss = flow_loss + self.config.alpha * distill_loss
        return loss, {"actor_loss": loss, "bc_flow_loss": flow_loss, "distill_loss": distill_loss}

    def noise_shape(self) -> tuple[int, ...]:
        """One decision starts from noise [H, A]."""
        return (self.chunk_length, self.action_dim)

    def act(self, network: torch.nn.Module, observations_BO: Observations, noise: torch.Tensor) -> torch.Tensor:
        """Integrate the field from the noise with `flow_steps` Euler steps, or jump; clipped once, at the end."""
        assert isinstance(network, FlowPolicy)
        features_BF = network.encoder(observations_BO)
        if self.config.actor == "one_step":
            actions_BD = network.jump(features_BF, noise.flatten(1))
        else:
            actions_BD = network.integrate(features_BF, noise.flatten(1), self.config.flow_steps)
        actions_BHA = actions_BD.unflatten(1, (self.chunk_length, self.action_dim))
        return actions_BHA.clamp(-1.0, 1.0) if self.config.action_clip else actions_BHA
