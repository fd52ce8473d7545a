"""Networks that the algorithms share: MLP, Fourier features of time, the IMPALA pixel encoder, vector field.

Every builder draws its weights from the `torch.Generator` it is given and leaves the global random state
alone, so that a network is a pure function of (configuration, seed). Weights are fan-average uniform
(Xavier) and biases zero, as in Q-chunking (arXiv 2507.07969). Nothing here knows of losses or optimisers.
Shape suffixes: B samples, F features, C channels.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import nn
from torch.nn import functional
from torch.nn.utils import skip_init

from understudy.errors import SpecError, UnknownName, did_you_mean


@dataclass(frozen=True)
class ImpalaSize:
    """Channels of each stack, residual blocks a stack, and the width of the dense layer."""

    stacks: tuple[int, ...]
    blocks: int
    width: int


ENCODERS = {
    "impala_small": ImpalaSize((16, 32, 32), 1, 512),
    "impala": ImpalaSize((16, 32, 32), 2, 512),
    "impala_large": ImpalaSize((64, 128, 128), 2, 1024),
}


def linear(inputs: int, outputs: int, generator: torch.Generator) -> nn.Linear:
    """Return a dense layer with Xavier uniform weights and zero bias."""
    layer = cast(nn.Linear, skip_init(nn.Linear, inputs, outputs))
    nn.init.xavier_uniform_(layer.weight, generator=generator)
    nn.init.zeros_(layer.bias)
    return layer


def convolution(inputs: int, outputs: int, generator: torch.Generator) -> nn.Conv2d:
    """Return a 3x3 convolution that keeps the image's size."""
    layer = cast(nn.Conv2d, skip_init(nn.Conv2d, inputs, outputs, 3, padding=1))
    nn.init.xavier_uniform_(layer.weight, generator=generator)
    assert layer.bias is not None
    nn.init.zeros_(layer.bias)
    return layer


GELU_LINEAR = 2.0 * math.sqrt(2.0 / math.pi)
GELU_CUBIC = 0.044715 * GELU_LINEAR
_GELU_LINEAR = torch.tensor(GELU_LINEAR)


def gelu(x: torch.Tensor) -> torch.Tensor:
    """Return GELU in its tanh form, the activation of every MLP here."""
    # Below some thousand numbers the four calls cost more than the faster arithmetic saves.
    if _in_pieces(x) and x.numel() >= 4096 and not torch.is_grad_enabled():
        return x * _gelu_gate(x)
    return functional.gelu(x, approximate="tanh")


def _in_pieces(x: torch.Tensor) -> bool:
    """Whether tanh-GELU is faster here as x * sigmoid(u): on CPUs ATen's kernel takes 2.8 times as long."""
    return x.device.type == "cpu" and x.dtype == torch.float32


def _gelu_gate(x: torch.Tensor) -> torch.Tensor:
    """Return sigmoid(u), u = x (GELU_LINEAR + GELU_CUBIC x^2), which is the tanh form's 0.5 (1 + tanh(u / 2))."""
    return torch.addcmul(_GELU_LINEAR, x, x, value=GELU_CUBIC).mul_(x).sigmoid_()


def _gelu_slope(x: torch.Tensor, gate: torch.Tensor) -> torch.Tensor:
    """Return gate + x u' gate (1 - gate), with u' = GELU_LINEAR + 3 GELU_CUBIC x^2."""
    slope = torch.addcmul(_GELU_LINEAR, x, x, value=3.0 * GELU_CUBIC).mul_(x)
    return torch.ops.aten.sigmoid_backward(slope, gate).add_(gate)


class _Layers(torch.autograd.Function):
    """All dense layers and tanh-GELUs of an MLP as one node of the graph: a small network's step is mostly overhead.

    The forward pass also returns what the backward pass needs, so that torch.func can stack it too.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(x: torch.Tensor, activated: int, *parameters: torch.Tensor) -> tuple[torch.Tensor, ...]:  # type: ignore[override]
        count, hidden, kept = len(parameters) // 2, x, []
        for index in range(count):
            hidden = functional.linear(hidden, parameters[2 * index], parameters[2 * index + 1])
            if index < activated:
                gate = _gelu_gate(hidden)
                kept += [hidden, gate]
                hidden = hidden * gate
                kept += [hidden] if index < count - 1 else []
        return (hidden, *kept)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[torch.Tensor, ...]) -> None:
        ctx.mark_non_differentiable(*output[1:])
        ctx.set_materialize_grads(False)
        ctx.activated, ctx.count = inputs[1], (len(inputs) - 2) // 2
        ctx.save_for_backward(*inputs[2::2], inputs[0], *output[1:])

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor, *_: None) -> tuple[torch.Tensor | None, ...]:  # type: ignore[override]
        weights, kept = ctx.saved_tensors[: ctx.count], list(ctx.saved_tensors[ctx.count :])
        gradients: list[torch.Tensor | None] = [None] * (2 * ctx.count)
        for index in reversed(range(ctx.count)):
            if index < ctx.activated:
                gate, before = kept.pop(), kept.pop()
                grad = _gelu_slope(before, gate).mul_(grad)
            gradients[2 * index] = grad.t() @ kept.pop()
            gradients[2 * index + 1] = grad.sum(0)
            if index or ctx.needs_input_grad[0]:
                grad = grad @ weights[index]
        return (grad if ctx.needs_input_grad[0] else None, None, *gradients)


class MLP(nn.Module):
    """Dense layers with tanh-GELU between them; the last one is linear unless `activate_final`."""

    def __init__(
        self, inputs: int, widths: Sequence[int], generator: torch.Generator, *, activate_final: bool = False
    ) -> None:
        super().__init__()
        self.layers = nn.ModuleList(linear(a, b, generator) for a, b in itertools.pairwise([inputs, *widths]))
        self.activated = len(widths) if activate_final else len(widths) - 1

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the output [B, widths[-1]] of inputs [B, inputs]; the inputs themselves where there is no layer."""
        if not self.layers:
            return x
        if torch.is_grad_enabled() and _in_pieces(x):
            pairs = [parameter for layer in self.layers for parameter in (layer.weight, layer.bias)]
            return _Layers.apply(x, self.activated, *pairs)[0]
        return self.after_first(self.layers[0](x))

    def after_first(self, hidden: torch.Tensor) -> torch.Tensor:
        """Finish a forward pass whose first dense layer was computed by the caller (see VectorField.euler)."""
        for index, layer in enumerate(self.layers):
            hidden = layer(hidden) if index else hidden
            if index < self.activated:
                hidden = gelu(hidden)
        return hidden


class FourierFeatures(nn.Module):
    """Turn a scalar in [0, 1) into `size` features: cos and sin at log-spaced fixed frequencies.

    Frequencies are exp(-k log(10000) / (size / 2 - 1)), in the order concat(cos, sin).
    """

    frequencies: torch.Tensor

    def __init__(self, size: int = 64) -> None:
        super().__init__()
        half = size // 2
        scale = -math.log(10000.0) / (half - 1)
        self.register_buffer("frequencies", torch.exp(torch.arange(half) * scale), persistent=False)

    def forward(self, t_B1: torch.Tensor) -> torch.Tensor:
        """Return [B, size] features of times [B, 1]."""
        angles = t_B1 * self.frequencies
        return torch.cat((angles.cos(), angles.sin()), dim=-1)


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
        x = functional.max_pool2d(_pad_same(self.first(x_BCHW)), 3, stride=2)
        for block in self.blocks:
            assert isinstance(block, nn.ModuleList)
            inner = x
            for layer in block:
                inner = layer(functional.relu(inner))
            x = x + inner
        return x


def _pad_same(x: torch.Tensor) -> torch.Tensor:
    """Pad for a 3x3 stride-2 window as XLA's SAME does: an even side gets its one extra row at the end only."""
    height, width = x.shape[-2:]
    return functional.pad(x, (width % 2, 1, height % 2, 1), value=-math.inf)


class ImpalaEncoder(nn.Module):
    """Encode uint8 images [B, H, W, C] into [B, width] features: x / 255, stacks, relu, dense, GELU."""

    def __init__(self, observation_shape: Sequence[int], size: ImpalaSize, generator: torch.Generator) -> None:
        super().__init__()
        height, width, channels = observation_shape
        sizes = [channels, *size.stacks]
        self.stacks = nn.ModuleList(ResidualStack(a, b, size.blocks, generator) for a, b in itertools.pairwise(sizes))
        for _ in size.stacks:
            height, width = math.ceil(height / 2), math.ceil(width / 2)
        self.dense = MLP(height * width * sizes[-1], (size.width,), generator, activate_final=True)

    def forward(self, pixels_BHWC: torch.Tensor) -> torch.Tensor:
        """Return features [B, width]."""
        x = pixels_BHWC.movedim(-1, -3).to(torch.float32) / 255.0
        for stack in self.stacks:
            x = stack(x)
        return self.dense(functional.relu(x).flatten(1))


class ObservationEncoder(nn.Module):
    """Turn observations into a flat feature vector: pixels through IMPALA, state vectors as they are."""

    def __init__(self, observation_shape: Sequence[int], encoder: str | None, generator: torch.Generator) -> None:
        super().__init__()
        pixels = len(observation_shape) == 3
        if encoder is not None and encoder not in ENCODERS:
            raise UnknownName(f"unknown encoder {encoder!r}{did_you_mean(encoder, ENCODERS)}")
        if pixels != (encoder is not None):
            wanted = (
                "pixels need encoder=impala_small" if pixels else "encoder= is for pixels [height, width, channels]"
            )
            raise SpecError(f"observations have shape {tuple(observation_shape)} and encoder is {encoder}: {wanted}")
        self.pixels = ImpalaEncoder(observation_shape, ENCODERS[encoder], generator) if encoder else None
        self.features = ENCODERS[encoder].width if encoder else math.prod(observation_shape)

    def forward(self, observations_BO: torch.Tensor) -> torch.Tensor:
        """Return features [B, F]."""
        return self.pixels(observations_BO) if self.pixels is not None else observations_BO.flatten(1)


class VectorField(nn.Module):
    """v(observation, x, t): the velocity that carries noise to an action chunk. Output has x's size D."""

    def __init__(
        self,
        observation_shape: Sequence[int],
        size: int,
        hidden_dims: Sequence[int],
        generator: torch.Generator,
        *,
        encoder: str | None = None,
        fourier_features: bool = False,
    ) -> None:
        super().__init__()
        self.encoder = ObservationEncoder(observation_shape, encoder, generator)
        self.time = FourierFeatures() if fourier_features else None
        self.widths = (self.encoder.features, size, 64 if fourier_features else 1)
        self.trunk = MLP(sum(self.widths), (*hidden_dims, size), generator)

    def forward(self, features_BF: torch.Tensor, x_BD: torch.Tensor, t_B1: torch.Tensor) -> torch.Tensor:
        """Return velocities [B, D] for encoded observations, points and times in [0, 1]."""
        time = t_B1 if self.time is None else self.time(t_B1)
        return self.trunk(torch.cat((features_BF, x_BD, time), dim=-1))

    def euler(self, observations_BO: torch.Tensor, x_BD: torch.Tensor, steps: int) -> torch.Tensor:
        """Return the end of `steps` Euler steps from x at t = 0, with t = i / steps.

        The observation is encoded once and its share of the first dense layer is kept out of the loop.
        """
        first = self.trunk.layers[0]
        assert isinstance(first, nn.Linear)
        by_observation, by_x, by_time = first.weight.split(self.widths, dim=1)
        constant = functional.linear(self.encoder(observations_BO), by_observation, first.bias)
        times = torch.arange(steps, device=x_BD.device, dtype=x_BD.dtype)[:, None] / steps
        by_step = functional.linear(times if self.time is None else self.time(times), by_time)
        for index in range(steps):
            hidden = constant + by_step[index] + functional.linear(x_BD, by_x)
            x_BD = x_BD + self.trunk.after_first(hidden) / steps
        return x_BD
