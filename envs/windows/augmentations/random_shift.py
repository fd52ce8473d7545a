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
        pad, (height, width) = self.random_shift, values_BnCHW.shape[3:]
        shifts_B2 = torch.floor(uniforms_BD * (2 * pad + 1)).clamp(max=2 * pad).to(torch.int64) - pad
        rows, columns = (
            (torch.arange(size, device=shifts_B2.device) + shift).clamp(0, size - 1)
            for size, shift in ((height, shifts_B2[:, :1]), (width, shifts_B2[:, 1:]))
        )
        places = (rows[:, :, None] * width + columns[:, None, :]).flatten(1)[:, None, None]
        flat = values_BnCHW.flatten(3)
        return flat.gather(3, places.expand(flat.shape)).unflatten(3, (height, width))
