"""Implicit Q-learning: a critic of the demonstrated actions alone, and behaviour cloning weighted by what it says.

As in Kostrikov et al. 2022 (arXiv 2110.06169): the value is an upper expectile of the critics' over the actions in the
data, the critics bootstrap from it and never ask for another action, and the policy imitates the data's actions by
exp(beta (Q - V)), at most 100. Rewards come from the data; time limits bootstrap. The policy acts in [-1, 1]: data
whose actions reach further need `normalize_actions=bounds`. Shape suffixes: B samples, E critics, A action dims, F
features.
"""

from __future__ import annotations

from typing import Annotated

import torch
from pydantic import Field
from torch import nn

from understudy.algorithm import Algorithm, Batch, Draws, LossAndMetrics, Phase, Targets
from understudy.observations import Observations
from understudy.registry import algorithms
from understudy.spec.learning import AlgorithmConfig, Sampling
from understudy.spec.part import LOG, PerMember, Width
from understudy.spec.parts import Dense, Language, Vision
from understudy.trainables.networks.actor_critic import QEnsemble, relu_layers
from understudy.trainables.networks.likelihoods import log_probability
from understudy.trainables.networks.observation import ObservationEncoder

LOG_STD_RANGE = (-5.0, 2.0)
MOST = 100.0
"""The largest weight of a sample in the policy's loss."""


class IQLConfig(Dense, Vision, Language, AlgorithmConfig):
    """Settings of iql."""

    hidden_dims: tuple[Width, ...] = Field(default=(256, 256), min_length=1, description="widths of every network")
    expectile: Annotated[float, PerMember()] = Field(
        default=0.7, gt=0, lt=1, description="expectile of the critics' values that the value is: 0.5 is their mean"
    )
    beta: Annotated[float, PerMember()] = Field(
        default=3.0, ge=0, json_schema_extra=LOG, description="how much advantages count in the policy; 0 clones all"
    )
    tau: float = Field(
        default=0.005, gt=0, le=1, json_schema_extra=LOG, description="rate of the target critics' moving average"
    )
    num_critics: int = Field(default=2, ge=1, le=64, description="critics, the least of which counts")
    critic_layer_norm: bool = Field(default=False, description="LayerNorm in the critics")

    @property
    def sampling(self) -> Sampling:
        """Transitions of one step."""
        return Sampling(transitions=True, executed=True)


class IQLNetwork(nn.Module):
    """Encoder, critics, value, and a Gaussian policy with a mean in (-1, 1) and one deviation for each action dim."""

    def __init__(
        self, encoder: ObservationEncoder, action_dim: int, config: IQLConfig, generator: torch.Generator
    ) -> None:
        super().__init__()
        self.encoder = encoder
        inputs, norm = encoder.features, config.critic_layer_norm
        self.critic = QEnsemble(config.num_critics, inputs + action_dim, config.hidden_dims, generator, layer_norm=norm)
        self.value = relu_layers((inputs, *config.hidden_dims, 1), generator)
        self.actor = relu_layers((inputs, *config.hidden_dims, action_dim), generator)
        self.log_std = nn.Parameter(torch.zeros(action_dim))


@algorithms.register("iql")
class IQL(Algorithm):
    """Imitate the data's actions by how much better than the rest the critics find them, which ask for no others."""

    Config = IQLConfig
    name = "iql"
    example = (
        "understudy train algo=iql env_name=minari:pendulum/scripted-v0 normalize_actions=bounds training_steps=2000"
        " lr=1e-3 hidden_dims=[64,64] seeds=[0,1] eval_episodes=20"
    )
    expected = "Return -160.2 [-207.3, -113.0] over 2 seeds x 20 episodes, on scripted demonstrations."
    config: IQLConfig

    @property
    def phases(self) -> tuple[Phase, ...]:
        """The value's step, the policy's, then the critics', which trains the encoder; each sees those before it."""
        encodes = self.config.encoder is not None or self.config.language_encoder is not None
        learnt = ("encoder", "critic") if encodes else ("critic",)
        return (
            Phase("value", self.value_loss, ("value",)),
            Phase("actor", self.loss, ("actor", "log_std")),
            Phase("critic", self.critic_loss, learnt),
        )

    @property
    def targets(self) -> dict[str, float]:
        """Target critics."""
        return {"critic": self.config.tau}

    def network(self, generator: torch.Generator) -> IQLNetwork:
        """Build encoder, critics, value and policy."""
        encoder = ObservationEncoder(self.observation_shape, self.config, generator)
        return IQLNetwork(encoder, self.action_dim, self.config, generator)

    def draw(self, batch_size: int, generator: torch.Generator) -> Draws:
        """Draw nothing: every action that is asked about is in the data."""
        return {}

    def _judged(
        self, network: nn.Module, target: Targets, batch: Batch
    ) -> tuple[IQLNetwork, torch.Tensor, torch.Tensor]:
        """Return the network, features [B, F] and the least target value [B] of the data's actions, all constant."""
        assert isinstance(network, IQLNetwork)
        with torch.no_grad():
            features_BF = network.encoder(batch["observations"])
            values_B = target["critic"](features_BF, batch["actions"][:, 0]).amin(dim=0)
        return network, features_BF, values_B

    def value_loss(self, network: nn.Module, target: Targets, batch: Batch, draws: Draws) -> LossAndMetrics:
        """Return mean(|expectile - 1(u < 0)| u^2), u = min Q'(s, a) - V(s)."""
        network, features_BF, judged_B = self._judged(network, target, batch)
        value_B = network.value(features_BF).squeeze(-1)
        above_B = judged_B - value_B
        weight_B = torch.where(above_B > 0, self.config.expectile, 1 - self.config.expectile)
        return (weight_B * above_B.square()).mean(), {"v_mean": value_B.mean()}

    def loss(self, network: nn.Module, target: Targets, batch: Batch, draws: Draws) -> LossAndMetrics:
        """Return the mean of -min(exp(beta (min Q' - V)), 100) log pi(a|s). Metric: `mse` summed over action dims."""
        network, features_BF, judged_B = self._judged(network, target, batch)
        with torch.no_grad():
            advantage_B = judged_B - network.value(features_BF).squeeze(-1)
            weight_B = (self.config.beta * advantage_B).exp().clamp(max=MOST)
        actions_BA, mean_BA = batch["actions"][:, 0], network.actor(features_BF).tanh()
        log_std_BA = network.log_std.clamp(*LOG_STD_RANGE).expand_as(mean_BA)
        log_prob_B = log_probability(actions_BA, mean_BA, log_std_BA)
        mse = (mean_BA - actions_BA).square().sum(-1).mean()
        return -(weight_B * log_prob_B).mean(), {"mse": mse, "advantage": advantage_B.mean(), "weight": weight_B.mean()}

    def critic_loss(self, network: nn.Module, target: Targets, batch: Batch, draws: Draws) -> LossAndMetrics:
        """Return the mean over samples, summed over critics, of (Q(s, a) - r - discount V(s'))^2."""
        assert isinstance(network, IQLNetwork)
        with torch.no_grad():
            after_B = network.value(network.encoder(batch["next_observations"])).squeeze(-1)
            wanted_B = batch["rewards"][:, 0] + batch["discounts"][:, 0] * after_B
        values_EB = network.critic(network.encoder(batch["observations"]), batch["actions"][:, 0])
        return (values_EB - wanted_B).square().mean(dim=1).sum(), {"q_mean": values_EB.mean()}

    def noise_shape(self) -> tuple[int, ...]:
        """One decision takes noise [1, A]."""
        return (1, self.action_dim)

    def act(self, network: nn.Module, observations_BO: Observations, noise: torch.Tensor) -> torch.Tensor:
        """Return tanh(mean) + std noise [B, 1, A], clipped to +-1."""
        assert isinstance(network, IQLNetwork)
        mean_BA = network.actor(network.encoder(observations_BO)).tanh()
        return (mean_BA + network.log_std.clamp(*LOG_STD_RANGE).exp() * noise[:, 0]).clamp(-1.0, 1.0).unsqueeze(1)
