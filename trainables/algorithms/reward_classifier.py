"""Tell success from pictures: the classifier whose probability is the reward of HIL-SERL (arXiv 2410.21845).

One branch a camera: its map summed with learned embeddings, a dense layer, LayerNorm, tanh; then a head with dropout
and one logit. It differs from the published code in two things that were not meant there: pooling and branches are
trained, not the head alone, and pictures are scaled when it is used as they were in training. Random crops are the
run's `augmentation=drq`. Shape suffixes: B samples, F features; a map is [c, h, w], of n frames.
"""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
import torch
from pydantic import Field, model_validator
from torch import nn
from torch.nn import functional

from understudy.algorithm import Algorithm, Batch, Draws, LossAndMetrics, Targets
from understudy.errors import UserError
from understudy.loading import load_policy
from understudy.observations import Arrays, Observations, ObservationShape, parts_of
from understudy.policy import Policy
from understudy.registry import algorithms
from understudy.spec.learning import AlgorithmConfig, Sampling
from understudy.spec.part import LOG, Part, PerMember
from understudy.spec.parts import Chunks, Vision
from understudy.trainables.networks.mlp import draw_dropout, linear
from understudy.trainables.networks.observation import ObservationEncoder
from understudy.trainables.networks.pooling import POOLINGS


class FormerKeys(Chunks):
    """What runs of earlier versions say of actions and dense layers, which a classifier has none of."""

    hidden_dims: tuple[()] = ()

    @model_validator(mode="after")
    def _no_chunks(self) -> FormerKeys:
        if self.action_chunking:
            raise ValueError("action_chunking=true: a classifier predicts no actions")
        return self


class RewardClassifierConfig(Vision, AlgorithmConfig):
    """Settings of reward_classifier."""

    former: ClassVar[type[Part]] = FormerKeys

    lr: float = Field(default=1e-4, gt=0, lt=10, json_schema_extra=LOG, description="learning rate of Adam")
    latent_dim: int = Field(default=256, ge=1, le=16_384, description="features of each camera")
    hidden_dim: int = Field(default=256, ge=1, description="width of the layer over all cameras")
    dropout: Annotated[float, PerMember()] = Field(default=0.1, ge=0, lt=1, description="dropout in that layer")
    reward_threshold: float = Field(
        default=0.0, description="recorded rewards above this mean success; -0.5 where they are -1 and 0"
    )
    frame: Literal["after", "before"] = Field(
        default="after",
        description="the picture that shows a reward: the one after the action that earned it, which is what the"
        " classifier is asked about, or the one before, which LeRobot trains on",
    )
    success_threshold: float = Field(default=0.5, gt=0, lt=1, description="probability above which it says success")
    success_reward: float = Field(default=1.0, description="reward of a success, when the classifier gives rewards")
    terminate_on_success: bool = Field(default=True, description="whether a success then ends the episode")

    @property
    def sampling(self) -> Sampling:
        """Labels are made of rewards; half of each batch are successes."""
        after = self.frame == "after"
        return replace(super().sampling, columns=("rewards",), balanced_above=self.reward_threshold, after=after)


class Branch(nn.Module):
    """tanh(LayerNorm(dense(pooled))): one camera's features, of all its frames."""

    def __init__(self, pooling: nn.Module, features: int, width: int, generator: torch.Generator) -> None:
        super().__init__()
        self.pooling = pooling
        self.dense = linear(features, width, generator)
        self.norm = nn.LayerNorm(width)

    def forward(self, map_BnCHW: torch.Tensor) -> torch.Tensor:
        """Return [B, width] of maps [B, n, c, h, w], or of states [B, n, F] that are not pooled."""
        frames = map_BnCHW.shape[1]
        pooled_NF = self.pooling(map_BnCHW.flatten(0, 1))
        return self.norm(self.dense(pooled_NF.unflatten(0, (-1, frames)).flatten(1))).tanh()


class Classifier(nn.Module):
    """One branch for each camera, and a head over them. States are looked at only where there are no pictures."""

    def __init__(self, shape: ObservationShape, config: RewardClassifierConfig, generator: torch.Generator) -> None:
        super().__init__()
        self.encoder = ObservationEncoder(shape, config, generator, pooled=False)
        self.branches = nn.ModuleList()
        for item in self.encoder.inputs:
            kind = POOLINGS[config.pooling or "spatial_learned_embeddings"]
            pooling = kind(self.encoder.map_shapes[item.picture], generator)
            features = pooling.features * (item.frames or 1)
            self.branches.append(Branch(pooling, features, config.latent_dim, generator))
        if not self.encoder.inputs:
            size = sum(math.prod(parts_of(shape)[name]) for name in self.encoder.states)
            self.branches.append(Branch(nn.Identity(), size, config.latent_dim, generator))
        self.hidden = linear(len(self.branches) * config.latent_dim, config.hidden_dim, generator)
        self.norm = nn.LayerNorm(config.hidden_dim)
        self.logit = linear(config.hidden_dim, 1, generator)

    def forward(self, observations: Observations, keep_BF: torch.Tensor | None = None) -> torch.Tensor:
        """Return logits of success [B]; `keep_BF` is the head's dropout mask, as `draw_dropout` makes it."""
        parts = self.encoder.parts(observations)
        if self.encoder.inputs:
            maps = self.encoder.unpooled(parts)
            seen = [maps[item.picture] for item in self.encoder.inputs]
        else:
            seen = [torch.cat([parts[name].flatten(1) for name in self.encoder.states], dim=-1).unsqueeze(1)]
        features = [branch(values) for branch, values in zip(self.branches, seen, strict=True)]
        hidden = self.hidden(torch.cat(features, dim=-1))
        hidden = functional.relu(self.norm(hidden if keep_BF is None else hidden * keep_BF))
        return self.logit(hidden).squeeze(-1)


@algorithms.register("reward_classifier")
class RewardClassifier(Algorithm):
    """Classify frames as success or not, half of each batch being successes.

    It has no actions and no rollouts: what it learnt is told by `validation/accuracy` and, of what it calls success,
    `validation/precision` and `validation/recall` on held-out episodes (validation_fraction), half of whose samples
    are successes too. RUN is a run directory, a policy folder or a model's address such as models:/NAME@best in

        from understudy.trainables.algorithms.reward_classifier import SuccessDetector

        detector = SuccessDetector.load(RUN)
        rewards, ends = detector.judge({"front": frames, "state": states})
    """

    Config = RewardClassifierConfig
    name = "reward_classifier"
    acts = False
    example = (
        "understudy train algo=reward_classifier env_name=lift-scripted-image reward_threshold=-0.5"
        " encoder=impala_small augmentation=drq lr=5e-4 batch_size=32 training_steps=250 validation_fraction=0.2"
        " seeds=[0,1,2]"
    )
    expected = (
        "Balanced accuracy 0.95 [0.89, 1.00] over 3 seeds on 12 held-out episodes of 60, precision 0.93, recall 0.97."
    )
    default_encoder = "resnet10"
    config: RewardClassifierConfig

    def network(self, generator: torch.Generator) -> Classifier:
        """Build the classifier."""
        return Classifier(self.observation_shape, self.config, generator)

    def draw(self, batch_size: int, generator: torch.Generator) -> Draws:
        """Draw the head's dropout mask."""
        return draw_dropout(batch_size, (self.config.hidden_dim,), self.config.dropout, generator)

    def loss(self, network: nn.Module, target: Targets, batch: Batch, draws: Draws) -> LossAndMetrics:
        """Return the binary cross-entropy of `rewards` [B] being above the threshold, and how often it was told."""
        success_B = (batch["rewards"] > self.config.reward_threshold).to(torch.float32)
        logit_B = network(batch["observations"], draws.get("keep_0"))
        loss = functional.binary_cross_entropy_with_logits(logit_B, success_B)
        told_B = (logit_B.sigmoid() > self.config.success_threshold).to(torch.float32)
        right = (told_B * success_B).sum()
        metrics = {
            "actor_loss": loss,
            "accuracy": (told_B == success_B).to(torch.float32).mean(),
            "precision": right / told_B.sum().clamp(min=1.0),
            "recall": right / success_B.sum().clamp(min=1.0),
        }
        return loss, metrics

    def noise_shape(self) -> tuple[int, ...]:
        """Nothing here is random."""
        return ()

    def act(self, network: nn.Module, observations_BO: Observations, noise: torch.Tensor) -> torch.Tensor:
        """Return the probability of success [B, 1, 1], in the place of actions."""
        return network(observations_BO).sigmoid()[:, None, None]


class SuccessDetector:
    """A trained reward classifier in use: probabilities, rewards and ends of episodes.

    The settings that say what follows from a probability are those of training, where they are not given.
    """

    def __init__(
        self,
        policy: Policy,
        *,
        member: int = 0,
        success_threshold: float | None = None,
        success_reward: float | None = None,
        terminate_on_success: bool | None = None,
    ) -> None:
        config = policy.algorithm.config
        if not isinstance(config, RewardClassifierConfig):
            raise UserError(f"a {policy.algorithm.name} policy is no reward classifier; train algo=reward_classifier")
        given = {
            "success_threshold": success_threshold,
            "success_reward": success_reward,
            "terminate_on_success": terminate_on_success,
        }
        changes = {name: value for name, value in given.items() if value is not None}
        self.config = config.model_copy(update=changes)
        self._policy, self._member = policy, member

    @classmethod
    def load(
        cls, source: Path | str, *, tracking_uri: str | None = None, device: str = "cpu", **settings: Any
    ) -> SuccessDetector:
        """Read a run, a policy folder, a .pt file or a model's address; `settings` are those of the constructor."""
        return cls(load_policy(source, tracking_uri, device), **settings)

    def probability(self, observations: Arrays) -> np.ndarray:
        """Return the probability of success [B] float32 for raw observations [B, ...] (or a single one: B is 1)."""
        return self._policy.act(observations, member=self._member)[:, 0, 0]

    def judge(self, observations: Arrays) -> tuple[np.ndarray, np.ndarray]:
        """Return rewards [B] float32, `success_reward` or 0, and whether the episodes end [B] bool."""
        success = self.probability(observations) > self.config.success_threshold
        rewards = np.where(success, np.float32(self.config.success_reward), np.float32(0.0))
        return rewards, success & self.config.terminate_on_success
