"""Draw the encoder's attention to where people looked: the saliency regularisation of the BridgeData ports.

A mask made from the encoder's last convolutional map, before pooling, is compared with the demonstration's saliency.
Two published forms of the mask exist and both are here. Shape suffixes: B samples, C channels, h x w the map, H x W
the picture.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Annotated, Any, ClassVar, Literal

import torch
from pydantic import Field
from torch.nn import functional

from understudy.algorithm import Batch
from understudy.envs.store.store import SALIENCY
from understudy.spec.learning import AlgorithmConfig, Sampling
from understudy.spec.part import Needs, PerMember

TINY = 1e-8
"""Added to what a mask is divided by."""


class Saliency(AlgorithmConfig):
    """Regularisation of the encoder by saliency maps."""

    title: ClassVar[str] = "saliency maps"

    saliency_weight: Annotated[float, PerMember()] = Field(
        default=0.0, ge=0, description="weight of the saliency regularisation; 0: none"
    )
    saliency_mask: Annotated[Literal["minmax", "softmax"], Needs("saliency_weight")] = Field(
        default="minmax", description="how a map becomes a mask: mean magnitude by its range, or a spatial softmax"
    )
    saliency_beta: Annotated[float, Needs("saliency_weight")] = Field(
        default=1.0, gt=0, description="minmax: power of the mask; softmax: temperature"
    )
    saliency_alpha: Annotated[float, Needs("saliency_weight"), Needs("obs_horizon>=2")] = Field(
        default=0.0, ge=0, le=1, description="weight of each earlier frame's saliency; 0: the newest frame's alone"
    )

    @property
    def sampling(self) -> Sampling:
        """Maps are needed where the regularisation has a weight."""
        return replace(super().sampling, saliency_alpha=self.saliency_alpha if self.saliency_weight else None)


def minmax_mask(map_BCHW: torch.Tensor, beta: float, size: tuple[int, int]) -> torch.Tensor:
    """Return [B, H, W, 1]: mean |z| over channels, by each sample's range to [0, 1], to the power beta, bilinear."""
    mean_B1HW = map_BCHW.abs().mean(1, keepdim=True)
    low, high = mean_B1HW.amin((1, 2, 3), keepdim=True), mean_B1HW.amax((1, 2, 3), keepdim=True)
    mask = ((mean_B1HW - low) / (high - low + TINY)).clamp(min=TINY).pow(beta)
    return functional.interpolate(mask, size, mode="bilinear", align_corners=False).clamp(0, 1).movedim(1, -1)


def softmax_mask(map_BCHW: torch.Tensor, beta: float, size: tuple[int, int]) -> torch.Tensor:
    """Return [B, H, W, 1]: sum |z| over channels, softmax over places at temperature beta, bicubic, by its maximum."""
    height, width = map_BCHW.shape[-2:]
    logits_BN = map_BCHW.abs().sum(1).flatten(1) / beta
    mask = logits_BN.softmax(-1).unflatten(1, (1, height, width))
    mask = functional.interpolate(mask, size, mode="bicubic", align_corners=False)
    return (mask / (mask.amax((1, 2, 3), keepdim=True) + TINY)).movedim(1, -1)


MASKS = {"minmax": minmax_mask, "softmax": softmax_mask}


def with_saliency(
    loss: torch.Tensor,
    metrics: dict[str, torch.Tensor],
    maps: Mapping[str, torch.Tensor],
    batch: Batch,
    config: Saliency,
) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """Return loss + weight * MSE(mask, saliency), averaged over the cameras that have maps, and the metrics of both."""
    if config.saliency_weight == 0:
        return loss, metrics
    wanted: dict[str, Any] = {name.removeprefix(SALIENCY): batch[name] for name in batch if name.startswith(SALIENCY)}
    mask = MASKS[config.saliency_mask]
    errors = []
    for camera, saliency_BHW1 in wanted.items():
        height, width = saliency_BHW1.shape[1:3]
        found_BHW1 = mask(maps[camera].float(), config.saliency_beta, (height, width))
        errors.append((found_BHW1 - saliency_BHW1).square().mean())
    penalty = torch.stack(errors).mean()
    total = loss + config.saliency_weight * penalty
    return total, {**metrics, "saliency_reg": penalty, "total_loss": total}
