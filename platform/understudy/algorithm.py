"""What an algorithm is: one member's network, loss and action, with no loop, device or logging in it.

Shape suffixes: B samples, H steps of the action chunk, A action dims, O observation dims, K members.
An algorithm is written for ONE member in ordinary torch. `understudy.trainables.packs.pack.Pack` holds K of
them, gives each its seed, learning rate and weight decay, and steps the optimiser.

A network's *parts* are its top-level submodules and parameters, by name: `encoder`, `critic`, `log_alpha`. A part may
have a learning rate of its own (`learning_rates`) and a slowly following copy (`targets`); an update is one or several
*phases*, each of which moves some parts by one loss and leaves the others, and their optimiser states, as they are.
"""

from __future__ import annotations

import abc
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

from understudy.observations import Observations, ObservationShape, as_shape, has_pictures
from understudy.spec.learning import AlgorithmConfig
from understudy.spec.part import ActsOnly, mark

if TYPE_CHECKING:  # commands that never use torch know algorithms: it takes seconds to import
    import torch
    from torch import nn

RETURNS = "returns_to_go"
"""What a batch calls the discounted returns from each sample's step to the end of its episode."""
EXECUTED = "executed_actions"
"""What stores and batches call the actions that were done where noise moved the environment, while `actions` are those
that should have been."""
Batch = dict[str, Any]
"""`observations` [B, *O] float32 or uint8 pictures, or a dict of such parts; `actions` [B, H, A] float32, from
the newest observation's step on (or from `config.sampling.before` steps earlier on); `valid` [B, H] float32 in {0, 1};
and what `config.sampling` asks for beside them, such as `saliency/<camera>` [B, H, W, 1]."""
EXPERT = "expert/"
"""Prefix of the arrays of a batch that are of demonstrations, beside a method's own samples."""
Draws = dict[str, "torch.Tensor"]
"""A loss's random numbers by name, each [B, ...]."""
Targets = Mapping[str, "nn.Module"]
"""The target copy of each part that `Algorithm.targets` names; their parameters take no gradient."""
LossAndMetrics = tuple["torch.Tensor", dict[str, "torch.Tensor"]]
"""A scalar loss, and scalar metrics, which may be detached or not."""
Loss = Callable[["nn.Module", Targets, Batch, Draws], LossAndMetrics]
"""loss(network, target, batch, draws), of one member."""


@dataclass(frozen=True)
class Phase:
    """One optimiser step within an update: what it minimises, and the parts of the network that it moves."""

    name: str
    """The phase's loss is logged as `<name>_loss`."""
    loss: Loss
    parts: tuple[str, ...] = ()
    """Parts whose parameters this phase moves; (): all of them. Every parameter belongs to exactly one phase."""
    every: int = 1
    """The phase is taken at updates 1, 1 + every, 1 + 2 every, ..."""
    targets_first: bool = False
    """Whether targets follow the weights before the step, those that its gradient is of, and not those after it."""


class WholeData(Protocol):
    """All that is trained on, as losses see it: scaled, and clipped where actions are."""

    def batches(self, size: int = 4096) -> Iterator[Batch]:
        """Yield every transition once, in order: observations [B, *O], actions [B, H, A], valid [B, H]."""
        ...

    def actions(self) -> torch.Tensor:
        """Return all actions [N, A]: of each transition that of its newest observation."""
        ...


def belongs(parameter: str, part: str) -> bool:
    """Return whether a parameter, by its whole name, lies in a part."""
    return parameter == part or parameter.startswith(f"{part}.")


class Algorithm(abc.ABC):
    """One learning method. Subclasses set `Config` and are registered with `@algorithms.register(name)`.

    The instance is stateless: parameters live in the module that `network` returns, and every method gets
    that module, so that a pack can pass any member's parameters.
    """

    Config: ClassVar[type[AlgorithmConfig]] = AlgorithmConfig
    name: ClassVar[str]
    loop: ClassVar[str] = "offline"
    example: ClassVar[str] = ""
    expected: ClassVar[str] = ""
    """For the page about the method: a command that trains it, and what came of that."""
    goal_conditioned: ClassVar[bool] = False
    """Whether a policy is told a goal on every task, so that goal_relabelling=auto gives it one."""
    acts: ClassVar[bool] = True
    """Whether `act` gives actions; algorithms without actions are scored on held-out episodes."""
    default_encoder: ClassVar[str | None] = None
    """The picture encoder of runs whose `encoder` names none; None: `encoder` must be given."""
    evaluation_parameters: ClassVar[tuple[str, ...]] = ()
    """Settings that only change how a trained policy acts (marked ActsOnly in `Config`) and so need no training."""

    fits: ClassVar[tuple[str, ...]] = ()
    """Names of buffers of the network that `fit` computes from the data; they are saved with the weights."""

    def __init_subclass__(cls, **keywords: Any) -> None:
        super().__init_subclass__(**keywords)
        fields = cls.Config.model_fields.items()
        cls.evaluation_parameters = tuple(name for name, field in fields if mark(field, ActsOnly))

    def __init__(self, observation_shape: ObservationShape, action_dim: int, config: Any = None) -> None:
        self.observation_shape = as_shape(observation_shape)
        self.action_dim = int(action_dim)
        self.config = self.Config() if config is None else config
        self.constants: dict[str, torch.Tensor] = {}
        """What `fit` returned, for `network`; empty where nothing was fitted yet."""
        if self.default_encoder and self.config.vision.encoder is None and has_pictures(self.observation_shape):
            self.config = self.config.model_copy(update={"encoder": self.default_encoder})

    @classmethod
    def loop_for(cls, config: AlgorithmConfig) -> str:
        """Return the training loop of a run with these settings."""
        return cls.loop

    @property
    def chunk_length(self) -> int:
        """Actions of a decision, H."""
        return self.config.chunks.chunk_length

    @property
    def executed(self) -> int:
        """Actions of a chunk that are executed before the next decision."""
        return self.config.chunks.n_action_steps or self.chunk_length

    @property
    def phases(self) -> tuple[Phase, ...]:
        """The optimiser steps of one update, in order; by default a single one that moves every parameter."""
        return (Phase("actor", self.loss),)

    @property
    def targets(self) -> Mapping[str, float]:
        """Polyak rates of the parts that have a target copy: target += rate (part - target) when its phase has stepped.

        Losses see the copies; what acts is the trained network.
        """
        return {}

    @property
    def learning_rates(self) -> Mapping[str, float]:
        """Learning rates of the parts that have one of their own; the others learn with `lr`."""
        vision = self.config.vision
        return {} if vision.encoder is None or vision.encoder_lr is None else {"encoder": vision.encoder_lr}

    @property
    def average_rate(self) -> float | None:
        """Polyak rate of an average of all weights, which then acts; None: the trained weights act."""
        return self.config.ema_rate

    def with_config(self, **changes: Any) -> Algorithm:
        """Return the same algorithm with some (evaluation-time) settings replaced and validated again."""
        other = type(self)(
            self.observation_shape, self.action_dim, self.Config(**{**self.config.model_dump(), **changes})
        )
        other.constants = self.constants
        return other

    def fit(self, data: WholeData) -> Mapping[str, torch.Tensor]:
        """Return the constants that `fits` names, computed from all data that are trained on (k-means, neighbours).

        Called once before `network` is, in every process of a run, with the same data; `network` finds them in
        `self.constants` and registers them as buffers of these names.
        """
        return {}

    def notes(self) -> list[str]:
        """Return what should be known of a run with these settings before it begins; each is a line."""
        return []

    @property
    def draws_globally(self) -> bool:
        """Whether its code may draw from torch's global generator, which is then seeded: methods of this package do
        not."""
        return not type(self).__module__.startswith("understudy.")

    def build(self, seed: int) -> nn.Module:
        """Return the network of a seed; layers that draw from torch's global generator are a function of it too."""
        from understudy.randomness import global_generator, torch_generator  # imports torch

        generator = torch_generator(seed, "weights")
        if not self.draws_globally:
            return self.network(generator)
        with global_generator(seed, "global weights"):
            return self.network(generator)

    @abc.abstractmethod
    def network(self, generator: torch.Generator) -> nn.Module:
        """Build the trainable module on the CPU, its weights drawn from `generator` alone."""

    @abc.abstractmethod
    def draw(self, batch_size: int, generator: torch.Generator) -> Draws:
        """Draw the losses' random numbers for a batch: tensors with leading dim `batch_size` on generator.device.

        Those whose names start with `keep` are masks of dropout, which held-out losses are computed without.
        """

    @abc.abstractmethod
    def loss(self, network: nn.Module, target: Targets, batch: Batch, draws: Draws) -> LossAndMetrics:
        """Return the scalar loss and scalar metrics of one member's batch; with several phases, those of the part that
        acts."""

    @abc.abstractmethod
    def noise_shape(self) -> tuple[int, ...]:
        """Shape of the standard normal noise one decision of `act` needs, without the batch dim."""

    @abc.abstractmethod
    def act(self, network: nn.Module, observations_BO: Observations, noise: torch.Tensor) -> torch.Tensor:
        """Return actions [B, H, A]; `noise` is [B, *noise_shape()], already scaled by the temperature (0: zeros)."""

    @classmethod
    def create(
        cls,
        observation_shape: ObservationShape,
        action_dim: int,
        config: Any = None,
        *,
        seed: int = 0,
        device: str = "cpu",
    ) -> Any:
        """Return an Agent with `update(batch)`, `batch_update`, `sample_actions(obs)`, `save`, `load`."""
        from understudy.registry import loops  # the kernel finds trainables by name only

        return loops.get(cls.loop).agent(cls(observation_shape, action_dim, config), seed=seed, device=device)
