"""What an algorithm is: one member's network, loss and action, with no loop, device or logging in it.

Shape suffixes: B samples, H steps of the action chunk, A action dims, O observation dims, K members.
An algorithm is written for ONE member in ordinary torch. `understudy.trainables.packs.pack.Pack` holds K of
them, gives each its seed, learning rate and weight decay, and steps the optimiser.
"""

from __future__ import annotations

import abc
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    JsonValue,
    PositiveInt,
    SerializerFunctionWrapHandler,
    field_validator,
    model_serializer,
    model_validator,
)

from understudy.observations import Observations, ObservationShape, as_shape, has_pictures
from understudy.registry import encoders
from understudy.spec.choices import OneOf

if TYPE_CHECKING:  # specs are made from these configs, by commands that never use torch: it takes seconds to import
    import torch
    from torch import nn

RETURNS = "returns_to_go"
"""What a batch calls the discounted returns from each sample's step to the end of its episode."""
Batch = dict[str, Any]
"""`observations` [B, *O] float32 or uint8 pictures, or a dict of such parts; `actions` [B, H, A] float32; `valid`
[B, H] float32 in {0, 1}; and what a store has beside them, such as `saliency/<camera>` [B, H, W, 1]."""

LOG: dict[str, JsonValue] = {"scale": "log"}
"""`json_schema_extra` of a field whose intervals are searched on a logarithmic scale."""

OF_PICTURES = (
    *("pooling", "add_spatial_coordinates", "history", "goal_fusion", "shared_goal_encoder", "shared_camera_encoder"),
    *("encoder_weights", "encoder_lr"),
)
"""Settings of AlgorithmConfig that only pictures have."""

OF_EXECUTION = ("n_action_steps", "temporal_ensemble_coeff")
"""Settings of AlgorithmConfig that say how a chunk of actions is executed; no training depends on them."""


class AlgorithmConfig(BaseModel):
    """The settings that every offline algorithm has; a plug-in's config adds its own."""

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=(), allow_inf_nan=False)

    lr: float = Field(default=3e-4, gt=0, lt=10, json_schema_extra=LOG, description="learning rate of Adam")
    weight_decay: float = Field(default=0.0, ge=0, json_schema_extra=LOG, description="AdamW's decay; 0 is plain Adam")
    batch_size: int = Field(default=256, ge=1, description="samples an update, over all workers")
    horizon_length: int = Field(default=5, ge=1, description="actions in a chunk (used when action_chunking is on)")
    action_chunking: bool = Field(default=False, description="predict and execute horizon_length actions at once")
    hidden_dims: tuple[PositiveInt, ...] = Field(
        default=(512, 512, 512, 512), description="widths of the MLP's layers; [] is a linear policy"
    )
    n_action_steps: int | None = Field(
        default=None, ge=1, description="actions of a chunk that are executed before the next decision; none: all"
    )
    temporal_ensemble_coeff: float | None = Field(
        default=None,
        description="m of temporal ensembling: the chunks for a step count exp(-m i), i=0 the oldest; 0.01 is ACT's;"
        " needs n_action_steps=1; none: the newest chunk alone",
    )
    encoder: Annotated[str | None, OneOf(encoders.names)] = Field(
        default=None, description="picture encoder; none for states"
    )
    pooling: Literal["avg", "max", "none", "spatial_softmax", "spatial_learned_embeddings"] | None = Field(
        default=None, description="from the encoder's map to features; default avg for ResNets, none for IMPALA"
    )
    add_spatial_coordinates: bool = Field(default=False, description="give the encoder each pixel's row and column")
    history: Literal["channels", "sequence"] = Field(
        default="channels", description="frames of an obs_horizon: joined on the channels, or each encoded alone"
    )
    goal_fusion: Literal["early", "late"] = Field(
        default="early", description="join goal pictures on the channels, or encode them apart and join the features"
    )
    shared_goal_encoder: bool = Field(
        default=True,
        description="late: one encoder for pictures and goals; early: a goal counts as often as there are frames",
    )
    shared_camera_encoder: bool = Field(default=False, description="one encoder for all cameras, not one each")
    encoder_weights: str | None = Field(
        default=None, description="safetensors or .pt file, or policy folder, that the encoder's weights are read from"
    )
    encoder_lr: float | None = Field(
        default=None,
        ge=0,
        lt=10,
        json_schema_extra=LOG,
        description="learning rate of the encoder; none: lr, 0: frozen",
    )
    grad_clip: float | None = Field(default=None, gt=0, description="largest gradient norm of one member")
    adam_beta1: float = Field(default=0.9, ge=0, lt=1, description="Adam's decay of the mean gradient")
    adam_beta2: float = Field(default=0.999, ge=0, lt=1, description="Adam's decay of the mean squared gradient")
    adam_eps: float = Field(default=1e-8, gt=0, json_schema_extra=LOG, description="Adam's epsilon")
    warmup_steps: int = Field(default=0, ge=0, description="steps in which the learning rate grows linearly to lr")
    lr_schedule: Literal["constant", "cosine"] = Field(
        default="constant", description="after the warm-up: lr, or half a cosine down to 0"
    )
    decay_steps: int | None = Field(
        default=None, ge=1, description="step at which the cosine reaches 0; none: training_steps"
    )
    ema_rate: float | None = Field(
        default=None,
        gt=0,
        le=1,
        json_schema_extra=LOG,
        description="rate of the moving average of the weights, which then acts; none: the weights themselves act",
    )
    grad_accumulation: int = Field(
        default=1, ge=1, description="parts that a batch is computed in, one after the other: less memory, same result"
    )
    precision: Literal["float32", "bf16", "fp16"] = Field(
        default="float32", description="of the loss's products: bf16 and fp16 are faster on GPUs; fp16 scales its loss"
    )
    compile: bool = Field(default=False, description="compile the loss with torch.compile")
    action_clip: bool = Field(default=True, description="clip actions to [-1, 1], where the environments span that")

    @field_validator("encoder_weights")
    @classmethod
    def _absolute(cls, value: str | None) -> str | None:
        """Workers start in other folders than the command did."""
        return str(Path(value).expanduser().absolute()) if value else None

    @model_validator(mode="after")
    def _pictures_have_an_encoder(self) -> AlgorithmConfig:
        for name in OF_PICTURES if self.encoder is None else ():
            value = getattr(self, name)
            if value != type(self).model_fields[name].default:
                raise ValueError(f"{name}={value} is for pictures, which need encoder=")
        return self

    @model_validator(mode="after")
    def _chunks_are_executed(self) -> AlgorithmConfig:
        steps = self.n_action_steps
        if steps is not None and steps > self.chunk_length:
            raise ValueError(f"n_action_steps={steps} exceeds the actions of a chunk, {self.chunk_length}")
        if self.temporal_ensemble_coeff is not None and steps != 1:
            raise ValueError(
                f"temporal_ensemble_coeff={self.temporal_ensemble_coeff} needs a decision each step: n_action_steps=1"
            )
        return self

    @model_validator(mode="after")
    def _steps_agree(self) -> AlgorithmConfig:
        if self.decay_steps is not None and self.lr_schedule == "constant":
            raise ValueError(f"decay_steps={self.decay_steps} is for lr_schedule=cosine")
        if self.decay_steps is not None and self.decay_steps <= self.warmup_steps:
            raise ValueError(f"decay_steps={self.decay_steps} must exceed warmup_steps={self.warmup_steps}")
        if self.grad_accumulation > self.batch_size:
            raise ValueError(f"grad_accumulation={self.grad_accumulation} exceeds batch_size={self.batch_size}")
        return self

    @model_serializer(mode="wrap")
    def _without_idle_settings(self, serialise: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Leave out what says nothing, such as of pictures where there are none; the fingerprint does without, too."""
        idle = self.idle_settings
        return {key: value for key, value in serialise(self).items() if key not in idle}

    @property
    def idle_settings(self) -> set[str]:
        """Fields that say nothing beside the others' values."""
        return {key for key in OF_EXECUTION if getattr(self, key) is None} | set(() if self.encoder else OF_PICTURES)

    @property
    def chunk_length(self) -> int:
        """Actions predicted per decision: horizon_length with action chunking, else 1."""
        return self.horizon_length if self.action_chunking else 1

    @property
    def default_temperature(self) -> float:
        """Scale of the noise that a policy acts with where none is asked for; 0 is deterministic."""
        return 0.0

    @property
    def batch_columns(self) -> tuple[str, ...]:
        """Columns of the store that the loss needs beside actions, such as `rewards`, or RETURNS: [B, ...]."""
        return ()

    @property
    def balanced_above(self) -> float | None:
        """Reward above which a sample counts as positive, where half of each batch shall be; None: as they come."""
        return None

    @property
    def learns_saliency(self) -> float | None:
        """Weight of earlier frames in the saliency maps that the loss compares with; None: it compares with none."""
        return None

    @property
    def observes_after(self) -> bool:
        """Whether a sample's observation is what followed its action, not what the action was decided on."""
        return False


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
    """The encoder of pictures where `encoder` names none; None: it must."""
    evaluation_parameters: ClassVar[tuple[str, ...]] = OF_EXECUTION
    """Config fields that only change how a trained policy acts: no training of their own. A subclass names its own,
    and has those of execution beside them."""

    def __init_subclass__(cls, **keywords: Any) -> None:
        super().__init_subclass__(**keywords)
        own = (*cls.evaluation_parameters, *OF_EXECUTION)
        cls.evaluation_parameters = tuple(dict.fromkeys(own)) if cls.acts else ()

    def __init__(self, observation_shape: ObservationShape, action_dim: int, config: Any = None) -> None:
        self.observation_shape = as_shape(observation_shape)
        self.action_dim = int(action_dim)
        self.config = self.Config() if config is None else config
        if self.default_encoder and self.config.encoder is None and has_pictures(self.observation_shape):
            self.config = self.config.model_copy(update={"encoder": self.default_encoder})

    @property
    def chunk_length(self) -> int:
        return self.config.chunk_length

    @property
    def executed(self) -> int:
        """Actions of a chunk that are executed before the next decision."""
        return self.config.n_action_steps or self.chunk_length

    @property
    def target_rate(self) -> float | None:
        """Polyak rate of averaged weights that act instead of the trained ones; None keeps no average."""
        return self.config.ema_rate

    def with_config(self, **changes: Any) -> Algorithm:
        """Return the same algorithm with some (evaluation-time) settings replaced and validated again."""
        return type(self)(
            self.observation_shape, self.action_dim, self.Config(**{**self.config.model_dump(), **changes})
        )

    @abc.abstractmethod
    def network(self, generator: torch.Generator) -> nn.Module:
        """Build the trainable module on the CPU, its weights drawn from `generator` alone."""

    @abc.abstractmethod
    def draw(self, batch_size: int, generator: torch.Generator) -> dict[str, torch.Tensor]:
        """Draw the loss's random numbers for a batch: tensors with leading dim `batch_size` on generator.device.

        Those whose names start with `keep` are masks of dropout, which held-out losses are computed without.
        """

    @abc.abstractmethod
    def loss(
        self, network: nn.Module, batch: Batch, draws: dict[str, torch.Tensor]
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """Return the scalar loss and scalar metrics (detached or not) of one member's batch."""

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
