"""Saturation: distances from grey times a factor. (tf.image scales S of HSV.)"""

from __future__ import annotations

import torch
from pydantic import Field

from understudy.envs.windows.colours import Factors, amounts, grey
from understudy.registry import augmentations
from understudy.spec.augmentation import Operation


@augmentations.register("random_saturation")
class RandomSaturation(Operation):
    """Move each pixel towards its own grey, or away from it; a single channel stays as it is."""

    channels = (1, 3)

    random_saturation: Factors = Field(default=(0.8, 1.2), description="factors of saturation")

    def apply(self, values_BnCHW: torch.Tensor, uniforms_BD: torch.Tensor) -> torch.Tensor:
        """Return f x + (1 - f) grey."""
        if values_BnCHW.shape[2] == 1:
            return values_BnCHW
        factors = amounts(self.random_saturation, uniforms_BD)
        return (values_BnCHW * factors + grey(values_BnCHW) * (1.0 - factors)).clamp(0.0, 1.0)
