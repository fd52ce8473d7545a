"""BC-RNN: behaviour cloning by a recurrent network over the last observations.

As in robomimic's study (Mandlekar et al. 2021, arXiv 2108.03298): an LSTM of 2 layers over windows of 10 steps
(`obs_horizon`), each step's action learned; BC-RNN-GMM with `policy=gmm`, BC-RNN with `policy=mse`, means squashed by
tanh. With the same weights the network gives what robomimic's gives, to 1e-6, and `preset=robomimic` sets the published
protocol. Two things differ. The network starts from zeros at the oldest observation shown, at every step; robomimic
carries the LSTM's state along and sets it to zeros every 10 steps, so that there the first decision after that sees
one observation and the last one ten. And windows lie before each step: before an episode's start its first observation
is repeated and nothing is learned; robomimic's windows begin at each step and repeat the last action past the end.
Actions are in [-1, 1]: data whose actions reach further need `normalize_actions=bounds`. Goals are not supported.
"""

from __future__ import annotations

import torch
from pydantic import Field
from torch import nn

from understudy.algorithm import Algorithm, Batch, Draws, LossAndMetrics, Targets
from understudy.observations import Observations
from understudy.registry import algorithms
from understudy.spec.part import Width
from understudy.trainables.networks.recurrent import LSTM
from understudy.trainables.networks.steps import StepPolicy, StepPolicyConfig


class BCRNNConfig(StepPolicyConfig):
    """Settings of bc_rnn."""

    rnn_hidden_dim: Width = Field(default=400, description="width of the LSTM (robomimic's: 400, of pictures 1000)")
    rnn_num_layers: int = Field(default=2, ge=1, le=64, description="its layers")


@algorithms.register("bc_rnn")
class BCRNN(Algorithm):
    """Fit a recurrent policy to demonstrated actions: a mixture of Gaussians (policy=gmm), one, or squared error."""

    Config = BCRNNConfig
    name = "bc_rnn"
    example = (
        "understudy train algo=bc_rnn env_name=cube-single-scripted-singletask-task1-v0 rnn_hidden_dim=128 lr=1e-3"
        " batch_size=64 training_steps=2000 eval_temperature=0,1 eval_episodes=50 eval_interval=0"
    )
    expected = (
        "Success 1.00 [0.93, 1.00] at temperature 0 and 0.86 [0.74, 0.93] at 1, the same policy of one seed on 50"
        " episodes, on 100 demonstrations of OGBench's oracle."
    )
    config: BCRNNConfig

    def network(self, generator: torch.Generator) -> StepPolicy:
        """Build encoder, LSTM and what says the actions."""
        config = self.config

        def body(features: int, generator: torch.Generator) -> LSTM:
            return LSTM(features, config.rnn_hidden_dim, config.rnn_num_layers, generator)

        return StepPolicy(self.observation_shape, self.action_dim, config, generator, body)

    def draw(self, batch_size: int, generator: torch.Generator) -> Draws:
        """Draw nothing."""
        return {}

    def loss(self, network: nn.Module, target: Targets, batch: Batch, draws: Draws) -> LossAndMetrics:
        """Return the mean over samples and steps of -log p, or of the squared error. Metric: `mse`, by action."""
        assert isinstance(network, StepPolicy)
        return network.loss(batch)

    def noise_shape(self) -> tuple[int, ...]:
        """One decision draws a mode and a deviation; nothing for policy=mse."""
        return StepPolicy.noise_shape(self.config, self.action_dim)

    def act(self, network: nn.Module, observations_BO: Observations, noise: torch.Tensor) -> torch.Tensor:
        """Return the newest step's action [B, 1, A]: of the likeliest mode, and its mean, where the noise is zero."""
        assert isinstance(network, StepPolicy)
        return network.act(observations_BO, noise, self.config.eval_std)
