"""From a convolutional map to a vector: the poolings that encoders offer, and the coordinates some of them use.

Names and sizes are those of BridgeData's ResNetV1. Shape suffixes: B samples, C channels, H x W the map, K kernels.
"""

from __future__ import annotations

import math

import torch
from torch import nn

LEARNED_EMBEDDINGS = 8
"""Kernels of spatial_learned_embeddings, each giving one number a channel."""


def coordinates(height: int, width: int) -> torch.Tensor:
    """Return [2, H, W]: each place's row and column, from -1 to 1 (0 where there is but one)."""
    rows, columns = (torch.linspace(-1.0, 1.0, size) if size > 1 else torch.zeros(1) for size in (height, width))
    return torch.stack(torch.meshgrid(rows, columns, indexing="ij"))


class Average(nn.Module):
    """The mean over the map: C features."""

    def __init__(self, shape: tuple[int, int, int], generator: torch.Generator) -> None:
        super().__init__()
        self.features = shape[0]

    def forward(self, map_BCHW: torch.Tensor) -> torch.Tensor:
        """Return [B, C]."""
        return map_BCHW.mean((-2, -1))


class Maximum(nn.Module):
    """The maximum over the map: C features."""

    def __init__(self, shape: tuple[int, int, int], generator: torch.Generator) -> None:
        super().__init__()
        self.features = shape[0]

    def forward(self, map_BCHW: torch.Tensor) -> torch.Tensor:
        """Return [B, C]."""
        return map_BCHW.amax((-2, -1))


class Flatten(nn.Module):
    """The whole map, channel by channel: C * H * W features."""

    def __init__(self, shape: tuple[int, int, int], generator: torch.Generator) -> None:
        super().__init__()
        self.features = math.prod(shape)

    def forward(self, map_BCHW: torch.Tensor) -> torch.Tensor:
        """Return [B, C * H * W]."""
        return map_BCHW.flatten(1)


class SpatialSoftmax(nn.Module):
    """Where each channel is active: the mean place under a softmax over the map, 2C features (arXiv 1504.00702)."""

    places: torch.Tensor

    def __init__(self, shape: tuple[int, int, int], generator: torch.Generator) -> None:
        super().__init__()
        channels, height, width = shape
        self.features = 2 * channels
        self.register_buffer("places", coordinates(height, width).flatten(1), persistent=False)

    def forward(self, map_BCHW: torch.Tensor) -> torch.Tensor:
        """Return [B, 2C]: the columns of all channels, then their rows, each in [-1, 1]."""
        rows_BC, columns_BC = (map_BCHW.flatten(2).softmax(-1) @ self.places.t()).unbind(-1)
        return torch.cat((columns_BC, rows_BC), dim=-1)


class SpatialLearnedEmbeddings(nn.Module):
    """Sums over the map with eight learned weightings of each channel: 8C features."""

    def __init__(self, shape: tuple[int, int, int], generator: torch.Generator) -> None:
        super().__init__()
        self.features = LEARNED_EMBEDDINGS * shape[0]
        deviation = 1 / math.sqrt(math.prod(shape))
        self.kernel = nn.Parameter(torch.empty(*shape, LEARNED_EMBEDDINGS).normal_(0.0, deviation, generator=generator))

    def forward(self, map_BCHW: torch.Tensor) -> torch.Tensor:
        """Return [B, 8C], the eight numbers of a channel beside each other."""
        return torch.einsum("bchw,chwk->bck", map_BCHW, self.kernel).flatten(1)


POOLINGS = {
    "avg": Average,
    "max": Maximum,
    "none": Flatten,
    "spatial_softmax": SpatialSoftmax,
    "spatial_learned_embeddings": SpatialLearnedEmbeddings,
}
