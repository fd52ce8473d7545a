"""A long short-term memory of plain matrix products with torch's parameters: `nn.LSTM` cannot be stacked over members.

Shape suffixes: B samples, T steps, F features, W width.
"""

from __future__ import annotations

import math

import torch
from torch import nn
from torch.nn import functional

from understudy.trainables.networks.steps import Body
from understudy.trainables.networks.transformer import NO_DROPOUT, Dropout

KINDS = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")


class LSTM(Body):
    """`nn.LSTM(features, width, layers, batch_first=True)` from a state of zeros, parameters by the same names."""

    def __init__(self, features: int, width: int, layers: int, generator: torch.Generator) -> None:
        super().__init__()
        self.width, self.layers, bound = width, layers, 1 / math.sqrt(width)
        for layer in range(layers):
            inputs = width if layer else features
            shapes = ((4 * width, inputs), (4 * width, width), (4 * width,), (4 * width,))
            for kind, shape in zip(KINDS, shapes, strict=True):
                drawn = torch.empty(shape).uniform_(-bound, bound, generator=generator)
                self.register_parameter(f"{kind}_l{layer}", nn.Parameter(drawn))

    def forward(self, x_BTF: torch.Tensor, dropout: Dropout = NO_DROPOUT) -> torch.Tensor:
        """Return the last layer's output at each step, [B, T, W]; there is no dropout."""
        for layer in range(self.layers):
            by_input, by_output, bias, other = (getattr(self, f"{kind}_l{layer}") for kind in KINDS)
            inputs = functional.linear(x_BTF, by_input, bias + other)
            x_BTF = _unrolled(inputs, by_output)
        return x_BTF


def _unrolled(inputs: torch.Tensor, by_output: torch.Tensor) -> torch.Tensor:
    """Return the outputs [B, T, W] of a layer, `inputs` [B, T, 4 W] being its inputs' share of the gates."""
    outputs: list[torch.Tensor] = []
    cell = torch.zeros_like(inputs[:, 0].chunk(4, dim=-1)[0])
    for gates in inputs.unbind(1):
        if outputs:
            gates = gates + functional.linear(outputs[-1], by_output)
        take, keep, new, show = gates.chunk(4, dim=-1)
        cell = keep.sigmoid() * cell + take.sigmoid() * new.tanh()
        outputs.append(show.sigmoid() * cell.tanh())
    return torch.stack(outputs, dim=1)
