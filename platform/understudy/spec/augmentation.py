"""How training pictures are changed at random: what an operation is, and the keys of a run that choose among them.

The operations are plug-ins of `understudy.envs.windows.augmentations`, one file each, with the keys that they take;
`understudy.envs.windows.augmentation` applies them. Nothing here touches a picture.
"""

from __future__ import annotations

import abc
import itertools
from collections.abc import Iterable
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, cast

from pydantic import (
    BeforeValidator,
    Field,
    SerializationInfo,
    SerializerFunctionWrapHandler,
    field_validator,
    model_serializer,
    model_validator,
)
from pydantic.fields import FieldInfo

from understudy.errors import UserError, did_you_mean
from understudy.observations import GOAL, ObservationShape, is_picture, parts_of
from understudy.registry import augmentations
from understudy.spec.choices import OneOf
from understudy.spec.part import Needs, Part

if TYPE_CHECKING:
    import torch

NEXT = "next/"
"""What `AugmentationConfig.parameters_of` takes before the name of a part that is seen after the action."""
PRESETS: dict[str, tuple[str, ...]] = {
    "none": (),
    "bridge": ("random_resized_crop", "random_brightness", "random_contrast", "random_saturation", "random_hue"),
    "drq": ("random_shift",),
}
"""The operations, in their order, that `augmentation=` stands for. Their keys are written with every augmented run."""


class Operation(Part, abc.ABC):
    """A random change of pictures, registered with `@augmentations.register(name)`; its fields are keys of a run.

    Shapes: B samples, n frames, C channels, H height, W width, D uniform numbers.
    """

    name: ClassVar[str]
    numbers: ClassVar[int] = 1
    """Uniform numbers in [0, 1) that one sample needs, D: all that is random."""
    channels: ClassVar[tuple[int, ...]] = ()
    """Channels that a picture may have; () for any number."""
    moves: ClassVar[bool] = False
    """Whether it moves what is seen, so that saliency maps must move alike; otherwise it changes only colours."""
    whole_levels: ClassVar[bool] = False
    """Whether it only copies pixels, so that it takes uint8 pictures too."""

    @abc.abstractmethod
    def apply(self, values_BnCHW: torch.Tensor, uniforms_BD: torch.Tensor) -> torch.Tensor:
        """Return pictures of the same shape and type, floats in [0, 1] clipped; each sample's frames change alike.

        A function of its arguments alone, without a loop over samples or a branch on values.
        """


def operations() -> list[type[Operation]]:
    """Return every registered operation, those of PRESETS first: flags.json has their keys in this order."""
    names = dict.fromkeys((*itertools.chain(*PRESETS.values()), *augmentations.names()))
    return [augmentations.get(name) for name in names]


def _preset(value: Any) -> Any:
    """Take the seed code's `augment: true` as bridge."""
    return {True: "bridge", False: "none"}[value] if isinstance(value, bool) else value


Chosen = Annotated[str | tuple[str, ...], BeforeValidator(_preset), OneOf(augmentations.names, *PRESETS)]
"""A preset, an operation, or operations."""


class AugmentationConfig(Part):
    """What is done to training pictures; part of what is trained, and so of the fingerprint.

    Built from flat keys: those of the operations become `parameters`, and are written as flat keys again.
    """

    title: ClassVar[str] = "augmentation"

    augmentation: Chosen = Field(
        default="none",
        description="random changes of training pictures: bridge (crop, colours), drq (shift), or operations by name,"
        " like [random_shift,random_hue]",
    )
    augment_order: tuple[str, ...] | None = Field(
        default=None, description="operations in the order they are applied; default: those of `augmentation`"
    )
    parameters: tuple[Operation, ...] = Field(default=(), exclude=True)
    """Every registered operation with its keys' values, used or not; () where nothing is augmented."""
    augment_next_obs_goal_differently: bool = Field(
        default=False, description="draw the parameters of a goal and of the next observation apart"
    )
    augment_cameras_alike: Annotated[bool, Needs("several_cameras")] = Field(
        default=False, description="one set of parameters for all cameras of a sample"
    )
    augment_saliency: Annotated[bool, Needs("saliency_weight")] = Field(
        default=False, description="crop and shift saliency maps as their pictures are"
    )
    augment_where: Literal["workers", "device"] = Field(
        default="device", description="where: in loader workers, or in batches on the device; the pictures are the same"
    )

    @classmethod
    def flat_fields(cls) -> dict[str, FieldInfo]:
        """Return the flat keys with their fields, those of the operations after `augment_order`."""
        found: dict[str, FieldInfo] = {}
        for name, field in cls.model_fields.items():
            if name != "parameters":
                found[name] = field
                continue
            for kind in operations():
                taken = sorted(kind.model_fields.keys() & (found.keys() | cls.model_fields.keys()))
                if taken:
                    raise UserError(
                        f"augmentation operation {kind.name!r} ({kind.__module__}): another has the key"
                        f" {taken[0]!r} already; give it another name"
                    )
                found |= kind.model_fields
        return found

    @model_validator(mode="before")
    @classmethod
    def _with_parameters(cls, values: Any) -> Any:
        """Give each operation its keys; nothing is looked up where nothing is augmented."""
        if not isinstance(values, dict) or "parameters" in values:
            return cast(Any, values)
        given = cast("dict[str, Any]", values)
        others = {key: value for key, value in given.items() if key not in cls.model_fields}
        if not others and given.get("augmentation", "none") in ("none", False):
            return given
        parameters: list[Operation] = []
        for kind in operations():
            mine = {key: others.pop(key) for key in list(others) if key in kind.model_fields}
            parameters.append(kind(**mine))
        own = {key: value for key, value in given.items() if key in cls.model_fields}
        return {**own, **others, "parameters": tuple(parameters)}

    @field_validator("augment_order")
    @classmethod
    def _known(cls, order: tuple[str, ...] | None) -> tuple[str, ...] | None:
        known = augmentations.names() if order else []
        for name in order or ():
            if name not in known:
                raise ValueError(f"no operation {name!r}{did_you_mean(name, known)}")
        return order

    @model_validator(mode="after")
    def _one_order(self) -> AugmentationConfig:
        if isinstance(self.augmentation, tuple) and self.augment_order is not None:
            raise ValueError("augmentation names the operations in their order: leave augment_order out")
        if len(set(self.order)) != len(self.order):
            raise ValueError(f"{', '.join(self.order)} names an operation twice")
        return self

    @property
    def order(self) -> tuple[str, ...]:
        """The names of the operations that are applied; none of them with augmentation=none."""
        if isinstance(self.augmentation, tuple):
            return self.augmentation
        preset = PRESETS.get(self.augmentation, (self.augmentation,))
        return preset if self.augment_order is None or not preset else self.augment_order

    @property
    def operations(self) -> tuple[Operation, ...]:
        """The operations that are applied, in their order."""
        known = {operation.name: operation for operation in self.parameters}
        return tuple(known[name] for name in self.order)

    @property
    def idle(self) -> set[str]:
        """Every key where nothing is done, else those of plug-ins' operations that are not applied."""
        if not self.order:
            return set(self.flat_parameters()) | set(type(self).model_fields)
        written = {*self.order, *itertools.chain(*PRESETS.values())}
        return {key for part in self.parameters if part.name not in written for key in type(part).model_fields}

    @property
    def lacking(self) -> dict[str, str]:
        """What the keys of operations that are not applied need, and all of them where nothing is done."""
        own = [] if self.order else [name for name in type(self).model_fields if name.startswith("augment_")]
        idle = [kind for kind in operations() if kind.name not in self.order]
        needed = {key: f"{kind.name} in augmentation= or augment_order=" for kind in idle for key in kind.model_fields}
        return {**needed, **dict.fromkeys(own, "augmentation")}

    def held(self) -> dict[str, Any]:
        """Return every flat key's value, those of idle ones too."""
        own = {name: value for name, value in super().held().items() if name != "parameters"}
        usual = {key: value for kind in operations() for key, value in kind().model_dump().items()}
        return {**own, **usual, **self.flat_parameters()}

    def flat_parameters(self, mode: str = "python") -> dict[str, Any]:
        """Return the values of the operations' keys."""
        return {key: value for part in self.parameters for key, value in part.model_dump(mode=mode).items()}

    @model_serializer(mode="wrap")
    def _without_idle_fields(self, serialise: SerializerFunctionWrapHandler, info: SerializationInfo) -> dict[str, Any]:
        own = serialise(self)
        first = {key: own.pop(key) for key in ("augmentation", "augment_order") if key in own}
        values, idle = {**first, **self.flat_parameters(info.mode), **own}, self.idle
        return {key: value for key, value in values.items() if key not in idle}

    def parameters_of(self, name: str) -> str:
        """Return which set of random parameters a part of the observation uses: the parts of one set share them.

        A part of the next observation is named with NEXT before it; its goal is the observation's own.
        """
        part = name.removeprefix(NEXT)
        camera = "" if self.augment_cameras_alike else part.removeprefix(GOAL)
        if not self.augment_next_obs_goal_differently:
            return camera
        return f"{GOAL if part.startswith(GOAL) else NEXT if part != name else ''}{camera}"

    def sets(self, names: Iterable[str]) -> list[str]:
        """Return the sets of parameters that parts of these names need, sorted."""
        return sorted({self.parameters_of(name) for name in names})

    def check(self, shape: ObservationShape, obs_horizon: int = 1) -> None:
        """Raise UserError unless the pictures of what the policy sees can be augmented this way."""
        if not self.order:
            return
        pictures = {name: part for name, part in parts_of(shape).items() if is_picture(name)}
        if not pictures:
            raise UserError(f"augmentation={self.shown} changes pictures, and the policy sees none")
        for name, part in pictures.items():
            channels = part[-1] // frames_of(name, len(part), obs_horizon)
            for operation in self.operations:
                if operation.channels and channels not in operation.channels:
                    needed = " or ".join(map(str, operation.channels))
                    raise UserError(
                        f"augmentation={self.shown}: {name} has {channels} channels, {operation.name} needs {needed};"
                        " leave it out of augment_order, or that camera out of cameras"
                    )

    @property
    def shown(self) -> str:
        """What was given as `augmentation=`."""
        return self.augmentation if isinstance(self.augmentation, str) else f"[{','.join(self.augmentation)}]"


def frames_of(name: str, dims: int, obs_horizon: int) -> int:
    """Return the frames on the channels of one picture [H, W, n*C]; a sequence [n, H, W, C], like a goal, has one."""
    return 1 if dims == 4 or name.removeprefix(NEXT).startswith(GOAL) else obs_horizon
