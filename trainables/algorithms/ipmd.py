"""Inverse policy mirror descent (Wu, Ke and Wu 2023, arXiv 2305.14608): learn a reward from demonstrations, act for it.

Each update takes a step of soft actor-critic on the reward that is learned, and a step on the reward, which rates what
demonstrations do above what the policy does. The environment's own reward is not read, unless policy_reward=environment
asks for it to compare with. (Some scripts call the method "Inverse Preference-based Model Distillation".) Observations
are as the environment gives them, as in sac: statistics of the demonstrations do not describe what a learner sees.

An episode that terminates goes on in an absorbing state, whose reward is learned too (`absorbing_states`, Kostrikov et
al. 2019, arXiv 1809.02925). If that reward were zero, a policy whose learned rewards are negative would do best to end
its episodes at once. Where nothing terminates this changes nothing; time limits are no terminations.
Shape suffixes: B samples, D demonstrated samples, F features, A action dims.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Literal

import torch
from pydantic import Field
from torch import nn

from understudy.algorithm import EXPERT, Batch, Draws, LossAndMetrics, Phase, Targets
from understudy.registry import algorithms
from understudy.spec.learning import Sampling
from understudy.spec.part import LOG, Width
from understudy.trainables.algorithms.sac import SAC, ActorCritic, SACConfig
from understudy.trainables.networks.blank import blank
from understudy.trainables.networks.observation import ObservationEncoder


class IPMDConfig(SACConfig):
    """Settings of ipmd."""

    expert_batch_size: int | None = Field(
        default=None, ge=1, description="demonstrated samples an update; none: batch_size"
    )
    reward_of: Literal["transition", "action"] = Field(
        default="transition", description="what the learned reward rates: (s, a, s'), or (s, a)"
    )
    policy_reward: Literal["learned", "environment"] = Field(
        default="learned", description="what the policy earns: the learned reward, or the environment's, which is sac"
    )
    absorbing_states: bool = Field(
        default=True, description="learn what it is worth that an episode has terminated; false: nothing, as in sac"
    )
    reward_hidden_dims: tuple[Width, ...] = Field(default=(256, 256), description="widths of the reward network")
    reward_lr: float | None = Field(
        default=None, gt=0, lt=10, json_schema_extra=LOG, description="learning rate of the reward; none: lr"
    )
    reward_interval: int = Field(default=1, ge=1, description="updates from one step of the reward to the next")
    reward_output_penalty: float = Field(
        default=0.05, ge=0, description="weight of the mean squared reward, which keeps rewards bounded"
    )
    reward_parameter_penalty: float = Field(
        default=1e-4, ge=0, description="weight of half the squared parameters of the reward network"
    )
    reward_gradient_penalty: float = Field(
        default=0.5, ge=0, description="weight of (|gradient of r| - 1)^2 between demonstrated and own samples; 0: none"
    )

    @property
    def sampling(self) -> Sampling:
        """Transitions of one step, and those of demonstrations."""
        return Sampling(transitions=True, executed=True, demonstrations=self.expert_batch_size or self.batch_size)


class RewardNetwork(nn.Module):
    """r [B] of (s, a, s') or (s, a): dense layers, ELU between them, orthogonal weights, as the published code has.

    The absorbing state has one reward, that of staying in it, which begins at 0 and draws no random number.
    """

    def __init__(
        self, inputs: int, hidden_dims: Sequence[int], generator: torch.Generator, *, absorbing: bool = False
    ) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        widths = [inputs, *hidden_dims]
        for before, width in itertools.pairwise(widths):
            layers += [_orthogonal(before, width, math.sqrt(2.0), generator), nn.ELU()]
        self.layers = nn.Sequential(*layers, _orthogonal(widths[-1], 1, 1.0, generator))
        # The last layer's weights for a state whose hidden features are 1: a lone number would learn that much slower.
        self.absorbing = nn.Parameter(torch.zeros(widths[-1])) if absorbing else None

    def forward(self, inputs_BI: torch.Tensor) -> torch.Tensor:
        """Return the rewards."""
        return self.layers(inputs_BI).squeeze(-1)

    def of_absorbing(self) -> torch.Tensor:
        """Return the reward [] of a step in the absorbing state; 0 where it is not learned."""
        return torch.zeros(()) if self.absorbing is None else self.absorbing.sum()


class WithReward(ActorCritic):
    """Actor, critics, temperature and the reward that is learned."""

    def __init__(
        self, encoder: ObservationEncoder, action_dim: int, config: IPMDConfig, generator: torch.Generator
    ) -> None:
        super().__init__(encoder, action_dim, config, generator)
        states = 2 if config.reward_of == "transition" else 1
        inputs, widths = states * encoder.features + action_dim, config.reward_hidden_dims
        self.reward = RewardNetwork(inputs, widths, generator, absorbing=config.absorbing_states)


@algorithms.register("ipmd")
class IPMD(SAC):
    """Learn the reward that demonstrations earn more of than the policy, and the policy that earns most of it."""

    Config = IPMDConfig
    name = "ipmd"
    example = (
        "understudy train algo=ipmd env_name=expert:Pendulum-v1 frames=10000 lr=1e-3 start_training=100 seeds=[0,1,2]"
        " eval_interval=2500 eval_episodes=50"
    )
    expected = (
        "Return -143.5 [-166.1, -120.9] over 3 seeds x 50 episodes, from 50 episodes of an expert that earned -149.1 in"
        " them, where random actions earn about -1220; -144.8 [-168.1, -121.6] after 7,500 of the steps, -226.8"
        " [-370.6, -83.0] after 5,000. The gradient penalty holds it there as long as 100,000 steps, where without it"
        " the policy leaves again (docs/expert.md has the figures); a run of 5,000 steps is better without. Where"
        " episodes terminate absorbing states decide: on InvertedDoublePendulum-v5, of an expert that earns 9360, three"
        " seeds with `hidden_dims=[64,64] reward_hidden_dims=[64,64] batch_size=128 lr=1e-3` earned 7855 [5344, 10367]"
        " after 12,000 steps, 9359.4 [9358.4, 9360.5] with `reward_gradient_penalty=0`; one with"
        " `absorbing_states=false` earned 237 after 10,000."
    )
    config: IPMDConfig

    @property
    def phases(self) -> tuple[Phase, ...]:
        """Critics, actor and temperature, then the reward."""
        return (*super().phases, Phase("reward", self.reward_loss, ("reward",), every=self.config.reward_interval))

    @property
    def learning_rates(self) -> dict[str, float]:
        """Rates of the parts that have their own."""
        own = {} if self.config.reward_lr is None else {"reward": self.config.reward_lr}
        return {**super().learning_rates, **own}

    def network(self, generator: torch.Generator) -> WithReward:
        """Build encoder, actor, critics and reward."""
        encoder = ObservationEncoder(self.observation_shape, self.config, generator)
        return WithReward(encoder, self.action_dim, self.config, generator)

    def draw(self, batch_size: int, generator: torch.Generator) -> Draws:
        """Draw what soft actor-critic draws, and places between demonstrated and own samples [B, 1]."""
        drawn = super().draw(batch_size, generator)
        if self.config.reward_gradient_penalty:
            drawn["between"] = torch.rand(batch_size, 1, generator=generator, device=generator.device)
        return drawn

    def critic_loss(self, network: nn.Module, target: Targets, batch: Batch, draws: Draws) -> LossAndMetrics:
        """Return soft actor-critic's loss on the learned reward; the environment's is not looked at where it is.

        Rewards count from that of the absorbing state: with r - r_absorbing, and nothing after a termination, every
        value is that of r, and of r_absorbing / (1 - discount) after a termination, less r_absorbing / (1 - discount).
        """
        assert isinstance(network, WithReward)
        with torch.no_grad():
            learned_B, absorbing = network.reward(self._inputs(network, batch, "")), network.reward.of_absorbing()
        if self.config.policy_reward == "learned":
            batch = {**batch, "rewards": (learned_B - absorbing).unsqueeze(-1)}
        loss, metrics = super().critic_loss(network, target, batch, draws)
        if self.config.absorbing_states:
            metrics = {**metrics, "absorbing_reward": absorbing}
        return loss, {**metrics, "learned_reward": learned_B.mean()}

    def reward_loss(self, network: nn.Module, target: Targets, batch: Batch, draws: Draws) -> LossAndMetrics:
        """Return mean r of own samples minus mean r of demonstrated ones, and the penalties.

        Means, not sums: batches of unequal sizes give the same gradient. Each sample that terminated is followed by one
        step in the absorbing state, own or demonstrated. Metric `reward_gap` is the difference that the policy is to
        close, demonstrated minus own.
        """
        assert isinstance(network, WithReward)
        with torch.no_grad():
            own_BI, shown_DI = self._inputs(network, batch, ""), self._inputs(network, batch, EXPERT)
        own_B, shown_D, absorbing = network.reward(own_BI), network.reward(shown_DI), network.reward.of_absorbing()
        own_ends, shown_ends = self._terminations(batch, ""), self._terminations(batch, EXPERT)
        loss = _mean(own_B, absorbing, own_ends) - _mean(shown_D, absorbing, shown_ends)
        metrics = {"reward_gap": -loss}
        config = self.config
        if config.reward_output_penalty:
            own_square = _mean(own_B.square(), absorbing.square(), own_ends)
            square = own_square + _mean(shown_D.square(), absorbing.square(), shown_ends)
            loss = loss + config.reward_output_penalty * 0.5 * square
        if config.reward_parameter_penalty:
            squares = torch.stack([parameter.square().sum() for parameter in network.reward.parameters()])
            loss = loss + config.reward_parameter_penalty * 0.5 * squares.sum()
        if config.reward_gradient_penalty:
            penalty = self._gradient_penalty(network.reward, own_BI, shown_DI, draws["between"])
            metrics["gradient_penalty"] = penalty
            loss = loss + config.reward_gradient_penalty * penalty
        return loss, metrics

    def _terminations(self, batch: Batch, whose: str) -> torch.Tensor | None:
        """Return how many samples terminated [], not those that a time limit cut off; None: it does not matter."""
        return (batch[f"{whose}discounts"][:, 0] == 0).sum() if self.config.absorbing_states else None

    def _inputs(self, network: WithReward, batch: Batch, whose: str) -> torch.Tensor:
        """Return what the reward rates [B, I]: encoded states and actions of own (`""`) or demonstrated samples."""
        seen = [network.encoder(batch[f"{whose}observations"]), batch[f"{whose}actions"][:, 0]]
        if self.config.reward_of == "transition":
            seen.append(network.encoder(batch[f"{whose}next_observations"]))
        return torch.cat(seen, dim=-1)

    @staticmethod
    def _gradient_penalty(
        reward: nn.Module, own_BI: torch.Tensor, shown_DI: torch.Tensor, between_B1: torch.Tensor
    ) -> torch.Tensor:
        """Return the mean of (|dr/dx| - 1)^2 at points between pairs of samples (arXiv 1704.00028)."""
        count = min(len(own_BI), len(shown_DI))
        points = torch.lerp(own_BI[:count], shown_DI[:count], between_B1[:count])
        gradient = torch.func.grad(lambda inputs: reward(inputs).sum())(points)  # vmap takes it, not requires_grad_
        return (gradient.norm(dim=-1) - 1.0).square().mean()


def _mean(values_B: torch.Tensor, absorbing: torch.Tensor, ends: torch.Tensor | None) -> torch.Tensor:
    """Return the mean of samples' values and, for each of the `ends`, the absorbing state's."""
    if ends is None:
        return values_B.mean()
    return (values_B.sum() + ends * absorbing) / (len(values_B) + ends)


def _orthogonal(inputs: int, outputs: int, gain: float, generator: torch.Generator) -> nn.Linear:
    layer = blank(nn.Linear, inputs, outputs)
    nn.init.orthogonal_(layer.weight, gain, generator=generator)
    nn.init.zeros_(layer.bias)
    return layer
