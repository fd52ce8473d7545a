"""Shifts by whole pixels (DrQ, arXiv 2004.13649)."""

from __future__ import annotations

import torch
from pydantic import Field

from understudy.registry import augmentations
from understudy.spec.augmentation import Operation


@augmentations.register("random_shift")
class RandomShift(Operation):
    """Repeat the edges by a number of pixels, and crop the picture's own size at a uniform place."""

    numbers = 2
    moves = True
    whole_levels = True

    random_shift: int = Field(default=4, ge=0, description="pixels that drq's shift may move a picture by")

    def apply(self, values_BnCHW: torch.Tensor, uniforms_BD: torch.Tensor) -> torch.Tensor:
        """Return pictures moved by up to `random_shift` pixels each way: the first number is down, the second right."""
        pad = self.random_shift
        shifts = torch.floor(uniforms_BD * (2 * pad + 1)).clamp(max=2 * pad).to(torch.int64) - pad
        for axis, shift in ((3, shifts[:, 0]), (4, shifts[:, 1])):
            size = values_BnCHW.shape[axis]
            places = (torch.arange(size, device=shift.device) + shift[:, None]).clamp(0, size - 1)
            shape = [-1, 1, 1, 1, 1]
            shape[axis] = size
            values_BnCHW = values_BnCHW.gather(axis, places.reshape(shape).expand(values_BnCHW.shape))
        return values_BnCHW
