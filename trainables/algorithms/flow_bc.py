"""Flow-matching behaviour cloning: a vector field that carries noise to the demonstrated action chunk.

Loss and sampler are those of Q-chunking's actor (arXiv 2507.07969, itself from FQL, arXiv 2502.02538). With
`use_critic=true` it is Q-chunking: a critic of whole chunks learns beside it, from the data and then from what the
policy does in its environment, and the policy is the best of several samples by it (`actor=best_of_n`, the paper's QC)
or a one-step network that raises it (`actor=one_step`, QC-FQL). Without action chunking its critic learns from n-step
returns of single actions.
Shape suffixes: B samples, N chunks drawn for each, H steps of the chunk, A action dims, D = H * A, O observation dims,
E critics.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Annotated, Any, Literal

import torch
from pydantic import BeforeValidator, Field, model_validator

from understudy.algorithm import EXECUTED, RETURNS, Algorithm, Batch, Draws, LossAndMetrics, Phase, Targets
from understudy.observations import Observations
from understudy.registry import algorithms
from understudy.spec.learning import AlgorithmConfig, Sampling
from understudy.spec.part import LOG, ActsOnly, Needs, OnlyWith, PerMember, Width
from understudy.spec.parts import Chunks, Dense, FineTuning, Language, Vision
from understudy.trainables.networks.chunk_critic import Aggregate, ChunkCritic, aggregated
from understudy.trainables.networks.critic import Critic
from understudy.trainables.networks.mlp import MLP, VectorField
from understudy.trainables.networks.observation import ObservationEncoder

THEIR_ACTORS = {"distill-ddpg": "one_step", "best-of-n": "best_of_n"}
"""Q-chunking's own names for `actor`."""
WithCritic = OnlyWith("use_critic", True)


class FlowBCConfig(FineTuning, Chunks, Dense, Vision, Language, AlgorithmConfig):
    """Settings of flow_bc."""

    flow_steps: Annotated[int, ActsOnly(needs="actor=flow|best_of_n")] = Field(
        default=10, ge=1, le=1000, description="Euler steps from noise to actions when acting"
    )
    use_fourier_features: bool = Field(
        default=False, description="64 Fourier features of the flow's time instead of the time"
    )
    actor: Annotated[
        Literal["flow", "one_step", "best_of_n"], BeforeValidator(lambda name: THEIR_ACTORS.get(str(name), name))
    ] = Field(
        default="flow",
        description="what acts: the flow, a network distilled from it that needs one step (distill-ddpg; the default"
        " with use_critic), or the flow's sample that a critic values most (best-of-n): one of the demonstrations'"
        " returns, or that of use_critic",
    )
    alpha: Annotated[float, PerMember(), Needs("actor=one_step")] = Field(
        default=100.0, gt=0, description="weight of the distillation (actor=one_step)"
    )
    num_samples: Annotated[int, ActsOnly(), OnlyWith("actor", "best_of_n")] = Field(
        default=32, ge=1, description="chunks that are drawn to choose from (actor=best_of_n)"
    )
    tau: Annotated[float, WithCritic] = Field(
        default=0.005, gt=0, le=1, json_schema_extra=LOG, description="rate of the target critic's moving average"
    )
    num_critics: Annotated[int, WithCritic] = Field(default=2, ge=1, le=64, description="critics in the ensemble")
    q_agg: Annotated[Aggregate, WithCritic] = Field(
        default="mean", description="which of the critics' values counts in targets and choices: the mean or the least"
    )
    value_hidden_dims: Annotated[tuple[Width, ...] | None, WithCritic] = Field(
        default=None, description="widths of the critics' layers; none: those of hidden_dims"
    )
    critic_layer_norm: Annotated[bool, WithCritic] = Field(default=True, description="LayerNorm in the critics")

    learn_cut_chunks: Annotated[bool, WithCritic] = Field(
        default=False,
        description="the critic also learns from chunks that a termination cuts short, after which nothing counts"
        " (Q-chunking leaves them out: an episode's success is then in one chunk, that ends with it)",
    )

    @model_validator(mode="before")
    @classmethod
    def _critics_actor(cls, values: Any) -> Any:
        if isinstance(values, dict) and values.get("use_critic") in (True, "true") and "actor" not in values:
            return {**values, "actor": "one_step"}
        return values

    @model_validator(mode="after")
    def _critic_is_used(self) -> FlowBCConfig:
        if self.use_critic and self.actor == "flow":
            raise ValueError(
                "use_critic=true is for actor=one_step (distill-ddpg) or best_of_n: no critic moves a flow"
            )
        return self

    @classmethod
    def forked(cls, parent: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
        """A flow that gets a critic goes on acting: its samples are chosen by it."""
        begins = given.get("use_critic") in (True, "true") and not parent.get("use_critic")
        return {"actor": "best_of_n"} if begins and parent.get("actor", "flow") == "flow" else {}

    @property
    def default_temperature(self) -> float:
        """Samples of one noise leave no choice, and one that a critic moved is not to be without noise."""
        return 1.0 if self.actor == "best_of_n" or self.use_critic else 0.0

    @property
    def sampling(self) -> Sampling:
        """A critic learns from returns, or from transitions over the horizon, chunks or not."""
        if self.use_critic:
            return Sampling(horizon=self.horizon_length, transitions=True, executed_beside=True)
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
        of_returns = config.actor == "best_of_n" and not config.use_critic
        self.critic = Critic(inputs, config.hidden_dims, generator) if of_returns else None

    def jump(self, features_BF: torch.Tensor, noise_BD: torch.Tensor) -> torch.Tensor:
        """Return mu(o, z) [B, D]."""
        assert self.one_step is not None
        return self.one_step(torch.cat((features_BF, noise_BD), dim=-1))

    def values(self, features_BF: torch.Tensor, actions_BD: torch.Tensor) -> torch.Tensor:
        """Return the critics' Q(o, a) [B, E]; they learn from the encoder's features and the encoder not from them."""
        assert self.critic is not None
        return self.critic(torch.cat((features_BF.detach(), actions_BD), dim=-1))


class QChunkingPolicy(FlowPolicy):
    """The flow, its one-step network where that acts, and the critic of chunks."""

    def __init__(
        self,
        encoder: ObservationEncoder,
        critic_encoder: ObservationEncoder,
        size: int,
        config: FlowBCConfig,
        generator: torch.Generator,
    ) -> None:
        super().__init__(encoder, size, config, generator)
        widths = config.hidden_dims if config.value_hidden_dims is None else config.value_hidden_dims
        ensemble: dict[str, Any] = {"members": config.num_critics, "layer_norm": config.critic_layer_norm}
        self.chunk_critic = ChunkCritic(critic_encoder, size, widths, generator, **ensemble)


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

    @classmethod
    def loop_for(cls, config: AlgorithmConfig) -> str:
        """A critic's runs may go on in an environment."""
        return "fine_tuning" if isinstance(config, FineTuning) and config.use_critic else cls.loop

    @property
    def phases(self) -> tuple[Phase, ...]:
        """One step: Q-chunking's losses are one sum, all at the weights before it, and its target follows those."""
        if self.config.use_critic:
            return (Phase("total", self.total_loss, targets_first=True),)
        return super().phases

    @property
    def targets(self) -> dict[str, float]:
        """The target critic."""
        return {"chunk_critic": self.config.tau} if self.config.use_critic else {}

    def network(self, generator: torch.Generator) -> FlowPolicy:
        """Build the vector field, the one-step network where asked, and the critic."""
        encoder = ObservationEncoder(self.observation_shape, self.config, generator)
        if not self.config.use_critic:
            return FlowPolicy(encoder, self.size, self.config, generator)
        critic_encoder = ObservationEncoder(self.observation_shape, self.config, generator)
        return QChunkingPolicy(encoder, critic_encoder, self.size, self.config, generator)

    def draw(self, batch_size: int, generator: torch.Generator) -> Draws:
        """Draw noise x_0 ~ N(0, I) [B, D] and time t ~ U[0, 1) [B, 1]; for the distillation also noise z [B, D]."""
        device = generator.device
        drawn = {
            "noise": torch.randn(batch_size, self.size, generator=generator, device=device),
            "time": torch.rand(batch_size, 1, generator=generator, device=device),
        }
        if self.config.actor == "one_step":
            drawn["distilled_noise"] = torch.randn(batch_size, self.size, generator=generator, device=device)
        if self.config.use_critic:
            noise = (batch_size, *self.noise_shape())
            drawn["next_noise"] = torch.randn(noise, generator=generator, device=device)
        return drawn

    def total_loss(self, network: torch.nn.Module, target: Targets, batch: Batch, draws: Draws) -> LossAndMetrics:
        """Return the actor's and the critic's loss, summed."""
        actor_loss, metrics = self.loss(network, target, batch, draws)
        critic_loss, of_critic = self.critic_loss(network, target, batch, draws)
        return actor_loss + critic_loss, {**metrics, **of_critic}

    def critic_loss(self, network: torch.nn.Module, target: Targets, batch: Batch, draws: Draws) -> LossAndMetrics:
        """Return mean((Q(o, a) - y)^2 counts), over members and batch.

        What counts are chunks that lie in one episode and, with `learn_cut_chunks`, those that a termination cuts
        short: whatever their other actions are, they would not have been done. y = sum_j discount^j r_j
        + discount^H Q'(o_H, a'); nothing comes after a termination, a' is what the policy does at o_H, and Q' is the
        target ensemble's mean or least value.
        """
        assert isinstance(network, QChunkingPolicy)
        following = batch["next_observations"]
        with torch.no_grad():
            next_BHA = self.act(network, following, draws["next_noise"])
            after_B = aggregated(target["chunk_critic"](following, next_BHA.flatten(1)), self.config.q_agg)
            if self.config.horizon_length > 1:
                wanted_B = batch["n_step_rewards"] + batch["n_step_discounts"] * after_B
            else:
                wanted_B = batch["rewards"][:, 0] + batch["discounts"][:, 0] * after_B
        values_EB = network.chunk_critic(batch["observations"], self._chunk(batch, EXECUTED))
        counts_B = batch["valid"][:, -1]
        if self.config.learn_cut_chunks and self.config.horizon_length > 1:
            counts_B = torch.maximum(counts_B, (batch["n_step_discounts"] == 0).float())
        loss = ((values_EB - wanted_B).square() * counts_B).mean()
        extremes = {"q_max": values_EB.amax(), "q_min": values_EB.amin()}
        return loss, {"critic_loss": loss, "q_mean": values_EB.mean(), **extremes}

    def _chunk(self, batch: Batch, which: str = "actions") -> torch.Tensor:
        """Return the actions [B, D] of one decision, of batches that may go on after them.

        Those that were executed are the ones to imitate where a batch does not tell them apart.
        """
        return batch.get(which, batch["actions"])[:, : self.chunk_length].flatten(1)

    def loss(self, network: torch.nn.Module, target: Targets, batch: Batch, draws: Draws) -> LossAndMetrics:
        """Return mean((v(o, x_t, t) - (x_1 - x_0))^2 * valid); the mean divides by all entries, masked or not.

        A one-step actor adds alpha * mean((mu(o, z) - Euler(o, z))^2); the Euler result is clipped and a constant
        there, and the encoder learns from both (FQL, arXiv 2502.02538). With `use_critic` - Q of the clipped mu, the
        members' mean, is added. A critic of returns adds mean((Q(o, x_1) - return)^2) over the whole
        chunks, as Q-chunking leaves out those that their episode's end cuts short.
        """
        assert isinstance(network, FlowPolicy)
        actions_BD = self._chunk(batch)
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
                end_BD = self._clipped(network.integrate(features_BF, draws["distilled_noise"], self.config.flow_steps))
            jump_BD = network.jump(features_BF, draws["distilled_noise"])
            metrics["distill_loss"] = (jump_BD - end_BD).square().mean()
            loss = loss + self.config.alpha * metrics["distill_loss"]
            if isinstance(network, QChunkingPolicy):
                loss = loss - network.chunk_critic.judged(batch["observations"], self._clipped(jump_BD)).mean()
        elif self.config.actor == "best_of_n" and not self.config.use_critic:
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

        The best of n has the highest Q, of what is executed: clipped.
        """
        assert isinstance(network, FlowPolicy)
        features_BF = network.encoder(observations_BO)
        if self.config.actor == "one_step":
            actions_BD = network.jump(features_BF, noise.flatten(1))
        elif self.config.actor == "best_of_n":
            actions_BD = self._best(network, observations_BO, features_BF, noise.flatten(2))
        else:
            actions_BD = network.integrate(features_BF, noise.flatten(1), self.config.flow_steps)
        actions_BHA = actions_BD.unflatten(1, (self.chunk_length, self.action_dim))
        return self._clipped(actions_BHA)

    def _best(
        self, network: FlowPolicy, observations_BO: Observations, features_BF: torch.Tensor, noise_BND: torch.Tensor
    ) -> torch.Tensor:
        """Return the chunk [B, D] of highest Q among those that start from each noise."""
        count = noise_BND.shape[1]
        repeated = features_BF.repeat_interleave(count, dim=0)
        ends = network.integrate(repeated, noise_BND.flatten(0, 1), self.config.flow_steps)
        if isinstance(network, QChunkingPolicy):
            critic = network.chunk_critic
            judged = critic.encoder(observations_BO).repeat_interleave(count, dim=0)
            values = aggregated(critic.of_features(judged, self._clipped(ends)), self.config.q_agg)
        else:
            values = network.values(repeated, self._clipped(ends)).mean(dim=-1)
        values_BN = values.unflatten(0, (-1, count))
        best_B11 = values_BN.argmax(dim=1)[:, None, None]
        return torch.take_along_dim(ends.unflatten(0, (-1, count)), best_B11, dim=1).squeeze(1)

    def _clipped(self, actions: torch.Tensor) -> torch.Tensor:
        return actions.clamp(-1.0, 1.0) if self.config.action_clip else actions
