"""Contrast: distances from a frame's mean grey times a factor. (tf.image: from the mean of each channel.)"""

from __future__ import annotations

import torch
from pydantic import Field

from understudy.envs.windows.colours import Factors, amounts, grey
from understudy.registry import augmentations
from understudy.spec.augmentation import Operation


@augmentations.register("random_contrast")
class RandomContrast(Operation):
    """Move the pixels of a frame towards its mean grey, or away from it."""

    channels = (1, 3)

    random_contrast: Factors = Field(default=(0.8, 1.2), description="factors of contrast")

    def apply(self, values_BnCHW: torch.Tensor, uniforms_BD: torch.Tensor) -> torch.Tensor:
        """Return f x + (1 - f) mean(grey)."""
        factors = amounts(self.random_contrast, uniforms_BD)
        means = grey(values_BnCHW).mean(dim=(2, 3, 4), keepdim=True)
        return (values_BnCHW * factors + means * (1.0 - factors)).clamp(0.0, 1.0)
