"""Hue: H of HSV plus a share of the colour circle, as in tf.image."""

from __future__ import annotations

import torch
from pydantic import Field

from understudy.envs.windows.colours import Shifts, amounts
from understudy.registry import augmentations
from understudy.spec.augmentation import Operation


@augmentations.register("random_hue")
class RandomHue(Operation):
    """Turn the colours; a single channel stays as it is."""

    channels = (1, 3)

    random_hue: Shifts = Field(
        default=(-0.1, 0.1), description="shifts along the colour circle, which is 1 long; x is [-x, x]"
    )

    def apply(self, values_BnCHW: torch.Tensor, uniforms_BD: torch.Tensor) -> torch.Tensor:
        """Return the same saturation and value (largest channel) at another hue, without a branch on the hue.

        With a hue h in sixths of the circle, cyan at 0 and red at +-3, and the channels as shares of the chroma above
        the least: |h| = 2 + r - g - b, and h is below 0 where g > b. Back, red lacks clip(2 - |h|, 0, 1) of the chroma,
        green clip(|h + 1| - 1, 0, 1), blue clip(|h - 1| - 1, 0, 1).
        """
        if values_BnCHW.shape[2] == 1:
            return values_BnCHW
        red, green, blue = values_BnCHW.unbind(2)
        most, least = torch.maximum(red, green).maximum(blue), torch.minimum(red, green).minimum(blue)
        chroma = most - least
        distance = 2.0 + (red - green - blue + least) / chroma.clamp(min=1e-12)
        hue = torch.copysign(distance, blue - green) + 6.0 * amounts(self.random_hue, uniforms_BD)[:, :, 0]
        hue = hue - 6.0 * torch.round(hue / 6.0)
        lacking = (2.0 - hue.abs(), (hue + 1.0).abs() - 1.0, (hue - 1.0).abs() - 1.0)
        return torch.stack([most - chroma * share.clamp(0.0, 1.0) for share in lacking], dim=2)
