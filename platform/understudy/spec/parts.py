"""The parts that an algorithm's settings are made of: each a group of keys that a method takes or does not."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import AfterValidator, Field, model_validator

from understudy.errors import UnknownName
from understudy.language import is_place
from understudy.registry import encoders, text_encoders
from understudy.spec.choices import OneOf
from understudy.spec.part import (
    LOG,
    ActsOnly,
    ModelPlace,
    Needs,
    OfThisMachine,
    OnlyWith,
    Part,
    PerMember,
    Role,
    Width,
    absolute,
)

TOLD_TEXTS = OnlyWith("language_encoder", reason="is for policies that are told texts, which need language_encoder=")
OF_PICTURES = OnlyWith("encoder", reason="is for pictures, which need encoder=")


class Optimisation(Part):
    """Adam, its schedule, and how a step is computed."""

    title: ClassVar[str] = "optimisation"

    lr: Annotated[float, PerMember()] = Field(
        default=3e-4, gt=0, lt=10, json_schema_extra=LOG, description="learning rate of Adam"
    )
    weight_decay: Annotated[float, PerMember()] = Field(
        default=0.0, ge=0, json_schema_extra=LOG, description="AdamW's decay; 0 is plain Adam"
    )
    batch_size: int = Field(default=256, ge=1, le=2**20, description="samples an update, over all workers")
    grad_clip: Annotated[float | None, PerMember()] = Field(
        default=None, gt=0, description="largest gradient norm of one member"
    )
    adam_beta1: Annotated[float, PerMember()] = Field(
        default=0.9, ge=0, lt=1, description="Adam's decay of the mean gradient"
    )
    adam_beta2: Annotated[float, PerMember()] = Field(
        default=0.999, ge=0, lt=1, description="Adam's decay of the mean squared gradient"
    )
    adam_eps: Annotated[float, PerMember()] = Field(
        default=1e-8, gt=0, json_schema_extra=LOG, description="Adam's epsilon"
    )
    warmup_steps: Annotated[int, PerMember()] = Field(
        default=0, ge=0, description="steps in which the learning rate grows linearly to lr"
    )
    lr_schedule: Annotated[Literal["constant", "cosine"], PerMember()] = Field(
        default="constant", description="after the warm-up: lr, or half a cosine down to 0"
    )
    decay_steps: Annotated[int | None, PerMember()] = Field(
        default=None, ge=1, description="step at which the cosine reaches 0; none: training_steps"
    )
    ema_rate: Annotated[float | None, PerMember()] = Field(
        default=None,
        gt=0,
        le=1,
        json_schema_extra=LOG,
        description="rate of the moving average of the weights, which then acts; none: the weights themselves act",
    )
    ema_power: Annotated[float | None, OnlyWith("ema_power"), Needs("ema_rate")] = Field(
        default=None,
        gt=0,
        le=1,
        description="the average's rate begins at 1 and falls as updates^-ema_power, down to ema_rate (Diffusion"
        " Policy's: 0.75); none: ema_rate from the start",
    )
    grad_accumulation: int = Field(
        default=1, ge=1, description="parts that a batch is computed in, one after the other: less memory, same result"
    )
    precision: Literal["float32", "tf32", "bf16", "fp16"] = Field(
        default="float32",
        description="of the loss's products: tf32, bf16 and fp16 are faster on GPUs; fp16 scales its loss",
    )
    compile: bool = Field(default=False, description="compile the loss with torch.compile")

    @model_validator(mode="after")
    def _steps_agree(self) -> Optimisation:
        if self.decay_steps is not None and self.lr_schedule == "constant":
            raise ValueError(f"decay_steps={self.decay_steps} is for lr_schedule=cosine")
        if self.decay_steps is not None and self.decay_steps <= self.warmup_steps:
            raise ValueError(f"decay_steps={self.decay_steps} must exceed warmup_steps={self.warmup_steps}")
        if self.grad_accumulation > self.batch_size:
            raise ValueError(f"grad_accumulation={self.grad_accumulation} exceeds batch_size={self.batch_size}")
        return self


class Noise(Part):
    """The noise that a policy acts with, which does not change training."""

    role: ClassVar[Role] = "when"
    title: ClassVar[str] = "acting"

    eval_temperature: Annotated[
        float | None, ActsOnly(), Needs("eval_episodes>=1", "acts", note=True), Needs("noise")
    ] = Field(
        default=None,
        ge=0,
        description="scale of the policy's noise when it acts; none: 0, deterministic, or 1 for actor=best_of_n and"
        " use_critic",
    )


class Chunks(Part):
    """Chunks of actions: how long they are, and how they are executed, which does not change training."""

    title: ClassVar[str] = "chunks of actions"

    horizon_length: Annotated[
        int,
        Needs("action_chunking=true", "use_critic=true", "horizon_length<2", note=True, says="action_chunking=true"),
    ] = Field(default=5, ge=1, le=10_000, description="actions in a chunk (used when action_chunking is on)")
    action_chunking: bool = Field(default=False, description="predict and execute horizon_length actions at once")
    n_action_steps: Annotated[
        int | None,
        OnlyWith("n_action_steps"),
        ActsOnly(),
        Needs("action_chunking=true", "n_action_steps<2", says="action_chunking=true"),
    ] = Field(
        default=None, ge=1, description="actions of a chunk that are executed before the next decision; none: all"
    )
    temporal_ensemble_coeff: Annotated[
        float | None, OnlyWith("temporal_ensemble_coeff"), ActsOnly(), Needs("action_chunking=true")
    ] = Field(
        default=None,
        description="m of temporal ensembling: the chunks for a step count exp(-m i), i=0 the oldest; 0.01 is ACT's;"
        " needs n_action_steps=1; none: the newest chunk alone",
    )
    action_clip: bool = Field(default=True, description="clip actions to [-1, 1], where the environments span that")

    @model_validator(mode="after")
    def _chunks_are_executed(self) -> Chunks:
        steps = self.n_action_steps
        if steps is not None and steps > self.chunk_length:
            raise ValueError(f"n_action_steps={steps} exceeds the actions of a chunk, {self.chunk_length}")
        if self.temporal_ensemble_coeff is not None and steps != 1:
            raise ValueError(
                f"temporal_ensemble_coeff={self.temporal_ensemble_coeff} needs a decision each step: n_action_steps=1"
            )
        return self

    @property
    def chunk_length(self) -> int:
        """Actions predicted per decision: horizon_length with action chunking, else 1."""
        return self.horizon_length if self.action_chunking else 1


ONE_ACTION = Chunks(action_clip=False)
"""How methods without chunks act."""


class Dense(Part):
    """Dense layers."""

    title: ClassVar[str] = "dense layers"

    hidden_dims: tuple[Width, ...] = Field(
        default=(512, 512, 512, 512), description="widths of the MLP's layers; [] is a linear policy"
    )


class Vision(Part):
    """How pictures become features."""

    title: ClassVar[str] = "pictures"

    encoder: Annotated[str | None, OneOf(encoders.names)] = Field(
        default=None, description="picture encoder; none for states"
    )
    pooling: Annotated[
        Literal["avg", "max", "none", "spatial_softmax", "spatial_learned_embeddings"] | None, OF_PICTURES
    ] = Field(default=None, description="from the encoder's map to features; default avg for ResNets, none for IMPALA")
    add_spatial_coordinates: Annotated[bool, OF_PICTURES] = Field(
        default=False, description="give the encoder each pixel's row and column"
    )
    history: Annotated[Literal["channels", "sequence"], OF_PICTURES, Needs("obs_horizon>=2")] = Field(
        default="channels", description="frames of an obs_horizon: joined on the channels, or each encoded alone"
    )
    goal_fusion: Annotated[Literal["early", "late"], OF_PICTURES, Needs("goals")] = Field(
        default="early", description="join goal pictures on the channels, or encode them apart and join the features"
    )
    shared_goal_encoder: Annotated[bool, OF_PICTURES, Needs("goals")] = Field(
        default=True,
        description="late: one encoder for pictures and goals; early: a goal counts as often as there are frames",
    )
    shared_camera_encoder: Annotated[bool, OF_PICTURES, Needs("several_cameras")] = Field(
        default=False, description="one encoder for all cameras, not one each"
    )
    encoder_weights: Annotated[ModelPlace | None, OF_PICTURES, OfThisMachine()] = Field(
        default=None,
        description="where the encoder's weights are read from: a safetensors or .pt file, a run, a policy folder,"
        " models:/NAME@ALIAS or runs:/ID/model",
    )
    encoder_lr: Annotated[float | None, OF_PICTURES] = Field(
        default=None,
        ge=0,
        lt=10,
        json_schema_extra=LOG,
        description="learning rate of the encoder; none: lr, 0: frozen",
    )


def _place_or_none(encoder: str | None) -> str | None:
    """Return the name of a registered text encoder, or the whole path of a folder."""
    if encoder is None:
        return None
    if is_place(encoder):
        return absolute(encoder)
    try:
        text_encoders.get(encoder)
    except UnknownName as error:
        raise ValueError(f"{error}; a folder is given as a path, ./{encoder}") from None
    return encoder


class Prompt(Part):
    """What a policy that is told texts is told when it acts, which does not change training."""

    eval_language: Annotated[str | None, ActsOnly(), TOLD_TEXTS, Needs("eval_episodes>=1", "acts", note=True)] = Field(
        default=None, description="text that episodes are played with; none: the one that the environment tells"
    )


class Language(Prompt):
    """How a task's text becomes a part of what the policy sees."""

    title: ClassVar[str] = "task texts"

    language_encoder: Annotated[str | None, AfterValidator(_place_or_none), OnlyWith("language_encoder")] = Field(
        default=None,
        description="tell the policy each episode's task text, as the vector of a frozen encoder: wordllama, or a"
        " folder with model.safetensors and tokenizer.json; none: it is told no text",
    )
    language_dim: Annotated[int, TOLD_TEXTS] = Field(
        default=64, ge=1, le=16_384, description="features that a learned layer makes of a text's vector"
    )
    language_table: Annotated[str | None, TOLD_TEXTS] = Field(
        default=None,
        description="digest that the encoder's table must have; none: any, and the policy keeps the one it met",
    )


class Interaction(Part):
    """How a method that acts while it learns collects its experience."""

    title: ClassVar[str] = "acting while learning"

    start_training: int = Field(
        default=1000, ge=1, description="environment steps of uniformly random actions before the first update"
    )
    utd_ratio: int = Field(default=1, ge=1, le=1000, description="updates a step of the environment")
    buffer_size: int = Field(default=1_000_000, ge=1, description="newest steps that batches are drawn from")
    offline_ratio: float = Field(
        default=0.0, ge=0, lt=1, description="share of each batch that is drawn from the dataset (RLPD: 0.5)"
    )


class FineTuning(Part):
    """Reinforcement learning from fixed data, and then in an environment of each seed's own."""

    title: ClassVar[str] = "fine-tuning by rewards"

    use_critic: Annotated[bool, OnlyWith("use_critic", True)] = Field(
        default=False, description="learn a critic too, from the rewards of the data and of what the policy then does"
    )
    online_steps: Annotated[int, OnlyWith("use_critic", True)] = Field(
        default=0, ge=0, lt=2**60, description="steps of each seed's environment after the training_steps on the data"
    )
    start_training: Annotated[int, OnlyWith("use_critic", True), Needs("online_steps")] = Field(
        default=5000, ge=1, description="online step from which updates follow; the policy that was trained acts before"
    )
    utd_ratio: Annotated[int, OnlyWith("use_critic", True), Needs("online_steps")] = Field(
        default=1, ge=1, le=1000, description="updates an online step"
    )
    buffer_size: Annotated[int, OnlyWith("use_critic", True), Needs("online_steps")] = Field(
        default=2_000_000, ge=1, description="newest online steps that batches are drawn from, beside all of the data"
    )
