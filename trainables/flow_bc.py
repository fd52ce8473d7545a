"""Flow-matching behaviour cloning: a vector field that carries noise to the demonstrated action chunk.

Loss and sampler are those of Q-chunking's actor (arXiv 2507.07969, itself from FQL, arXiv 2502.02538).
Shape suffixes: B samples, H steps of the chunk, A action dims, D = H * A, O observation dims.
"""

from __future__ import annotations

import torch
from pydantic import Field

from understudy.algorithm import Algorithm, AlgorithmConfig, Batch
from understudy.observations import Observations, ObservationShape
from understudy.registry import algorithms
from understudy.trainables.encoders import ObservationEncoder
from understudy.trainables.networks import VectorField


class FlowBCConfig(AlgorithmConfig):
    """Settings of flow_bc."""

    flow_steps: int = Field(default=10, ge=1, le=1000, description="Euler steps from noise to actions when acting")
    use_fourier_features: bool = Field(
        default=False, description="64 Fourier features of the flow's time instead of the time"
    )


@algorithms.register("flow_bc")
class FlowBC(Algorithm):
    """Regress the velocity x_1 - x_0 at a random point between noise x_0 and the demonstrated chunk x_1."""

    Config = FlowBCConfig
    name = "flow_bc"
    evaluation_parameters = ("flow_steps",)
    config: FlowBCConfig

    @property
    def size(self) -> int:
        """Numbers in a chunk, D = H * A."""
        return self.chunk_length * self.action_dim

    def network(self, generator: torch.Generator) -> VectorField:
        """Build the vector field."""
        return VectorField(
            ObservationEncoder(self.observation_shape, self.config, generator),
            self.size,
            self.config.hidden_dims,
            generator,
            fourier_features=self.config.use_fourier_features,
        )

    def draw(self, batch_size: int, generator: torch.Generator) -> dict[str, torch.Tensor]:
        """Draw noise x_0 ~ N(0, I) [B, D] and time t ~ U[0, 1) [B, 1]."""
        device = generator.device
        return {
            "noise": torch.randn(batch_size, self.size, generator=generator, device=device),
            "time": torch.rand(batch_size, 1, generator=generator, device=device),
        }

    def loss(
        self, network: torch.nn.Module, batch: Batch, draws: dict[str, torch.Tensor]
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """Return mean((v(o, x_t, t) - (x_1 - x_0))^2 * valid); the mean divides by all entries, masked or not."""
        assert isinstance(network, VectorField)
        actions_BD = batch["actions"].flatten(1)
        noise_BD, time_B1 = draws["noise"], draws["time"]

        # Between noise and data: x_t = (1 - t) x_0 + t x_1.
        target_BD = actions_BD - noise_BD
        point_BD = torch.lerp(noise_BD, actions_BD, time_B1)
        velocity_BD = network(network.encoder(batch["observations"]), point_BD, time_B1)

        error_BD = (velocity_BD - target_BD).square()
        if self.config.action_chunking:
            error_BD = (error_BD.unflatten(1, (-1, self.action_dim)) * batch["valid"].unsqueeze(-1)).flatten(1)
        loss = error_BD.mean()
        return loss, {"actor_loss": loss, "bc_flow_loss": loss}

    def noise_shape(self) -> tuple[int, ...]:
        """One decision starts from noise [H, A]."""
        return (self.chunk_length, self.action_dim)

    def act(self, network: torch.nn.Module, observations_BO: Observations, noise: torch.Tensor) -> torch.Tensor:
        """Integrate the field from the noise with `flow_steps` Euler steps; clipped once, at the end."""
        assert isinstance(network, VectorField)
        actions_BD = network.euler(observations_BO, noise.flatten(1), self.config.flow_steps)
        actions_BHA = actions_BD.unflatten(1, (self.chunk_length, self.action_dim))
        return actions_BHA.clamp(-1.0, 1.0) if self.config.action_clip else actions_BHA
