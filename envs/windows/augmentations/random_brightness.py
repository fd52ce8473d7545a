"""Brightness times a factor. (tf.image adds a delta instead.)"""

from __future__ import annotations

import torch
from pydantic import Field

from understudy.envs.windows.colours import Factors, amounts
from understudy.registry import augmentations
from understudy.spec.augmentation import Operation


@augmentations.register("random_brightness")
class RandomBrightness(Operation):
    """Multiply all pixels by a factor."""

    channels = (1, 3)

    random_brightness: Factors = Field(default=(0.8, 1.2), description="factors of brightness; x is [1 - x, 1 + x]")

    def apply(self, values_BnCHW: torch.Tensor, uniforms_BD: torch.Tensor) -> torch.Tensor:
        """Return f x."""
        return (values_BnCHW * amounts(self.random_brightness, uniforms_BD)).clamp(0.0, 1.0)
