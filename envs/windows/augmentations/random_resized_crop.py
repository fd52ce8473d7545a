"""Crops of random area and shape, back to the picture's own size: torchvision's RandomResizedCrop, bilinear."""

from __future__ import annotations

import math
from typing import Annotated

import torch
from pydantic import Field
from torch.nn import functional

from understudy.envs.windows.colours import rising
from understudy.registry import augmentations
from understudy.spec.augmentation import Operation

ATTEMPTS = 10
"""Crops that are drawn until one fits, as in torchvision and Albumentations; then it is the centre."""


@augmentations.register("random_resized_crop")
class RandomResizedCrop(Operation):
    """Cut a box out of the picture, and enlarge it to the picture's size."""

    numbers = 4 * ATTEMPTS
    moves = True

    random_resized_crop_scale: Annotated[tuple[float, float], rising(0.0, 1.0, above=True)] = Field(
        default=(0.8, 1.0), description="share of the area that is kept"
    )
    random_resized_crop_ratio: Annotated[tuple[float, float], rising(0.0, above=True)] = Field(
        default=(0.9, 1.1), description="width to height of the crop"
    )

    def apply(self, values_BnCHW: torch.Tensor, uniforms_BD: torch.Tensor) -> torch.Tensor:
        """Return each sample's own box."""
        height, width = values_BnCHW.shape[-2:]
        boxes = crop_boxes(uniforms_BD, height, width, self.random_resized_crop_scale, self.random_resized_crop_ratio)
        return resized_crop(values_BnCHW, *boxes)


def crop_boxes(
    uniforms: torch.Tensor, height: int, width: int, scale: tuple[float, float], ratio: tuple[float, float]
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return x, y, w, h [B] of crops, in whole pixels; `uniforms` are [B, 40] in [0, 1).

    The area is uniform in `scale`, w/h log-uniform in `ratio`; the first of ten such boxes that fits into the picture
    is put at a uniform place. If none fits, the largest centred one of an allowed ratio is taken.
    """
    area, aspect, down, right = uniforms.unflatten(1, (ATTEMPTS, 4)).unbind(2)
    area = height * width * (scale[0] + (scale[1] - scale[0]) * area)
    lowest, highest = math.log(ratio[0]), math.log(ratio[1])
    aspect = torch.exp(lowest + (highest - lowest) * aspect)
    w, h = torch.round(torch.sqrt(area * aspect)), torch.round(torch.sqrt(area / aspect))
    fits = (w > 0) & (w <= width) & (h > 0) & (h <= height)
    first = fits.to(torch.uint8).argmax(dim=1, keepdim=True)
    w, h, down, right = (values.gather(1, first)[:, 0] for values in (w, h, down, right))
    x = torch.minimum(torch.floor((width - w + 1) * right), width - w)
    y = torch.minimum(torch.floor((height - h + 1) * down), height - h)
    centre_w, centre_h = _largest(height, width, ratio)
    centred = ((width - centre_w) // 2, (height - centre_h) // 2, centre_w, centre_h)
    found = fits.any(dim=1)
    x, y, w, h = (torch.where(found, value, float(other)) for value, other in zip((x, y, w, h), centred, strict=True))
    return x, y, w, h


def _largest(height: int, width: int, ratio: tuple[float, float]) -> tuple[int, int]:
    """Return width and height of the largest box whose ratio is allowed."""
    if width / height < ratio[0]:
        return width, round(width / ratio[0])
    if width / height > ratio[1]:
        return round(height * ratio[1]), height
    return width, height


def resized_crop(
    values_BnCHW: torch.Tensor, x: torch.Tensor, y: torch.Tensor, w: torch.Tensor, h: torch.Tensor
) -> torch.Tensor:
    """Return each sample's box at the pictures' own size: bilinear between pixel centres, edges repeated (cv2's)."""
    height, width = values_BnCHW.shape[-2:]
    rows = _places(y, h, height, values_BnCHW)
    columns = _places(x, w, width, values_BnCHW)
    grid = torch.stack(
        [columns[:, None, :].expand(-1, height, -1), rows[:, :, None].expand(-1, -1, width)], dim=-1
    )  # [B, H, W, 2]
    flat = values_BnCHW.flatten(1, 2)
    return functional.grid_sample(flat, grid, mode="bilinear", padding_mode="border", align_corners=True).unflatten(
        1, values_BnCHW.shape[1:3]
    )


def _places(start: torch.Tensor, length: torch.Tensor, size: int, like: torch.Tensor) -> torch.Tensor:
    """Return where `size` output pixels lie in the picture, [B, size], as grid_sample counts: -1 to 1."""
    steps = torch.arange(size, device=like.device, dtype=like.dtype) + 0.5
    inside = torch.minimum((steps * (length[:, None] / size) - 0.5).clamp(min=0.0), length[:, None] - 1)
    return (start[:, None] + inside) * (2.0 / max(size - 1, 1)) - 1.0
