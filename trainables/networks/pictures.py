"""What every picture encoder has in common: uint8 pictures in, a convolutional map, a vector out.

Shape suffixes: B pictures, H x W pixels of C channels, c x h x w the last convolutional map, F features.
"""

from __future__ import annotations

import abc
from typing import TYPE_CHECKING, ClassVar, Protocol, Self

import torch
from torch import nn
from torch.nn import functional

from understudy.trainables.networks.pooling import coordinates

if TYPE_CHECKING:
    from understudy.spec.parts import Vision


class PictureEncoder(nn.Module, abc.ABC):
    """Turns pictures of one shape into vectors. Kinds of it scale the pixels, convolve them and pool the map."""

    map_shape: tuple[int, int, int]
    """Shape [c, h, w] of the last convolutional map."""
    features: int
    """Length F of the vector."""
    head: ClassVar[tuple[str, ...]] = ("pooling",)
    """Modules that make the vector of the map."""
    coordinates: torch.Tensor | None

    def __init__(self, shape: tuple[int, ...], add_spatial_coordinates: bool) -> None:
        super().__init__()
        height, width, channels = shape
        self.shape = (height, width, channels)
        self.channels = channels + 2 * add_spatial_coordinates
        grid = coordinates(height, width) if add_spatial_coordinates else None
        self.register_buffer("coordinates", grid, persistent=False)

    def forward(self, pixels_BHWC: torch.Tensor) -> torch.Tensor:
        """Return features [B, F] of pictures [B, H, W, C], whose values are 0 to 255."""
        return self.summarise(self.map(pixels_BHWC))

    def without_head(self) -> Self:
        """Remove what comes after the map, in place, and return the encoder."""
        for name in self.head:
            delattr(self, name)
        self.features = 0
        return self

    def map(self, pixels_BHWC: torch.Tensor) -> torch.Tensor:
        """Return the last convolutional map [B, c, h, w], activated, not yet pooled."""
        # Moved, not copied: with the channels last in memory, IMPALA is half as fast again on CPUs, a ResNet no slower.
        x_BCHW = self.scale(pixels_BHWC.movedim(-1, -3).to(torch.float32))
        if self.coordinates is not None:
            grid = self.coordinates.expand(x_BCHW.shape[0], -1, -1, -1)
            x_BCHW = torch.cat((x_BCHW, grid), dim=1)
        return self.convolve(x_BCHW)

    @abc.abstractmethod
    def scale(self, x_BCHW: torch.Tensor) -> torch.Tensor:
        """Return what the network was meant to see of values 0 to 255."""

    @abc.abstractmethod
    def convolve(self, x_BCHW: torch.Tensor) -> torch.Tensor:
        """Return the last convolutional map of scaled pictures."""

    @abc.abstractmethod
    def summarise(self, map_BCHW: torch.Tensor) -> torch.Tensor:
        """Return the features [B, F] of a map."""


class EncoderFactory(Protocol):
    """What `encoder=` names: a PictureEncoder's class, or a function that makes one."""

    def __call__(self, shape: tuple[int, int, int], config: Vision, generator: torch.Generator, /) -> PictureEncoder:
        """Return an encoder of pictures [H, W, C] as `config` says, its weights drawn from `generator` alone."""
        ...


def max_pool_same(x: torch.Tensor) -> torch.Tensor:
    """Return the maximum over 3x3 windows at stride 2, padded as XLA's SAME does.

    An odd side is padded at both ends, an even one at its end only, which is what ceil_mode does.
    """
    height, width = x.shape[-2:]
    return functional.max_pool2d(x, 3, stride=2, padding=(height % 2, width % 2), ceil_mode=True)
