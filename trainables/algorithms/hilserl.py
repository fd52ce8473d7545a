"""HIL-SERL (Luo et al. 2024, arXiv 2410.21845): RLPD's soft actor-critic, corrected by a human while it acts.

What differs from sac are defaults, where batches come from (half of them demonstrations and corrections), and, with
gripper=discrete, a critic of its own for the gripper: double Q-learning (arXiv 1509.06461) over its three commands.
Shape suffixes: B samples, A action dims, C of them continuous, G commands of the gripper, F features.
"""

from __future__ import annotations

import torch
from pydantic import Field, model_validator
from torch import nn
from torch.nn import functional

from understudy.algorithm import Batch, Draws, LossAndMetrics, Phase, Targets
from understudy.errors import SpecError
from understudy.observations import Observations, ObservationShape
from understudy.registry import algorithms
from understudy.spec.in_the_loop import InTheLoop
from understudy.trainables.algorithms.sac import SAC, ActorCritic, SACConfig
from understudy.trainables.networks.actor_critic import dense
from understudy.trainables.networks.observation import ObservationEncoder

COMMANDS = (-1.0, 0.0, 1.0)
"""The gripper's, as the last number of an action that is scaled to [-1, 1]; which of the ends closes is the task's."""
PENALTIES = "penalties"
"""What a batch calls how often each action told the gripper what it had already done."""


class HILSERLConfig(InTheLoop, SACConfig):
    """Settings of hilserl."""

    grad_clip: float | None = Field(default=40.0, gt=0, description="largest gradient norm of one member")
    critic_layer_norm: bool = Field(default=True, description="LayerNorm in the critics (RLPD)")
    backup_entropy: bool = Field(default=False, description="count the next action's entropy in the critics' target")
    init_temperature: float = Field(default=0.01, gt=0, description="temperature at the start")
    target_entropy: float | None = Field(
        default=None, description="entropy that the temperature keeps; none: minus half the number of action dims"
    )
    freeze_vision_encoder: bool = Field(
        default=False, description="leave the picture encoder as it was loaded; the same as encoder_lr=0"
    )

    @model_validator(mode="after")
    def _one_rate_of_the_encoder(self) -> HILSERLConfig:
        if self.freeze_vision_encoder and self.encoder is None:
            raise ValueError("freeze_vision_encoder=true is for pictures, which need encoder=")
        if self.freeze_vision_encoder and self.encoder_lr:
            raise ValueError(f"freeze_vision_encoder=true and encoder_lr={self.encoder_lr:g}: give one")
        return self


class Grasp(nn.Module):
    """Values [B, G] of the gripper's commands."""

    def __init__(self, inputs: int, hidden_dims: tuple[int, ...], generator: torch.Generator) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for width in hidden_dims:
            layers += [dense(inputs, width, generator), nn.LayerNorm(width), nn.ReLU()]
            inputs = width
        self.layers = nn.Sequential(*layers, dense(inputs, len(COMMANDS), generator))

    def forward(self, features_BF: torch.Tensor) -> torch.Tensor:
        """Return the values."""
        return self.layers(features_BF)


class WithGrasp(ActorCritic):
    """Actor and critics of the continuous numbers, and the gripper's critic."""

    def __init__(
        self, encoder: ObservationEncoder, action_dim: int, config: HILSERLConfig, generator: torch.Generator
    ) -> None:
        super().__init__(encoder, action_dim - 1, config, generator)
        self.grasp = Grasp(encoder.features, config.hidden_dims, generator)


@algorithms.register("hilserl")
class HILSERL(SAC):
    """Learn from what the policy does, from demonstrations, and from those who correct it while it acts.

    `env_name` is the dataset of the demonstrations, which says the environment too; docs/online.md has corrections,
    rewards by a classifier, and actors in processes of their own.
    """

    Config = HILSERLConfig
    name = "hilserl"
    loop = "in_the_loop"
    default_encoder = "resnet10"
    example = (
        "understudy train algo=hilserl env_name=gym_hil/PandaPickCube-state-scripted-v0 frames=7500 takeover=scripted"
        " takeover_until=4000 discount=0.97 eval_interval=2500 eval_episodes=20 seeds=[0,1]"
    )
    expected = (
        "Success 0.88 [0.69, 0.96] over 2 seeds x 20 episodes, from 20 scripted demonstrations; 0.38 [0.13, 0.71] after"
        " 3,000 of the steps, 0.73 [0.54, 0.86] after 5,000. An oracle corrected 17 % of the first 1,000 steps, 8 % of"
        " the next, and none from the 4,000th on; episodes that nobody corrected began to succeed after 2,000."
    )
    config: HILSERLConfig

    def __init__(self, observation_shape: ObservationShape, action_dim: int, config: HILSERLConfig | None = None):
        super().__init__(observation_shape, action_dim, config)
        if self._grasps and action_dim < 2:
            raise SpecError("gripper=discrete: the gripper is an action's last number, and there is but one")

    @property
    def _grasps(self) -> bool:
        return self.config.gripper == "discrete"

    @property
    def phases(self) -> tuple[Phase, ...]:
        """Critics, the gripper's critic where there is one, then actor and temperature."""
        critic, actor = super().phases
        return (critic, Phase("grasp", self.grasp_loss, ("grasp",)), actor) if self._grasps else (critic, actor)

    @property
    def targets(self) -> dict[str, float]:
        """Target critics, and their encoder."""
        return {**super().targets, **({"grasp": self.config.tau} if self._grasps else {})}

    @property
    def learning_rates(self) -> dict[str, float]:
        """Rates of the parts that have their own."""
        rates = super().learning_rates
        if self._grasps and self.config.critic_lr is not None:
            rates["grasp"] = self.config.critic_lr
        return {**rates, **({"encoder": 0.0} if self.config.freeze_vision_encoder else {})}

    @property
    def continuous(self) -> int:
        """C, the numbers of an action that the actor gives."""
        return self.action_dim - 1 if self._grasps else self.action_dim

    @property
    def target_entropy(self) -> float:
        """What the temperature keeps the policy's entropy at, in nats."""
        return -self.continuous / 2 if self.config.target_entropy is None else self.config.target_entropy

    def network(self, generator: torch.Generator) -> ActorCritic:
        """Build encoder, actor and critics."""
        encoder = ObservationEncoder(self.observation_shape, self.config, generator)
        kind = WithGrasp if self._grasps else ActorCritic
        return kind(encoder, self.action_dim, self.config, generator)

    def draw(self, batch_size: int, generator: torch.Generator) -> Draws:
        """Draw what soft actor-critic draws, for the continuous numbers."""
        drawn = super().draw(batch_size, generator)
        return {name: value[:, : self.continuous] if "noise" in name else value for name, value in drawn.items()}

    def critic_loss(self, network: nn.Module, target: Targets, batch: Batch, draws: Draws) -> LossAndMetrics:
        """Return soft actor-critic's loss, of the continuous numbers of the actions."""
        if self._grasps:
            batch = {**batch, "actions": batch["actions"][..., :-1]}
        return super().critic_loss(network, target, batch, draws)

    def grasp_loss(self, network: nn.Module, target: Targets, batch: Batch, draws: Draws) -> LossAndMetrics:
        """Return the mean of (Q(s, g) - y)^2, y = r + penalty + discount Q'(s', argmax Q(s', .))."""
        assert isinstance(network, WithGrasp)
        with torch.no_grad():
            seen_BF, after_BF = network.encoder(batch["observations"]), network.encoder(batch["next_observations"])
            best_B1 = network.grasp(after_BF).argmax(-1, keepdim=True)
            moves = self._encodes and not self._frozen
            slow_BF = target["encoder"](batch["next_observations"]) if moves else after_BF
            after_B = target["grasp"](slow_BF).gather(1, best_B1)[:, 0]
            wanted_B = batch["rewards"][:, 0] + batch["discounts"][:, 0] * after_B
            if PENALTIES in batch:
                wanted_B = wanted_B + self.config.gripper_penalty * batch[PENALTIES]
        told_B1 = (batch["actions"][:, 0, -1:].round() + 1).long().clamp(0, len(COMMANDS) - 1)
        value_B = network.grasp(seen_BF).gather(1, told_B1)[:, 0]
        return functional.mse_loss(value_B, wanted_B), {"grasp_q_mean": value_B.mean()}

    def noise_shape(self) -> tuple[int, ...]:
        """One decision takes noise [1, C]."""
        return (1, self.continuous)

    def act(self, network: nn.Module, observations_BO: Observations, noise: torch.Tensor) -> torch.Tensor:
        """Return actions [B, 1, A]: of the actor, and of the gripper the command of the greatest value."""
        if not self._grasps:
            return super().act(network, observations_BO, noise)
        assert isinstance(network, WithGrasp)
        features_BF = network.encoder(observations_BO)
        mean, log_std = network.actor(features_BF)
        moves_BC = (mean + log_std.exp() * noise[:, 0]).tanh()
        commands_G = torch.tensor(COMMANDS, device=moves_BC.device)
        gripper_B1 = commands_G[network.grasp(features_BF).argmax(-1)].unsqueeze(-1)
        return torch.cat((moves_BC, gripper_B1), dim=-1).unsqueeze(1)
