"""A small deterministic actor-critic (DDPG's losses): what the learning contract promises to methods with critics."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from understudy.algorithm import Algorithm, Batch, Draws, LossAndMetrics, Phase, Targets
from understudy.randomness import numpy_generator
from understudy.spec.learning import AlgorithmConfig, Sampling
from understudy.spec.parts import Dense
from understudy.trainables.networks.mlp import MLP

OBSERVATION, ACTION, SAMPLES = 4, 2, 8


class Config(Dense, AlgorithmConfig):
    """Settings of the actor-critic."""

    critic_lr: float = 1e-2
    tau: float = 0.25
    actor_every: int = 1

    @property
    def sampling(self) -> Sampling:
        """Transitions of one step."""
        return Sampling(transitions=True)


class Networks(nn.Module):
    """An actor, a critic, and a lone parameter that is a part too."""

    def __init__(self, config: Config, generator: torch.Generator) -> None:
        super().__init__()
        self.actor = MLP(OBSERVATION, (*config.hidden_dims, ACTION), generator)
        self.critic = MLP(OBSERVATION + ACTION, (*config.hidden_dims, 1), generator)
        self.log_scale = nn.Parameter(torch.zeros(()))


class ActorCritic(Algorithm):
    """Critic: (Q(s, a) - r - discount Q'(s', pi(s')))^2. Actor: -Q(s, pi(s)). The scale learns to be 2."""

    Config = Config
    name = "small_actor_critic"
    config: Config

    @property
    def phases(self) -> tuple[Phase, ...]:
        """The critic's step, the scale's, and, less often, the actor's."""
        return (
            Phase("critic", self.critic_loss, ("critic",)),
            Phase("scale", self.scale_loss, ("log_scale",)),
            Phase("actor", self.loss, ("actor",), every=self.config.actor_every),
        )

    @property
    def targets(self) -> dict[str, float]:
        """The critic's."""
        return {"critic": self.config.tau}

    @property
    def learning_rates(self) -> dict[str, float]:
        """The critic's own."""
        return {"critic": self.config.critic_lr}

    def network(self, generator: torch.Generator) -> Networks:
        """Build both networks."""
        return Networks(self.config, generator)

    def draw(self, batch_size: int, generator: torch.Generator) -> Draws:
        """Draw the noise of the next actions."""
        return {"noise": torch.randn(batch_size, ACTION, generator=generator, device=generator.device)}

    def critic_loss(self, network: nn.Module, target: Targets, batch: Batch, draws: Draws) -> LossAndMetrics:
        """Return the squared error of one step of bootstrapping."""
        assert isinstance(network, Networks)
        with torch.no_grad():
            following = network.actor(batch["next_observations"]) + 0.1 * draws["noise"]
            after = target["critic"](torch.cat((batch["next_observations"], following), -1)).squeeze(-1)
            wanted = batch["rewards"][:, 0] + batch["discounts"][:, 0] * after
        values = network.critic(torch.cat((batch["observations"], batch["actions"][:, 0]), -1)).squeeze(-1)
        return (values - wanted).square().mean(), {"q_mean": values.mean()}

    def scale_loss(self, network: nn.Module, target: Targets, batch: Batch, draws: Draws) -> LossAndMetrics:
        """Return the scale's squared distance from 2, and a metric that is a plain number."""
        assert isinstance(network, Networks)
        return (network.log_scale.exp() - 2.0).square(), {"wanted_scale": 2.0}  # type: ignore[dict-item]

    def loss(self, network: nn.Module, target: Targets, batch: Batch, draws: Draws) -> LossAndMetrics:
        """Return minus the value of the actor's actions."""
        assert isinstance(network, Networks)
        actions = network.actor(batch["observations"])
        return -network.critic(torch.cat((batch["observations"], actions), -1)).mean(), {}

    def noise_shape(self) -> tuple[int, ...]:
        """None is used."""
        return (1, ACTION)

    def act(self, network: nn.Module, observations_BO: Any, noise: torch.Tensor) -> torch.Tensor:
        """Return the actor's actions [B, 1, A]."""
        assert isinstance(network, Networks)
        return network.actor(observations_BO).unsqueeze(1)


def make(**settings: Any) -> ActorCritic:
    """Return a small one."""
    return ActorCritic((OBSERVATION,), ACTION, Config(**{"hidden_dims": (16,), "lr": 1e-3, **settings}))


def batch(step: int, members: int = 1) -> Batch:
    """Return transitions that are the same for every member."""
    random = numpy_generator(3, "transitions", step)
    arrays = {
        "observations": random.normal(size=(SAMPLES, OBSERVATION)),
        "next_observations": random.normal(size=(SAMPLES, OBSERVATION)),
        "actions": random.uniform(-1, 1, size=(SAMPLES, 1, ACTION)),
        "rewards": random.normal(size=(SAMPLES, 1)),
        "discounts": 0.9 * random.integers(0, 2, size=(SAMPLES, 1)),
        "valid": torch.ones(SAMPLES, 1).numpy(),
    }
    return {
        key: torch.as_tensor(value, dtype=torch.float32).expand(members, *value.shape) for key, value in arrays.items()
    }
