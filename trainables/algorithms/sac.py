"""Soft actor-critic (Haarnoja et al. 2018, arXiv 1812.05905), with RLPD's options (Ball et al. 2023, arXiv 2302.02948).

An update is the critics' step, then one step of actor and temperature, each on gradients at the weights before it, as
in Stable-Baselines3 2.9. Actions are scaled to [-1, 1], time limits bootstrap.
Shape suffixes: B samples, E critics, A action dims, F features.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from pydantic import Field, model_validator
from torch import nn
from torch.nn import functional

from understudy.algorithm import Algorithm, Batch, Draws, LossAndMetrics, Phase, Targets
from understudy.observations import Observations
from understudy.registry import algorithms
from understudy.spec.learning import AlgorithmConfig, Sampling
from understudy.spec.part import LOG, Width
from understudy.spec.parts import Dense, Interaction, Vision
from understudy.trainables.networks.actor_critic import QEnsemble, SquashedGaussian
from understudy.trainables.networks.observation import ObservationEncoder


class SACConfig(Interaction, Dense, Vision, AlgorithmConfig):
    """Settings of sac."""

    hidden_dims: tuple[Width, ...] = Field(default=(256, 256), description="widths of actor and critics")
    critic_lr: float | None = Field(
        default=None, gt=0, lt=10, json_schema_extra=LOG, description="learning rate of the critics; none: lr"
    )
    temperature_lr: float | None = Field(
        default=None, gt=0, lt=10, json_schema_extra=LOG, description="learning rate of the temperature; none: lr"
    )
    tau: float = Field(
        default=0.005, gt=0, le=1, json_schema_extra=LOG, description="rate of the target critics' moving average"
    )
    num_critics: int = Field(default=2, ge=1, le=64, description="critics in the ensemble")
    num_subsample_critics: int | None = Field(
        default=None, ge=1, description="target critics whose least value counts, drawn for each sample; none: all"
    )
    actor_q: Literal["min", "mean"] = Field(
        default="min", description="which of the critics' values the actor raises: the least, or the mean (RLPD)"
    )
    critic_layer_norm: bool = Field(default=False, description="LayerNorm in the critics (RLPD)")
    backup_entropy: bool = Field(default=True, description="count the next action's entropy in the critics' target")
    init_temperature: float = Field(default=1.0, gt=0, description="temperature at the start")
    target_entropy: float | None = Field(
        default=None, description="entropy that the temperature keeps; none: minus the number of action dims"
    )
    log_std_min: float = Field(default=-20.0, description="least log standard deviation of the actor")
    log_std_max: float = Field(default=2.0, description="largest log standard deviation of the actor")

    @model_validator(mode="after")
    def _ranges(self) -> SACConfig:
        if self.log_std_min >= self.log_std_max:
            raise ValueError(f"log_std_min={self.log_std_min:g} must be below log_std_max={self.log_std_max:g}")
        if self.num_subsample_critics is not None and self.num_subsample_critics > self.num_critics:
            raise ValueError(
                f"num_subsample_critics={self.num_subsample_critics} exceeds num_critics={self.num_critics}"
            )
        return self

    @property
    def sampling(self) -> Sampling:
        """Transitions of one step."""
        return Sampling(transitions=True, executed=True)


class ActorCritic(nn.Module):
    """Encoder, actor, critics and the temperature's logarithm."""

    def __init__(
        self, encoder: ObservationEncoder, action_dim: int, config: SACConfig, generator: torch.Generator
    ) -> None:
        super().__init__()
        self.encoder = encoder
        log_stds = (config.log_std_min, config.log_std_max)
        self.actor = SquashedGaussian(encoder.features, config.hidden_dims, action_dim, log_stds, generator)
        inputs = encoder.features + action_dim
        norm = config.critic_layer_norm
        self.critic = QEnsemble(config.num_critics, inputs, config.hidden_dims, generator, layer_norm=norm)
        self.log_temperature = nn.Parameter(torch.tensor(math.log(config.init_temperature)))


@algorithms.register("sac")
class SAC(Algorithm):
    """Learn a stochastic policy and critics from what the policy does in its environment."""

    Config = SACConfig
    name = "sac"
    loop = "online"
    example = (
        "understudy train algo=sac env_name=Pendulum-v1 frames=20000 lr=1e-3 start_training=100 seeds=[0,1,2]"
        " eval_interval=5000 eval_episodes=50"
    )
    expected = (
        "Return -142.9 [-165.1, -120.7] over 3 seeds x 50 episodes; -147.5 [-170.7, -124.4] after 5,000 of the steps."
    )
    config: SACConfig

    @property
    def _encodes(self) -> bool:
        return self.config.encoder is not None

    @property
    def _frozen(self) -> bool:
        """Whether the encoder stays as it is, so that its gradient is spared."""
        return self._encodes and self.learning_rates.get("encoder") == 0.0

    @property
    def phases(self) -> tuple[Phase, ...]:
        """The critics' step, which trains the encoder too, then that of actor and temperature."""
        learnt = ("encoder", "critic") if self._encodes else ("critic",)
        return (
            Phase("critic", self.critic_loss, learnt),
            Phase("actor", self.loss, ("actor", "log_temperature")),
        )

    @property
    def targets(self) -> dict[str, float]:
        """Target critics, and their encoder."""
        return dict.fromkeys(("encoder", "critic") if self._encodes else ("critic",), self.config.tau)

    @property
    def learning_rates(self) -> dict[str, float]:
        """Rates of the parts that have their own."""
        own = {"critic": self.config.critic_lr, "log_temperature": self.config.temperature_lr}
        return {**super().learning_rates, **{part: rate for part, rate in own.items() if rate is not None}}

    @property
    def target_entropy(self) -> float:
        """What the temperature keeps the policy's entropy at, in nats."""
        return -float(self.action_dim) if self.config.target_entropy is None else self.config.target_entropy

    def network(self, generator: torch.Generator) -> ActorCritic:
        """Build encoder, actor and critics."""
        encoder = ObservationEncoder(self.observation_shape, self.config, generator)
        return ActorCritic(encoder, self.action_dim, self.config, generator)

    def draw(self, batch_size: int, generator: torch.Generator) -> Draws:
        """Draw the noise of the next actions and of the actor's [B, A], and which target critics count [B, E]."""
        device = generator.device
        drawn = {
            "next_noise": torch.randn(batch_size, self.action_dim, generator=generator, device=device),
            "noise": torch.randn(batch_size, self.action_dim, generator=generator, device=device),
        }
        if self.config.num_subsample_critics is not None:
            drawn["critics"] = torch.rand(batch_size, self.config.num_critics, generator=generator, device=device)
        return drawn

    def critic_loss(self, network: nn.Module, target: Targets, batch: Batch, draws: Draws) -> LossAndMetrics:
        """Return half the sum over critics of the mean of (Q(s, a) - y)^2.

        y = r + discount (min Q'(s', a') - temperature log pi(a'|s')); the discount is 0 where the episode terminated.
        """
        assert isinstance(network, ActorCritic)
        with torch.no_grad():
            following_BF = network.encoder(batch["next_observations"])
            actions_BA, log_prob_B = network.actor.sample(following_BF, draws["next_noise"])
            moves = self._encodes and not self._frozen
            slow_BF = target["encoder"](batch["next_observations"]) if moves else following_BF
            after_B = self._least(target["critic"](slow_BF, actions_BA), draws)
            if self.config.backup_entropy:
                after_B = after_B - network.log_temperature.exp() * log_prob_B
            wanted_B = batch["rewards"][:, 0] + batch["discounts"][:, 0] * after_B
        with torch.no_grad() if self._frozen else torch.enable_grad():
            features_BF = network.encoder(batch["observations"])
        values_EB = network.critic(features_BF, batch["actions"][:, 0])
        squares = functional.mse_loss(values_EB, wanted_B.expand_as(values_EB), reduction="sum")
        loss = squares * (0.5 / len(wanted_B))
        return loss, {"q_mean": values_EB.mean(), "q_target": wanted_B.mean()}

    def _least(self, values_EB: torch.Tensor, draws: Draws) -> torch.Tensor:
        """Return the least value [B] of all target critics, or of those that were drawn for each sample."""
        count = self.config.num_subsample_critics
        if count is None:
            return values_EB.amin(dim=0)
        chosen_BM = draws["critics"].topk(count, dim=1).indices
        return values_EB.t().gather(1, chosen_BM).amin(dim=1)

    def loss(self, network: nn.Module, target: Targets, batch: Batch, draws: Draws) -> LossAndMetrics:
        """Return the actor's loss, mean of temperature log pi(a|s) - Q(s, a), and the temperature's.

        The temperature's is log temperature times -(log pi + target entropy); neither's gradient reaches the other.
        """
        assert isinstance(network, ActorCritic)
        with torch.no_grad() if self._encodes else torch.enable_grad():
            features_BF = network.encoder(batch["observations"])
        actions_BA, log_prob_B = network.actor.sample(features_BF, draws["noise"])
        if self.config.actor_q == "min":
            value_B = network.critic.least(features_BF, actions_BA)
        else:
            value_B = network.critic(features_BF, actions_BA).mean(dim=0)
        temperature = network.log_temperature.exp().detach()
        policy_loss = (temperature * log_prob_B - value_B).mean()
        entropy = -log_prob_B.detach().mean()
        temperature_loss = network.log_temperature * (entropy - self.target_entropy)
        metrics = {
            "policy_loss": policy_loss,
            "temperature_loss": temperature_loss,
            "temperature": temperature,
            "entropy": entropy,
        }
        return policy_loss + temperature_loss, metrics

    def noise_shape(self) -> tuple[int, ...]:
        """One decision takes noise [1, A]."""
        return (1, self.action_dim)

    def act(self, network: nn.Module, observations_BO: Observations, noise: torch.Tensor) -> torch.Tensor:
        """Return tanh(mean + std noise) [B, 1, A]; without noise, the squashed mean."""
        assert isinstance(network, ActorCritic)
        mean, log_std = network.actor(network.encoder(observations_BO))
        return (mean + log_std.exp() * noise[:, 0]).tanh().unsqueeze(1)
