"""How training pictures are changed at random: the keys of a run, and nothing that touches a picture.

`understudy.envs.windows.augmentation` applies these on the CPU (Albumentations, in loader workers) and
`understudy.trainables.loops.augmentation` on the device (batched torch), with the same distribution. Colours follow the
Albumentations and torchvision convention in [0, 1], clipped after each operation:

- `random_brightness`: pixels times a factor. (tf.image, in the JAX original of bridge_data_v2, adds a delta instead.)
- `random_contrast`: `f x + (1 - f) mean(grey)`, with one mean over the frame. (tf.image: a mean for each channel.)
- `random_saturation`: `f x + (1 - f) grey`. (tf.image scales S of HSV.)
- `random_hue`: H of HSV plus a share of the colour circle. (tf.image: the same.)
- `random_resized_crop`: as torchvision's, back to the picture's own size, bilinear.
- `random_shift`: DrQ's (arXiv 2004.13649), edges repeated by that many pixels and a crop of the picture's own size.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BeforeValidator, Field, field_validator, model_validator

from understudy.errors import UserError, did_you_mean
from understudy.observations import GOAL, ObservationShape, is_picture, parts_of
from understudy.spec.part import Part

SPATIAL = ("random_resized_crop", "random_shift")
COLOUR = ("random_brightness", "random_contrast", "random_saturation", "random_hue")
OPERATIONS = (*SPATIAL, *COLOUR)
PRESETS: dict[str, tuple[str, ...]] = {
    "none": (),
    "bridge": ("random_resized_crop", *COLOUR),
    "drq": ("random_shift",),
}
"""The order of operations that `augmentation=` stands for."""


def _factors(value: Any) -> Any:
    """Take a number x, or [x], as [1 - x, 1 + x], as ColorJitter does."""
    width = _one_number(value)
    return value if width is None else (max(0.0, 1.0 - width), 1.0 + width)


def _shifts(value: Any) -> Any:
    """Take a number x, or [x], as [-x, x]."""
    width = _one_number(value)
    return value if width is None else (-width, width)


def _one_number(value: Any) -> float | None:
    if isinstance(value, Sequence) and not isinstance(value, str) and len(value) == 1:
        value = value[0]
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    if value < 0:
        raise ValueError("a single number says how far to either side, and cannot be negative")
    return float(value)


def _preset(value: Any) -> Any:
    """Take the seed code's `augment: true` as bridge."""
    return {True: "bridge", False: "none"}[value] if isinstance(value, bool) else value


Factors = Annotated[tuple[float, float], BeforeValidator(_factors)]


class AugmentationConfig(Part):
    """What is done to training pictures; part of what is trained, and so of the fingerprint."""

    title: ClassVar[str] = "augmentation"

    augmentation: Annotated[Literal["none", "bridge", "drq"], BeforeValidator(_preset)] = Field(
        default="none", description="random changes of training pictures: bridge (crop, colours), drq (shift), none"
    )
    augment_order: tuple[str, ...] | None = Field(
        default=None, description="operations in the order they are applied; default: those of `augmentation`"
    )
    random_resized_crop_scale: tuple[float, float] = Field(
        default=(0.8, 1.0), description="share of the area that is kept"
    )
    random_resized_crop_ratio: tuple[float, float] = Field(
        default=(0.9, 1.1), description="width to height of the crop"
    )
    random_brightness: Factors = Field(default=(0.8, 1.2), description="factors of brightness; x is [1 - x, 1 + x]")
    random_contrast: Factors = Field(default=(0.8, 1.2), description="factors of contrast")
    random_saturation: Factors = Field(default=(0.8, 1.2), description="factors of saturation")
    random_hue: Annotated[tuple[float, float], BeforeValidator(_shifts)] = Field(
        default=(-0.1, 0.1), description="shifts along the colour circle, which is 1 long; x is [-x, x]"
    )
    random_shift: int = Field(default=4, ge=0, description="pixels that drq's shift may move a picture by")
    augment_next_obs_goal_differently: bool = Field(
        default=False, description="draw a goal's parameters apart from its observation's"
    )
    augment_cameras_alike: bool = Field(default=False, description="one set of parameters for all cameras of a sample")
    augment_saliency: bool = Field(default=False, description="crop and shift saliency maps as their pictures are")
    augment_where: Literal["workers", "device"] = Field(
        default="device", description="augment with Albumentations in loader workers, or in batches on the device"
    )

    @field_validator("augment_order")
    @classmethod
    def _known(cls, order: tuple[str, ...] | None) -> tuple[str, ...] | None:
        for name in order or ():
            if name not in OPERATIONS:
                raise ValueError(f"no operation {name!r}{did_you_mean(name, OPERATIONS)}")
        if order is not None and len(set(order)) != len(order):
            raise ValueError("names an operation twice")
        return order

    @model_validator(mode="after")
    def _ranges(self) -> AugmentationConfig:
        bounds = {
            "random_resized_crop_scale": (0.0, 1.0),
            "random_resized_crop_ratio": (0.0, float("inf")),
            **{name: (0.0, float("inf")) for name in COLOUR[:3]},
            "random_hue": (-0.5, 0.5),
        }
        for name, (lowest, highest) in bounds.items():
            low, high = getattr(self, name)
            if not lowest <= low <= high <= highest or (low == 0 and name.startswith("random_resized_crop")):
                raise ValueError(f"{name}=[{low:g}, {high:g}]: must rise, within {lowest:g} to {highest:g}")
        return self

    @property
    def idle(self) -> set[str]:
        """Every field, where nothing is done."""
        return super().idle if self.operations else set(type(self).model_fields)

    @property
    def operations(self) -> tuple[str, ...]:
        """The operations, in their order; none of them with augmentation=none."""
        if self.augmentation == "none" or self.augment_order is None:
            return PRESETS[self.augmentation]
        return self.augment_order

    def parameters_of(self, name: str) -> str:
        """Return which set of random parameters a part of the observation uses: the parts of one set share them."""
        camera = "" if self.augment_cameras_alike else name.removeprefix(GOAL)
        apart = name.startswith(GOAL) and self.augment_next_obs_goal_differently
        return (GOAL if apart else "") + camera

    def sets(self, names: Iterable[str]) -> list[str]:
        """Return the sets of parameters that parts of these names need, sorted."""
        return sorted({self.parameters_of(name) for name in names})

    def check(self, shape: ObservationShape, obs_horizon: int = 1) -> None:
        """Raise UserError unless the pictures of what the policy sees can be augmented this way."""
        if not self.operations:
            return
        pictures = {name: part for name, part in parts_of(shape).items() if is_picture(name)}
        if not pictures:
            raise UserError(f"augmentation={self.augmentation} changes pictures, and the policy sees none")
        for name, part in pictures.items():
            channels = part[-1] // frames_of(name, len(part), obs_horizon)
            if set(self.operations) & set(COLOUR) and channels not in (1, 3):
                raise UserError(
                    f"augmentation={self.augmentation} changes colours: {name} has {channels} channels, 1 or 3 are"
                    " needed; leave the colours out of augment_order, or that camera out of cameras"
                )


def frames_of(name: str, dims: int, obs_horizon: int) -> int:
    """Return the frames on the channels of one picture [H, W, n*C]; a sequence [n, H, W, C], like a goal, has one."""
    return 1 if dims == 4 or name.startswith(GOAL) else obs_horizon
