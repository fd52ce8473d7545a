"""What an algorithm is: one member's network, loss and action, with no loop, device or logging in it.

Shape suffixes: B samples, H steps of the action chunk, A action dims, O observation dims, K members.
An algorithm is written for ONE member in ordinary torch. `understudy.trainables.pack.Pack` holds K of
them, gives each its seed, learning rate and weight decay, and steps the optimiser.
"""

from __future__ import annotations

import abc
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
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
from torch import nn

from understudy.observations import Observations, ObservationShape, as_shape

Batch = dict[str, Any]
"""`observations` [B, *O] float32 or uint8 pictures, or a dict of such parts; `actions` [B, H, A] float32; `valid`
[B, H] float32 in {0, 1}; and what a store has beside them, such as `saliency/<camera>` [B, H, W, 1]."""

LOG: dict[str, JsonValue] = {"scale": "log"}
"""`json_schema_extra` of a field whose intervals are searched on a logarithmic scale."""

OF_PICTURES = (
    *("pooling", "add_spatial_coordinates", "goal_fusion", "shared_goal_encoder", "shared_camera_encoder"),
    "encoder_weights",
)
"""Settings of AlgorithmConfig that only pictures have."""


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
    encoder: str | None = Field(
        default=None,
        description="picture encoder (impala_small, impala, impala_large, resnetv1-18-bridge, resnetv1-34-bridge,"
        " resnetv1-50-bridge, resnet10, resnet18); none for states",
    )
    pooling: Literal["avg", "max", "none", "spatial_softmax", "spatial_learned_embeddings"] | None = Field(
        default=None, description="from the encoder's map to features; default avg for ResNets, none for IMPALA"
    )
    add_spatial_coordinates: bool = Field(default=False, description="give the encoder each pixel's row and column")
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
    grad_clip: float | None = Field(default=None, gt=0, description="largest gradient norm of one member")
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

    @model_serializer(mode="wrap")
    def _without_idle_settings(self, serialise: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Leave out what says nothing where no pictures are encoded; the fingerprint of such runs does without, too."""
        data = serialise(self)
        return data if self.encoder else {key: value for key, value in data.items() if key not in OF_PICTURES}

    @property
    def chunk_length(self) -> int:
        """Actions predicted per decision: horizon_length with action chunking, else 1."""
        return self.horizon_length if self.action_chunking else 1


class Algorithm(abc.ABC):
    """One learning method. Subclasses set `Config` and are registered with `@algorithms.register(name)`.

    The instance is stateless: parameters live in the module that `network` returns, and every method gets
    that module, so that a pack can pass any member's parameters.
    """

    Config: ClassVar[type[AlgorithmConfig]] = AlgorithmConfig
    name: ClassVar[str]
    loop: ClassVar[str] = "offline"
    evaluation_parameters: ClassVar[tuple[str, ...]] = ()
    """Config fields that only change how a trained policy acts: no training of their own."""

    def __init__(self, observation_shape: ObservationShape, action_dim: int, config: Any = None) -> None:
        self.observation_shape = as_shape(observation_shape)
        self.action_dim = int(action_dim)
        self.config = self.Config() if config is None else config

    @property
    def chunk_length(self) -> int:
        return self.config.chunk_length

    @property
    def target_rate(self) -> float | None:
        """Polyak rate of averaged weights that act instead of the trained ones; None keeps no average."""
        return None

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
        """Draw the loss's random numbers for a batch: tensors with leading dim `batch_size` on generator.device."""

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

        return loops.get("agent")(cls(observation_shape, action_dim, config), seed=seed, device=device)
