"""Residual networks for pictures: ResNetV1 with GroupNorm, BridgeData's and HIL-SERL's, and with frozen batch norm.

Both have torchvision's tensor names (conv1, bn1, layer1.0.conv1, layer2.0.downsample.0, ...), so that ImageNet weights
load by name; `bn1` is a GroupNorm in the bridge networks. They differ in more than the norm:

- bridge (BridgeData's ResNetV1): x / 127.5 - 1, swish, and padding as flax's SAME: at stride 2 an even side is padded
  at its end only. A bottleneck's last norm starts at scale 0.
- serl (HIL-SERL's ResNetV1, arXiv 2410.21845): as bridge, but for ImageNet's mean and deviation and relu.
- imagenet (arXiv 1512.03385 as torchvision has it): ImageNet's mean and deviation, relu, symmetric padding; the norm's
  numbers are buffers that no training changes. Without weights it is a network that has no normalisation at all.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, cast

import torch
from torch import nn
from torch.nn import functional

from understudy.registry import encoders
from understudy.spec.parts import Vision
from understudy.trainables.networks.blank import blank
from understudy.trainables.networks.pictures import EncoderFactory, PictureEncoder, max_pool_same
from understudy.trainables.networks.pooling import POOLINGS

STAGE_CHANNELS = (64, 128, 256, 512)
MEAN, DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""ImageNet's, of channels in [0, 1]."""
Family = Literal["bridge", "serl", "imagenet"]
ACTIVATIONS = {"bridge": functional.silu, "serl": functional.relu, "imagenet": functional.relu}


@dataclass(frozen=True)
class ResNetForm:
    """Blocks of each stage, whether they are bottlenecks (1x1, 3x3, 1x1), and whose conventions hold."""

    blocks: tuple[int, int, int, int]
    bottleneck: bool
    family: Family


RESNETS = {
    "resnetv1-18-bridge": ResNetForm((2, 2, 2, 2), False, "bridge"),
    "resnetv1-34-bridge": ResNetForm((3, 4, 6, 3), False, "bridge"),
    "resnetv1-50-bridge": ResNetForm((3, 4, 6, 3), True, "bridge"),
    "resnetv1-10": ResNetForm((1, 1, 1, 1), False, "serl"),
    "resnet10": ResNetForm((1, 1, 1, 1), False, "imagenet"),
    "resnet18": ResNetForm((2, 2, 2, 2), False, "imagenet"),
}


class FrozenBatchNorm(nn.Module):
    """Batch norm whose statistics, scale and shift are constants: buffers, so that no optimiser sees them."""

    weight: torch.Tensor
    bias: torch.Tensor
    running_mean: torch.Tensor
    running_var: torch.Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        for name, value in (("weight", 1.0), ("bias", 0.0), ("running_mean", 0.0), ("running_var", 1.0)):
            self.register_buffer(name, torch.full((channels,), value))

    def affine(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the scale and the shift, each [C], that this norm is."""
        scale = self.weight * (self.running_var + 1e-5).rsqrt()
        return scale, self.bias - self.running_mean * scale


def _norm(channels: int, family: Family) -> nn.GroupNorm | FrozenBatchNorm:
    return FrozenBatchNorm(channels) if family == "imagenet" else nn.GroupNorm(4, channels, eps=1e-5)


def _convolution(
    inputs: int, outputs: int, kernel: int, stride: int, family: Family, generator: torch.Generator
) -> nn.Conv2d:
    """Return a convolution without bias; He normal weights, by inputs (BridgeData) or by outputs (torchvision)."""
    layer = blank(nn.Conv2d, inputs, outputs, kernel, stride, kernel // 2, bias=False)
    fan = (outputs if family == "imagenet" else inputs) * kernel * kernel
    with torch.no_grad():
        layer.weight.normal_(0.0, math.sqrt(2 / fan), generator=generator)
    return layer


def _normalised(conv: nn.Module, norm: nn.Module, x: torch.Tensor) -> torch.Tensor:
    """Return norm(conv(x)). A frozen norm is folded into the weights, which spares passes over the map."""
    assert isinstance(conv, nn.Conv2d)
    if isinstance(norm, FrozenBatchNorm):
        scale, shift = norm.affine()
        weight = conv.weight * scale[:, None, None, None]
        return functional.conv2d(x, weight, shift, conv.stride, cast(tuple[int, int], conv.padding))
    height, width = x.shape[-2:]
    if conv.kernel_size == (3, 3) and conv.stride == (2, 2) and not (height % 2 and width % 2):
        x = functional.pad(x, (width % 2, 1, height % 2, 1))
        return norm(functional.conv2d(x, conv.weight, stride=2))
    return norm(conv(x))


def _pixel_statistics(channels: int, family: Family) -> tuple[torch.Tensor, torch.Tensor]:
    """Return mean and deviation, each [C], that pixels in [0, 1] are scaled by.

    ImageNet's repeat with every three channels, one frame; pictures of other channels get their averages.
    """
    if family == "bridge":
        return torch.full((channels,), 0.5), torch.full((channels,), 0.5)
    mean, deviation = torch.tensor(MEAN), torch.tensor(DEVIATION)
    if channels % len(MEAN):
        return mean.mean().repeat(channels), deviation.mean().repeat(channels)
    return mean.repeat(channels // len(MEAN)), deviation.repeat(channels // len(MEAN))


class Block(nn.Module):
    """act(x + f(x)): two 3x3 convolutions, or in a bottleneck 1x1, 3x3 and 1x1 to four times the channels."""

    def __init__(self, inputs: int, channels: int, stride: int, form: ResNetForm, generator: torch.Generator) -> None:
        super().__init__()
        family, self.depth = form.family, 3 if form.bottleneck else 2
        self.outputs = channels * 4 if form.bottleneck else channels
        self.act = ACTIVATIONS[family]
        widths = (inputs, *[channels] * (self.depth - 1), self.outputs)
        kernels, strides = ((1, 3, 1), (1, stride, 1)) if form.bottleneck else ((3, 3), (stride, 1))
        for index in range(self.depth):
            before, after = widths[index : index + 2]
            layer = _convolution(before, after, kernels[index], strides[index], family, generator)
            self.add_module(f"conv{index + 1}", layer)
            self.add_module(f"bn{index + 1}", _norm(after, family))
        self.downsample = None
        if stride > 1 or inputs != self.outputs:
            shortcut = _convolution(inputs, self.outputs, 1, stride, family, generator)
            self.downsample = nn.Sequential(shortcut, _norm(self.outputs, family))
        if form.bottleneck and family != "imagenet":
            nn.init.zeros_(self.get_parameter("bn3.weight"))

    def forward(self, x_BCHW: torch.Tensor) -> torch.Tensor:
        """Return [B, outputs, ceil(H / stride), ceil(W / stride)]."""
        inner = x_BCHW
        for index in range(1, self.depth + 1):
            inner = _normalised(getattr(self, f"conv{index}"), getattr(self, f"bn{index}"), inner)
            inner = self.act(inner) if index < self.depth else inner
        if self.downsample is not None:
            x_BCHW = _normalised(self.downsample[0], self.downsample[1], x_BCHW)
        return self.act(x_BCHW + inner)


class ResNet(PictureEncoder):
    """Encode pictures into the pooled map of the last stage, 512 channels (2048 of bottlenecks) at 1/32 of the size."""

    gain: torch.Tensor
    offset: torch.Tensor

    def __init__(
        self,
        shape: tuple[int, ...],
        form: ResNetForm,
        generator: torch.Generator,
        *,
        pooling: str | None = None,
        add_spatial_coordinates: bool = False,
    ) -> None:
        super().__init__(shape, add_spatial_coordinates)
        height, width, channels = shape
        self.family = form.family
        self.conv1 = _convolution(self.channels, STAGE_CHANNELS[0], 7, 2, form.family, generator)
        self.bn1 = _norm(STAGE_CHANNELS[0], form.family)
        inputs = STAGE_CHANNELS[0]
        for stage, (blocks, outputs) in enumerate(zip(form.blocks, STAGE_CHANNELS, strict=True)):
            layer = nn.Sequential()
            for index in range(blocks):
                block = Block(inputs, outputs, 2 if stage and not index else 1, form, generator)
                layer.append(block)
                inputs = block.outputs
            self.add_module(f"layer{stage + 1}", layer)
        for _ in range(5):
            height, width = math.ceil(height / 2), math.ceil(width / 2)
        self.map_shape = (inputs, height, width)
        self.pooling = POOLINGS[pooling or "avg"](self.map_shape, generator)
        self.features = self.pooling.features
        mean, deviation = _pixel_statistics(channels, form.family)
        self.register_buffer("gain", (1 / (255 * deviation))[:, None, None], persistent=False)
        self.register_buffer("offset", (mean / deviation)[:, None, None], persistent=False)

    def scale(self, x_BCHW: torch.Tensor) -> torch.Tensor:
        """Return values in [-1, 1] (bridge), else of mean 0 and deviation 1 over ImageNet."""
        return x_BCHW * self.gain - self.offset

    def convolve(self, x_BCHW: torch.Tensor) -> torch.Tensor:
        """Return the last stage's map."""
        x = ACTIVATIONS[self.family](_normalised(self.conv1, self.bn1, x_BCHW))
        x = functional.max_pool2d(x, 3, stride=2, padding=1) if self.family == "imagenet" else max_pool_same(x)
        for stage in range(1, len(STAGE_CHANNELS) + 1):
            x = getattr(self, f"layer{stage}")(x)
        return x

    def summarise(self, map_BCHW: torch.Tensor) -> torch.Tensor:
        """Return the pooled map."""
        return self.pooling(map_BCHW)


def _of(form: ResNetForm) -> EncoderFactory:
    def build(shape: tuple[int, int, int], config: Vision, generator: torch.Generator) -> ResNet:
        pooling, coordinates = config.pooling, config.add_spatial_coordinates
        return ResNet(shape, form, generator, pooling=pooling, add_spatial_coordinates=coordinates)

    return build


for _name, _form in RESNETS.items():
    encoders.register(_name)(_of(_form))
