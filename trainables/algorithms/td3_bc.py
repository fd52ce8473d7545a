"""TD3+BC: twin delayed critics learnt from the data, and a policy that raises them and stays close to the data.

As in Fujimoto and Gu 2021 (arXiv 2106.06860), on TD3 (arXiv 1802.09477): the policy's loss is
-alpha Q(s, pi(s)) / mean |Q| + (pi(s) - a)^2, taken at every second update; the critics' target is the least of two at
the target policy's action with clipped noise. Published runs scale states to mean 0 and deviation 1 (`normalize`) and
move both targets at every second update: here the critics' follow at each, by as much in two. mean |Q| is over the
batch: with `grad_accumulation` or several workers over each one's part of it.
The policy acts in [-1, 1]: data whose actions reach further need `normalize_actions=bounds`.
Shape suffixes: B samples, E critics, A action dims, F features.
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
from understudy.trainables.networks.observation import ObservationEncoder


class TD3BCConfig(Dense, Vision, Language, AlgorithmConfig):
    """Settings of td3_bc."""

    hidden_dims: tuple[Width, ...] = Field(default=(256, 256), min_length=1, description="widths of every network")
    alpha: Annotated[float, PerMember()] = Field(
        default=2.5, ge=0, json_schema_extra=LOG, description="how much the critic counts beside the data's actions"
    )
    tau: float = Field(
        default=0.005, gt=0, le=1, json_schema_extra=LOG, description="rate of the targets' moving averages"
    )
    policy_noise: float = Field(default=0.2, ge=0, description="deviation of the noise on the target policy's action")
    noise_clip: float = Field(default=0.5, ge=0, description="largest of that noise")
    policy_freq: int = Field(default=2, ge=1, le=1000, description="updates of the critics for each of the policy")
    num_critics: int = Field(default=2, ge=1, le=64, description="critics, the least of which counts in targets")
    critic_layer_norm: bool = Field(default=False, description="LayerNorm in the critics")

    @property
    def acts_at_random(self) -> bool:
        """The policy is deterministic."""
        return False

    @property
    def sampling(self) -> Sampling:
        """Transitions of one step."""
        return Sampling(transitions=True, executed=True)


class TD3BCNetwork(nn.Module):
    """Encoder, critics, and a policy whose output tanh squashes."""

    def __init__(
        self, encoder: ObservationEncoder, action_dim: int, config: TD3BCConfig, generator: torch.Generator
    ) -> None:
        super().__init__()
        self.encoder = encoder
        inputs, norm = encoder.features, config.critic_layer_norm
        self.critic = QEnsemble(config.num_critics, inputs + action_dim, config.hidden_dims, generator, layer_norm=norm)
        self.actor = relu_layers((inputs, *config.hidden_dims, action_dim), generator)


@algorithms.register("td3_bc")
class TD3BC(Algorithm):
    """Raise critics that were learnt from the data, and stay close to the data's actions."""

    Config = TD3BCConfig
    name = "td3_bc"
    example = (
        "understudy train algo=td3_bc env_name=minari:pendulum/scripted-v0 normalize_actions=bounds training_steps=2000"
        " lr=1e-3 hidden_dims=[64,64] seeds=[0,1] eval_episodes=20"
    )
    expected = (
        "Return -368.8 over 2 seeds x 20 episodes, on scripted demonstrations; the seeds differ so much that the"
        " interval [-2738, 2001] says nothing (iql with the same budget: -160.2 [-207.3, -113.0])."
    )
    config: TD3BCConfig

    @property
    def phases(self) -> tuple[Phase, ...]:
        """The critics' step, which trains the encoder too, and at every `policy_freq`-th update the policy's."""
        encodes = self.config.encoder is not None or self.config.language_encoder is not None
        learnt = ("encoder", "critic") if encodes else ("critic",)
        return (
            Phase("critic", self.critic_loss, learnt),
            Phase("actor", self.loss, ("actor",), every=self.config.policy_freq),
        )

    @property
    def targets(self) -> dict[str, float]:
        """Target policy and critics; the critics' follow at each update, by `tau` over those of one of the policy."""
        tau = self.config.tau
        return {"critic": 1 - (1 - tau) ** (1 / self.config.policy_freq), "actor": tau}

    def network(self, generator: torch.Generator) -> TD3BCNetwork:
        """Build encoder, critics and policy."""
        encoder = ObservationEncoder(self.observation_shape, self.config, generator)
        return TD3BCNetwork(encoder, self.action_dim, self.config, generator)

    def draw(self, batch_size: int, generator: torch.Generator) -> Draws:
        """Draw the noise of the target policy's actions [B, A]."""
        return {"next_noise": torch.randn(batch_size, self.action_dim, generator=generator, device=generator.device)}

    def critic_loss(self, network: nn.Module, target: Targets, batch: Batch, draws: Draws) -> LossAndMetrics:
        """Return the mean over samples, summed over critics, of (Q(s, a) - r - discount min Q'(s', a'))^2.

        a' = clip(pi'(s') + clip(policy_noise z, +-noise_clip), +-1).
        """
        assert isinstance(network, TD3BCNetwork)
        with torch.no_grad():
            following_BF = network.encoder(batch["next_observations"])
            noise_BA = (self.config.policy_noise * draws["next_noise"]).clamp(
                -self.config.noise_clip, self.config.noise_clip
            )
            actions_BA = (target["actor"](following_BF).tanh() + noise_BA).clamp(-1.0, 1.0)
            after_B = target["critic"](following_BF, actions_BA).amin(dim=0)
            wanted_B = batch["rewards"][:, 0] + batch["discounts"][:, 0] * after_B
        values_EB = network.critic(network.encoder(batch["observations"]), batch["actions"][:, 0])
        return (values_EB - wanted_B).square().mean(dim=1).sum(), {"q_mean": values_EB.mean()}

    def loss(self, network: nn.Module, target: Targets, batch: Batch, draws: Draws) -> LossAndMetrics:
        """Return -alpha mean Q_1(s, pi(s)) / mean |Q_1| + mean((pi(s) - a)^2). Metric: `mse`, a sum over dims."""
        assert isinstance(network, TD3BCNetwork)
        with torch.no_grad():
            features_BF = network.encoder(batch["observations"])
        actions_BA = network.actor(features_BF).tanh()
        value_B = network.critic(features_BF, actions_BA)[0]
        error_BA = (actions_BA - batch["actions"][:, 0]).square()
        scale = self.config.alpha / value_B.detach().abs().mean().clamp(min=1e-6)
        return error_BA.mean() - scale * value_B.mean(), {"mse": error_BA.sum(-1).mean(), "policy_q": value_B.mean()}

    def noise_shape(self) -> tuple[int, ...]:
        """Acting takes no noise."""
        return ()

    def act(self, network: nn.Module, observations_BO: Observations, noise: torch.Tensor) -> torch.Tensor:
        """Return pi(s) [B, 1, A]."""
        assert isinstance(network, TD3BCNetwork)
        return network.actor(network.encoder(observations_BO)).tanh().unsqueeze(1)
