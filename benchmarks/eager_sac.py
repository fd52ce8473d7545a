"""Soft actor-critic in one plain eager script, as CleanRL publishes it: what the online loop's speed is compared with.

Written from the published algorithm: two Q networks as modules of their own, three Adams, a numpy ring as the buffer,
the actor's step at every second update and then twice. Shape suffixes: B samples, A action dims.
"""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
import torch
from torch import nn
from torch.nn import functional

LOG_STD_MIN, LOG_STD_MAX = -5.0, 2.0


class QNetwork(nn.Module):
    """Q(s, a)."""

    def __init__(self, observation_dim: int, action_dim: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(observation_dim + action_dim, 256)
        self.fc2 = nn.Linear(256, 256)
        self.fc3 = nn.Linear(256, 1)

    def forward(self, x: torch.Tensor, action: torch.Tensor) -> torch.Tensor:
        """Return [B, 1]."""
        x = torch.cat([x, action], 1)
        return self.fc3(functional.relu(self.fc2(functional.relu(self.fc1(x)))))


class Actor(nn.Module):
    """A squashed Gaussian, its log std from tanh."""

    def __init__(self, observation_dim: int, low: np.ndarray, high: np.ndarray) -> None:
        super().__init__()
        self.fc1 = nn.Linear(observation_dim, 256)
        self.fc2 = nn.Linear(256, 256)
        self.mean = nn.Linear(256, len(low))
        self.log_std = nn.Linear(256, len(low))
        self.scale, self.bias = torch.as_tensor((high - low) / 2), torch.as_tensor((high + low) / 2)

    def sample(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return actions [B, A] and their log density [B, 1]."""
        x = functional.relu(self.fc2(functional.relu(self.fc1(x))))
        log_std = LOG_STD_MIN + 0.5 * (LOG_STD_MAX - LOG_STD_MIN) * (torch.tanh(self.log_std(x)) + 1)
        normal = torch.distributions.Normal(self.mean(x), log_std.exp())
        before = normal.rsample()
        squashed = torch.tanh(before)
        density = normal.log_prob(before) - torch.log(self.scale * (1 - squashed.pow(2)) + 1e-6)
        return squashed * self.scale + self.bias, density.sum(1, keepdim=True)


class Ring:
    """A buffer of the newest transitions in numpy arrays, as Stable-Baselines3's, which CleanRL uses."""

    def __init__(self, size: int, observation_dim: int, action_dim: int) -> None:
        self.arrays = {
            "observations": np.zeros((size, observation_dim), np.float32),
            "following": np.zeros((size, observation_dim), np.float32),
            "actions": np.zeros((size, action_dim), np.float32),
            "rewards": np.zeros((size, 1), np.float32),
            "dones": np.zeros((size, 1), np.float32),
        }
        self.size, self.count = size, 0

    def add(self, **row: Any) -> None:
        """Add a transition."""
        for name, value in row.items():
            self.arrays[name][self.count % self.size] = value
        self.count += 1

    def sample(self, batch: int) -> dict[str, torch.Tensor]:
        """Return a uniform batch."""
        rows = np.random.randint(0, min(self.count, self.size), batch)
        return {name: torch.as_tensor(array[rows]) for name, array in self.arrays.items()}


class EagerSAC:
    """One seed in one environment."""

    def __init__(self, env_name: str, seed: int, *, random_steps: int = 1000, gamma: float = 0.99) -> None:
        np.random.seed(seed)
        torch.manual_seed(seed)
        self.env, self.gamma = gymnasium.make(env_name), gamma
        space = self.env.action_space
        assert isinstance(space, gymnasium.spaces.Box)
        space.seed(seed)
        sizes = int(np.prod(self.env.observation_space.shape or ())), int(np.prod(space.shape))
        self.actor = Actor(sizes[0], space.low, space.high)
        self.qs, self.targets = [QNetwork(*sizes) for _ in range(2)], [QNetwork(*sizes) for _ in range(2)]
        for q, target in zip(self.qs, self.targets, strict=True):
            target.load_state_dict(q.state_dict())
        self.q_adam = torch.optim.Adam([parameter for q in self.qs for parameter in q.parameters()], lr=1e-3)
        self.actor_adam = torch.optim.Adam(self.actor.parameters(), lr=3e-4)
        self.target_entropy = -float(sizes[1])
        self.log_alpha = torch.zeros(1, requires_grad=True)
        self.alpha = 1.0
        self.alpha_adam = torch.optim.Adam([self.log_alpha], lr=1e-3)
        self.ring, self.random_steps, self.taken = Ring(1_000_000, *sizes), random_steps, 0
        self.seen, _ = self.env.reset(seed=seed)

    def steps(self, count: int) -> None:
        """Take steps of the environment, each with an update after the random ones."""
        for _ in range(count):
            self.taken += 1
            exploring = self.taken <= self.random_steps
            if exploring:
                action = self.env.action_space.sample()
            else:
                sampled, _ = self.actor.sample(torch.as_tensor(self.seen, dtype=torch.float32)[None])
                action = sampled.detach().numpy()[0]
            following, reward, terminated, truncated, _ = self.env.step(action)
            self.ring.add(
                observations=self.seen, following=following, actions=action, rewards=reward, dones=float(terminated)
            )
            self.seen = self.env.reset()[0] if terminated or truncated else following
            if not exploring:
                self._update()

    def _update(self) -> None:
        data = self.ring.sample(256)
        with torch.no_grad():
            actions, log_prob = self.actor.sample(data["following"])
            least = torch.min(*(target(data["following"], actions) for target in self.targets)) - self.alpha * log_prob
            wanted = data["rewards"].flatten() + (1 - data["dones"].flatten()) * self.gamma * least.view(-1)
        values = [q(data["observations"], data["actions"]).view(-1) for q in self.qs]
        loss = functional.mse_loss(values[0], wanted) + functional.mse_loss(values[1], wanted)
        self.q_adam.zero_grad()
        loss.backward()
        self.q_adam.step()
        if self.taken % 2 == 0:
            for _ in range(2):
                self._improve(data["observations"])
        for q, target in zip(self.qs, self.targets, strict=True):
            for mine, slow in zip(q.parameters(), target.parameters(), strict=True):
                slow.data.copy_(0.005 * mine.data + 0.995 * slow.data)

    def _improve(self, observations: torch.Tensor) -> None:
        actions, log_prob = self.actor.sample(observations)
        least = torch.min(*(q(observations, actions) for q in self.qs))
        loss = (self.alpha * log_prob - least).mean()
        self.actor_adam.zero_grad()
        loss.backward()
        self.actor_adam.step()
        with torch.no_grad():
            _, log_prob = self.actor.sample(observations)
        alpha_loss = (-self.log_alpha.exp() * (log_prob + self.target_entropy)).mean()
        self.alpha_adam.zero_grad()
        alpha_loss.backward()
        self.alpha_adam.step()
        self.alpha = self.log_alpha.exp().item()
