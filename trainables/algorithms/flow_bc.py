"""Flow-matching behaviour cloning: a vector field that carries noise to the demonstrated action chunk.

Loss and sampler are those of Q-chunking's actor (arXiv 2507.07969, itself from FQL, arXiv 2502.02538).
Shape suffixes: B samples, N chunks drawn for each, H steps of the chunk, A action dims, D = H * A, O observation dims.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated, Literal

import torch
from pydantic import Field

from understudy.algorithm import RETURNS, Algorithm, Batch, Draws, LossAndMetrics, Targets
from understudy.observations import Observations
from understudy.registry import algorithms
from understudy.spec.learning import AlgorithmConfig, Chunks, Dense, Sampling, Vision
from understudy.spec.part import ActsOnly, Needs, OnlyWith
from understudy.trainables.networks.critic import Critic
from understudy.trainables.networks.mlp import MLP, VectorField
from understudy.trainables.networks.observation import ObservationEncoder


class FlowBCConfig(Chunks, Dense, Vision, AlgorithmConfig):
    """Settings of flow_bc."""

    flow_steps: Annotated[int, ActsOnly(needs="actor=flow|best_of_n")] = Field(
        default=10, ge=1, le=1000, description="Euler steps from noise to actions when acting"
    )
    use_fourier_features: bool = Field(
        default=False, description="64 Fourier features of the flow's time instead of the time"
    )
    actor: Literal["flow", "one_step", "best_of_n"] = Field(
        default="flow",
        description="what acts: the flow, a network distilled from it that needs one step, or the flow's sample that a"
        " critic of the demonstrations' returns values most",
    )
    alpha: Annotated[float, Needs("actor=one_step")] = Field(
        default=100.0, gt=0, description="weight of the distillation (actor=one_step)"
    )
    num_samples: Annotated[int, ActsOnly(), OnlyWith("actor", "best_of_n")] = Field(
        default=32, ge=1, description="chunks that are drawn to choose from (actor=best_of_n)"
    )

    @property
    def default_temperature(self) -> float:
        """Samples of one noise leave no choice."""
        return 1.0 if self.actor == "best_of_n" else 0.0

    @property
    def sampling(self) -> Sampling:
        """A critic learns from returns."""
        return replace(super().sampling, columns=(RETURNS,) if self.actor == "best_of_n" else ())


class FlowPolicy(VectorField):
    """The vector field and, as `actor` says, the network mu(o, z) that jumps to where it leads, or the critic."""

    def __init__(
        self, encoder: ObservationEncoder, size: int, config: FlowBCConfig, generator: torch.Generator
    ) -> None:
        super().__init__(encoder, size, config.hidden_dims, generator, fourier_features=config.use_fourier_features)
        inputs = encoder.features + size
        one_step = config.actor == "one_step"
        self.one_step = MLP(inputs, (*config.hidden_dims, size), generator) if one_step else None
        self.critic = Critic(inputs, config.hidden_dims, generator) if config.actor == "best_of_n" else None

    def jump(self, features_BF: torch.Tensor, noise_BD: torch.Tensor) -> torch.Tensor:
        """Return mu(o, z) [B, D]."""
        assert self.one_step is not None
        return self.one_step(torch.cat((features_BF, noise_BD), dim=-1))

    def values(self, features_BF: torch.Tensor, actions_BD: torch.Tensor) -> torch.Tensor:
        """Return the critics' Q(o, a) [B, E]; they learn from the encoder's features and the encoder not from them."""
        assert self.critic is not None
        return self.critic(torch.cat((features_BF.detach(), actions_BD), dim=-1))


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
    config: FlowBCConfig

    @property
    def size(self) -> int:
        """Numbers in a chunk, D = H * A."""
        return self.chunk_length * self.action_dim

    def network(self, generator: torch.Generator) -> FlowPolicy:
        """Build the vector field, and the one-step network where asked."""
        encoder = ObservationEncoder(self.observation_shape, self.config, generator)
        return FlowPolicy(encoder, self.size, self.config, generator)

    def draw(self, batch_size: int, generator: torch.Generator) -> Draws:
        """Draw noise x_0 ~ N(0, I) [B, D] and time t ~ U[0, 1) [B, 1]; for the distillation also noise z [B, D]."""
        device = generator.device
        drawn = {
            "noise": torch.randn(batch_size, self.size, generator=generator, device=device),
            "time": torch.rand(batch_size, 1, generator=generator, device=device),
        }
        if self.config.actor == "one_step":
            drawn["distilled_noise"] = torch.randn(batch_size, self.size, generator=generator, device=device)
        return drawn

    def loss(self, network: torch.nn.Module, target: Targets, batch: Batch, draws: Draws) -> LossAndMetrics:
        """Return mean((v(o, x_t, t) - (x_1 - x_0))^2 * valid); the mean divides by all entries, masked or not.

        A one-step actor adds alpha * mean((mu(o, z) - Euler(o, z))^2); the Euler result is a constant there, and the
        encoder learns from both (FQL, arXiv 2502.02538). A critic adds mean((Q(o, x_1) - return)^2) over the whole
        chunks, as Q-chunking leaves out those that their episode's end cuts short.
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
        metrics = {"bc_flow_loss": flow_loss}
        loss = flow_loss
        if self.config.actor == "one_step":
            with torch.no_grad():
                end_BD = network.integrate(features_BF, draws["distilled_noise"], self.config.flow_steps)
            metrics["distill_loss"] = (network.jump(features_BF, draws["distilled_noise"]) - end_BD).square().mean()
            loss = loss + self.config.alpha * metrics["distill_loss"]
        elif self.config.actor == "best_of_n":
            values_BE = network.values(features_BF, actions_BD)
            error_BE = (values_BE - batch[RETURNS].unsqueeze(-1)).square()
            metrics["critic_loss"] = (error_BE * batch["valid"][:, -1:]).mean()
            metrics["q_mean"] = values_BE.mean()
            loss = loss + metrics["critic_loss"]
        return loss, {"actor_loss": loss, **metrics}

    def noise_shape(self) -> tuple[int, ...]:
        """One decision starts from noise [H, A], a choice from [N, H, A]."""
        choices = (self.config.num_samples,) if self.config.actor == "best_of_n" else ()
        return (*choices, self.chunk_length, self.action_dim)

    def act(self, network: torch.nn.Module, observations_BO: Observations, noise: torch.Tensor) -> torch.Tensor:
        """Integrate the field from the noise with `flow_steps` Euler steps, or jump; clipped once, at the end.

        The best of n has the highest mean Q, of what is executed: clipped.
        """
        assert isinstance(network, FlowPolicy)
        features_BF = network.encoder(observations_BO)
        if self.config.actor == "one_step":
            actions_BD = network.jump(features_BF, noise.flatten(1))
        elif self.config.actor == "best_of_n":
            actions_BD = self._best(network, features_BF, noise.flatten(2))
        else:
            actions_BD = network.integrate(features_BF, noise.flatten(1), self.config.flow_steps)
        actions_BHA = actions_BD.unflatten(1, (self.chunk_length, self.action_dim))
        return self._clipped(actions_BHA)

    def _best(self, network: FlowPolicy, features_BF: torch.Tensor, noise_BND: torch.Tensor) -> torch.Tensor:
        """Return the chunk [B, D] of highest mean Q among those that start from each noise."""
        count = noise_BND.shape[1]
        repeated = features_BF.repeat_interleave(count, dim=0)
        ends = network.integrate(repeated, noise_BND.flatten(0, 1), self.config.flow_steps)
        values_BN = network.values(repeated, self._clipped(ends)).mean(dim=-1).unflatten(0, (-1, count))
        best_B11 = values_BN.argmax(dim=1)[:, None, None]
        return torch.take_along_dim(ends.unflatten(0, (-1, count)), best_B11, dim=1).squeeze(1)

    def _clipped(self, actions: torch.Tensor) -> torch.Tensor:
        return actions.clamp(-1.0, 1.0) if self.config.action_clip else actions
