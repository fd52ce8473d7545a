"""Networks that the algorithms share: MLP, Fourier features of time, vector field. Encoders have files of their own.

Every builder draws its weights from the `torch.Generator` it is given and leaves the global random state
alone, so that a network is a pure function of (configuration, seed). Weights are fan-average uniform
(Xavier) and biases zero, as in Q-chunking (arXiv 2507.07969). Nothing here knows of losses or optimisers.
Shape suffixes: B samples, F features, C channels.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.nn import functional

from understudy.trainables.networks.blank import blank
from understudy.trainables.networks.nodes import apply

if TYPE_CHECKING:
    from understudy.trainables.networks.observation import ObservationEncoder


def linear(inputs: int, outputs: int, generator: torch.Generator) -> nn.Linear:
    """Return a dense layer with Xavier uniform weights and zero bias."""
    layer = blank(nn.Linear, inputs, outputs)
    nn.init.xavier_uniform_(layer.weight, generator=generator)
    nn.init.zeros_(layer.bias)
    return layer


GELU_LINEAR = 2.0 * math.sqrt(2.0 / math.pi)
GELU_CUBIC = 0.044715 * GELU_LINEAR
_GELU_LINEAR = torch.tensor(GELU_LINEAR)


def gelu(x: torch.Tensor) -> torch.Tensor:
    """Return GELU in its tanh form, the activation of every MLP here."""
    # Below some thousand numbers the calls cost more than the faster arithmetic saves.
    if _in_pieces(x) and x.numel() >= 4096 and not torch.is_grad_enabled():
        wide = x.float()
        return (wide * _gelu_gate(wide)).to(x.dtype)
    return functional.gelu(x, approximate="tanh")


def _in_pieces(x: torch.Tensor) -> bool:
    """Whether tanh-GELU is faster here as x * sigmoid(u) in float32.

    On CPUs ATen's kernel takes 2.5 times as long, and of bf16 numbers twice as long as this with its casts.
    """
    return x.device.type == "cpu" and x.dtype in (torch.float32, torch.bfloat16) and not torch.compiler.is_compiling()


def _gelu_gate(x: torch.Tensor) -> torch.Tensor:
    """Return sigmoid(u), u = x (GELU_LINEAR + GELU_CUBIC x^2), which is the tanh form's 0.5 (1 + tanh(u / 2))."""
    return torch.addcmul(_GELU_LINEAR, x, x, value=GELU_CUBIC).mul_(x).sigmoid_()


def _gelu_slope(x: torch.Tensor, gate: torch.Tensor) -> torch.Tensor:
    """Return gate + x u' gate (1 - gate), with u' = GELU_LINEAR + 3 GELU_CUBIC x^2."""
    slope = torch.addcmul(_GELU_LINEAR, x, x, value=3.0 * GELU_CUBIC).mul_(x)
    return torch.ops.aten.sigmoid_backward(slope, gate).add_(gate)


class _Layers(torch.autograd.Function):
    """All dense layers and tanh-GELUs of an MLP as one node of the graph: a small network's step is mostly overhead.

    Products are of the type of all arguments, activations of float32. The forward pass also returns what the backward
    pass needs, so that torch.func can stack it too.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(x: torch.Tensor, activated: int, *parameters: torch.Tensor) -> tuple[torch.Tensor, ...]:  # type: ignore[override]
        count, hidden, kept = len(parameters) // 2, x, []
        for index in range(count):
            hidden = functional.linear(hidden, parameters[2 * index], parameters[2 * index + 1])
            if index < activated:
                wide = hidden.float()
                gate = _gelu_gate(wide)
                kept += [wide, gate]
                hidden = (wide * gate).to(x.dtype)
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
                grad = _gelu_slope(before, gate).mul_(grad).to(grad.dtype)
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
            dtype = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else x.dtype
            pairs = [parameter.to(dtype) for layer in self.layers for parameter in (layer.weight, layer.bias)]
            return apply(_Layers, x.to(dtype), self.activated, *pairs)[0]
        return self.after_first(self.layers[0](x))

    def after_first(self, hidden: torch.Tensor) -> torch.Tensor:
        """Finish a forward pass whose first dense layer was computed by the caller (see VectorField.euler)."""
        for index, layer in enumerate(self.layers):
            hidden = layer(hidden) if index else hidden
            if index < self.activated:
                hidden = gelu(hidden)
        return hidden


class Trunk(nn.Module):
    """Dense layers that are all activated, with dropout before each activation: the body of a policy.

    As in BridgeData's agents (Walke et al. 2023, arXiv 2308.12952). Without dropout and with GELU it is an MLP.
    """

    def __init__(
        self, inputs: int, widths: Sequence[int], generator: torch.Generator, activation: str = "gelu"
    ) -> None:
        super().__init__()
        self.mlp = MLP(inputs, widths, generator, activate_final=True)
        self.activation = gelu if activation == "gelu" else functional.silu
        self.plain = activation == "gelu"
        self.features = widths[-1] if widths else inputs

    def forward(self, x: torch.Tensor, keep: dict[str, torch.Tensor] | None = None) -> torch.Tensor:
        """Return [B, features]; `keep` has a dropout mask [B, width] for each layer, as `draw_dropout` makes them."""
        if self.plain and not keep:
            return self.mlp(x)
        for index, layer in enumerate(self.mlp.layers):
            hidden = layer(x)
            x = self.activation(hidden * keep[f"keep_{index}"] if keep else hidden)
        return x


def draw_dropout(
    batch_size: int, widths: Sequence[int], rate: float, generator: torch.Generator
) -> dict[str, torch.Tensor]:
    """Draw a mask [B, width] for each layer: 0 at the share `rate` of places, 1 / (1 - rate) elsewhere."""
    masks = {}
    for index, width in enumerate(widths if rate > 0 else ()):
        kept = torch.rand(batch_size, width, generator=generator, device=generator.device) >= rate
        masks[f"keep_{index}"] = kept.to(torch.float32).div_(1 - rate)
    return masks


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


class VectorField(nn.Module):
    """v(observation, x, t): the velocity that carries noise to an action chunk. Output has x's size D."""

    def __init__(
        self,
        encoder: ObservationEncoder,
        size: int,
        hidden_dims: Sequence[int],
        generator: torch.Generator,
        *,
        fourier_features: bool = False,
    ) -> None:
        super().__init__()
        self.encoder = encoder
        self.time = FourierFeatures() if fourier_features else None
        self.widths = (self.encoder.features, size, 64 if fourier_features else 1)
        self.trunk = MLP(sum(self.widths), (*hidden_dims, size), generator)

    def forward(self, features_BF: torch.Tensor, x_BD: torch.Tensor, t_B1: torch.Tensor) -> torch.Tensor:
        """Return velocities [B, D] for encoded observations, points and times in [0, 1]."""
        time = t_B1 if self.time is None else self.time(t_B1)
        return self.trunk(torch.cat((features_BF, x_BD, time), dim=-1))

    def integrate(self, features_BF: torch.Tensor, x_BD: torch.Tensor, steps: int) -> torch.Tensor:
        """Return the end of `steps` Euler steps from x at t = 0, with t = i / steps.

        The encoded observation's share of the first dense layer is kept out of the loop.
        """
        first = self.trunk.layers[0]
        assert isinstance(first, nn.Linear)
        by_observation, by_x, by_time = first.weight.split(self.widths, dim=1)
        constant = functional.linear(features_BF, by_observation, first.bias)
        times = torch.arange(steps, device=x_BD.device, dtype=x_BD.dtype)[:, None] / steps
        by_step = functional.linear(times if self.time is None else self.time(times), by_time)
        for index in range(steps):
            hidden = constant + by_step[index] + functional.linear(x_BD, by_x)
            x_BD = x_BD + self.trunk.after_first(hidden) / steps
        return x_BD
