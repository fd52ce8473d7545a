"""BC-Transformer: behaviour cloning by a causal transformer over the last observations.

As in robomimic 0.3 (Mandlekar et al. 2021, arXiv 2108.03298, and its transformer): a token for each of 10 observations
(`obs_horizon`), learned positions, GPT blocks with the norms before their parts, and at each step a mixture of
Gaussians (`policy=gmm`) or an action (`policy=mse`), squashed by tanh. With the same weights the network gives what
robomimic's gives, to 1e-6; queries and values have biases here, zero at first, and none there.
`preset=robomimic` sets the protocol of its template. Steps before an episode's start repeat its first observation, as
there, but are not learned from. Actions are in [-1, 1]: data whose actions reach further need
`normalize_actions=bounds`. Goals are not supported. Shape suffixes: B samples, T steps, F features, W width.
"""

from __future__ import annotations

import torch
from pydantic import Field
from torch import nn

from understudy.algorithm import Algorithm, Batch, Draws, LossAndMetrics, Targets
from understudy.observations import Observations
from understudy.registry import algorithms
from understudy.spec.part import LOG
from understudy.trainables.networks.gpt import GPT, GPTConfig, draw_gpt_masks, gpt_dropout
from understudy.trainables.networks.steps import StepPolicy, StepPolicyConfig


class BCTransformerConfig(StepPolicyConfig, GPTConfig):
    """Settings of bc_transformer."""

    lr: float = Field(default=1e-4, gt=0, lt=10, json_schema_extra=LOG, description="learning rate of AdamW")
    supervise_all_steps: bool = Field(default=True, description="learn the action of each step, not the newest alone")


@algorithms.register("bc_transformer")
class BCTransformer(Algorithm):
    """Fit a causal transformer to demonstrated actions: a mixture of Gaussians (policy=gmm), one, or squared error."""

    Config = BCTransformerConfig
    name = "bc_transformer"
    example = (
        "understudy train algo=bc_transformer env_name=cube-single-scripted-singletask-task1-v0 dim_model=64 n_heads=4"
        " n_layers=2 lr=1e-3 batch_size=64 training_steps=2000 eval_temperature=0,1 eval_episodes=50 eval_interval=0"
    )
    expected = (
        "Success 1.00 [0.93, 1.00] at temperature 0 and 0.92 [0.81, 0.97] at 1, the same policy of one seed on 50"
        " episodes, on 100 demonstrations of OGBench's oracle."
    )
    config: BCTransformerConfig

    def network(self, generator: torch.Generator) -> StepPolicy:
        """Build encoder, transformer and what says the actions."""
        config = self.config

        def body(features: int, generator: torch.Generator) -> GPT:
            return GPT(features, config, generator)

        return StepPolicy(self.observation_shape, self.action_dim, config, generator, body)

    def draw(self, batch_size: int, generator: torch.Generator) -> Draws:
        """Draw the masks of dropout."""
        return draw_gpt_masks(batch_size, self.config, generator)

    def loss(self, network: nn.Module, target: Targets, batch: Batch, draws: Draws) -> LossAndMetrics:
        """Return the mean over samples and steps of -log p, or of the squared error. Metric: `mse`, by action."""
        assert isinstance(network, StepPolicy)
        dropout = gpt_dropout(draws, self.config)
        return network.loss(batch, dropout, newest_alone=not self.config.supervise_all_steps)

    def noise_shape(self) -> tuple[int, ...]:
        """One decision draws a mode and a deviation; nothing for policy=mse."""
        return StepPolicy.noise_shape(self.config, self.action_dim)

    def act(self, network: nn.Module, observations_BO: Observations, noise: torch.Tensor) -> torch.Tensor:
        """Return the newest step's action [B, 1, A]: of the likeliest mode, and its mean, where the noise is zero."""
        assert isinstance(network, StepPolicy)
        return network.act(observations_BO, noise, self.config.eval_std)
