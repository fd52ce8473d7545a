"""IMPALA's residual network for pictures (arXiv 1802.01561), in the sizes of Q-chunking's code (arXiv 2507.07969).

x / 255; stacks of a convolution, a max-pool and residual blocks; relu; flattened (or pooled); one dense layer.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional

from understudy.registry import encoders
from understudy.spec.parts import Vision
from understudy.trainables.networks.blank import blank
from understudy.trainables.networks.mlp import MLP
from understudy.trainables.networks.pictures import EncoderFactory, PictureEncoder, max_pool_same
from understudy.trainables.networks.pooling import POOLINGS


@dataclass(frozen=True)
class ImpalaSize:
    """Channels of each stack, residual blocks a stack, and the width of the dense layer."""

    stacks: tuple[int, ...]
    blocks: int
    width: int


IMPALAS = {
    "impala_small": ImpalaSize((16, 32, 32), 1, 512),
    "impala": ImpalaSize((16, 32, 32), 2, 512),
    "impala_large": ImpalaSize((64, 128, 128), 2, 1024),
}


def convolution(inputs: int, outputs: int, generator: torch.Generator) -> nn.Conv2d:
    """Return a 3x3 convolution that keeps the picture's size."""
    layer = blank(nn.Conv2d, inputs, outputs, 3, padding=1)
    nn.init.xavier_uniform_(layer.weight, generator=generator)
    assert layer.bias is not None
    nn.init.zeros_(layer.bias)
    return layer


class ResidualStack(nn.Module):
    """One stage of IMPALA: convolution, max-pool 3x3 stride 2 (SAME), then residual blocks."""

    def __init__(self, inputs: int, outputs: int, blocks: int, generator: torch.Generator) -> None:
        super().__init__()
        self.first = convolution(inputs, outputs, generator)
        self.blocks = nn.ModuleList(
            nn.ModuleList(convolution(outputs, outputs, generator) for _ in range(2)) for _ in range(blocks)
        )

    def forward(self, x_BCHW: torch.Tensor) -> torch.Tensor:
        """Return [B, outputs, ceil(H / 2), ceil(W / 2)]."""
        x = max_pool_same(self.first(x_BCHW))
        for block in self.blocks:
            assert isinstance(block, nn.ModuleList)
            inner = x
            for layer in block:
                inner = layer(functional.relu(inner))
            x = x + inner
        return x


class ImpalaEncoder(PictureEncoder):
    """Encode pictures into [B, width] features."""

    head = ("pooling", "dense")

    def __init__(
        self,
        shape: tuple[int, ...],
        size: ImpalaSize,
        generator: torch.Generator,
        *,
        pooling: str | None = None,
        add_spatial_coordinates: bool = False,
    ) -> None:
        super().__init__(shape, add_spatial_coordinates)
        height, width, _ = shape
        sizes = [self.channels, *size.stacks]
        self.stacks = nn.ModuleList(ResidualStack(a, b, size.blocks, generator) for a, b in itertools.pairwise(sizes))
        for _ in size.stacks:
            height, width = math.ceil(height / 2), math.ceil(width / 2)
        self.map_shape, self.features = (sizes[-1], height, width), size.width
        self.pooling = POOLINGS[pooling or "none"](self.map_shape, generator)
        self.dense = MLP(self.pooling.features, (size.width,), generator, activate_final=True)

    def scale(self, x_BCHW: torch.Tensor) -> torch.Tensor:
        """Return values in [0, 1]."""
        return x_BCHW / 255.0

    def convolve(self, x_BCHW: torch.Tensor) -> torch.Tensor:
        """Return the last stack's map after its relu."""
        for stack in self.stacks:
            x_BCHW = stack(x_BCHW)
        return functional.relu(x_BCHW)

    def summarise(self, map_BCHW: torch.Tensor) -> torch.Tensor:
        """Return the dense layer's features [B, width]."""
        return self.dense(self.pooling(map_BCHW))


def _of(size: ImpalaSize) -> EncoderFactory:
    def build(shape: tuple[int, int, int], config: Vision, generator: torch.Generator) -> ImpalaEncoder:
        pooling, coordinates = config.pooling, config.add_spatial_coordinates
        return ImpalaEncoder(shape, size, generator, pooling=pooling, add_spatial_coordinates=coordinates)

    return build


for _name, _size in IMPALAS.items():
    encoders.register(_name)(_of(_size))
