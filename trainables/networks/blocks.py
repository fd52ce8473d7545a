"""Transformer blocks with the norms before the parts, as GPTs and diffusion transformers have them.

`Block` is `nn.TransformerDecoderLayer(norm_first=True, activation="gelu")` (without a memory the encoder's) but for the
keys' biases, which change nothing: softmax takes them away again. `ModulatedBlock` is DiT's (arXiv 2212.09748): a
condition scales, shifts and gates each part. Dropout is given, as in `transformer.py`.
Shape suffixes: B samples, N tokens, M tokens attended to, D width, H heads.
"""

from __future__ import annotations

import math

import torch
from torch import nn
from torch.nn import functional

from understudy.trainables.networks.blank import blank
from understudy.trainables.networks.transformer import NO_DROPOUT, Dropout

STD = 0.02
"""Deviation of weights at the start, GPT-2's, in layers of 256 inputs; in others it goes as 1 / sqrt(inputs)."""


def dense(inputs: int, outputs: int, generator: torch.Generator, *, bias: bool = True) -> nn.Linear:
    """Return a dense layer with weights from a normal distribution, and biases of zero."""
    layer = blank(nn.Linear, inputs, outputs, bias)
    nn.init.normal_(layer.weight, std=STD * math.sqrt(256 / inputs), generator=generator)
    if bias:
        nn.init.zeros_(layer.bias)
    return layer


def learned(count: int, width: int, generator: torch.Generator) -> nn.Parameter:
    """Return learned positions or tokens [count, D], from N(0, STD^2)."""
    return nn.Parameter(torch.empty(count, width).normal_(std=STD, generator=generator))


def causal(count: int) -> torch.Tensor:
    """Return which tokens attend to which [N, N]: each to itself and those before it."""
    return torch.ones(count, count, dtype=torch.bool).tril()


class Heads(nn.Module):
    """Multi-head attention of x to a memory, softmax(q k^T / sqrt(D / H)) v in each head."""

    def __init__(self, width: int, heads: int, generator: torch.Generator) -> None:
        super().__init__()
        self.heads = heads
        self.query, self.value, self.out = (dense(width, width, generator) for _ in range(3))
        self.key = dense(width, width, generator, bias=False)

    def forward(
        self,
        x_BND: torch.Tensor,
        memory_BMD: torch.Tensor,
        allowed_NM: torch.Tensor | None = None,
        dropout: Dropout = NO_DROPOUT,
        name: str = "attention",
    ) -> torch.Tensor:
        """Return [B, N, D]; a token attends to those where `allowed_NM` is True."""
        projected = (self.query(x_BND), self.key(memory_BMD), self.value(memory_BMD))
        query, key, value = (x.unflatten(-1, (self.heads, -1)).transpose(1, 2) for x in projected)
        scores_BHNM = (query / math.sqrt(query.shape[-1])) @ key.transpose(-2, -1)
        if allowed_NM is not None:
            scores_BHNM = scores_BHNM.masked_fill(~allowed_NM, -math.inf)
        attention_BHNM = dropout(name, scores_BHNM.softmax(-1))
        return self.out((attention_BHNM @ value).transpose(1, 2).flatten(2))


class Feedforward(nn.Module):
    """Two dense layers, four times as wide between them, with GELU."""

    def __init__(self, width: int, generator: torch.Generator) -> None:
        super().__init__()
        self.widen, self.narrow = dense(width, 4 * width, generator), dense(4 * width, width, generator)

    def forward(self, x_BND: torch.Tensor, dropout: Dropout = NO_DROPOUT) -> torch.Tensor:
        """Return [B, N, D]."""
        return self.narrow(dropout("inner", functional.gelu(self.widen(x_BND))))


class Block(nn.Module):
    """Tokens attend to each other, then to a memory where there is one, then pass a feed-forward part."""

    def __init__(self, width: int, heads: int, generator: torch.Generator, *, memory: bool = False) -> None:
        super().__init__()
        self.norm, self.attention = nn.LayerNorm(width), Heads(width, heads, generator)
        self.cross_norm = nn.LayerNorm(width) if memory else None
        self.cross_attention = Heads(width, heads, generator) if memory else None
        self.forward_norm, self.feedforward = nn.LayerNorm(width), Feedforward(width, generator)

    def forward(
        self,
        x_BND: torch.Tensor,
        memory_BMD: torch.Tensor | None = None,
        allowed_NN: torch.Tensor | None = None,
        dropout: Dropout = NO_DROPOUT,
    ) -> torch.Tensor:
        """Return [B, N, D]; `allowed_NN` says which tokens attend to which of each other."""
        normed = self.norm(x_BND)
        x_BND = x_BND + dropout("attended", self.attention(normed, normed, allowed_NN, dropout))
        if self.cross_norm is not None and self.cross_attention is not None:
            assert memory_BMD is not None
            across = self.cross_attention(self.cross_norm(x_BND), memory_BMD, None, dropout, "cross_attention")
            x_BND = x_BND + dropout("cross_attended", across)
        return x_BND + dropout("outer", self.feedforward(self.forward_norm(x_BND), dropout))


def masks_of_blocks(
    name: str, blocks: int, sizes: tuple[int, int], tokens: int, memory: int = 0
) -> dict[str, tuple[int, ...]]:
    """Return the shapes, without B, of the dropout masks of so many Blocks; `sizes` are width and heads."""
    width, heads = sizes
    one = {"attention": (heads, tokens, tokens), "attended": (tokens, width)}
    if memory:
        one |= {"cross_attention": (heads, tokens, memory), "cross_attended": (tokens, width)}
    one |= {"inner": (tokens, 4 * width), "outer": (tokens, width)}
    return {f"{name}_{index}_{key}": shape for index in range(blocks) for key, shape in one.items()}


class ModulatedBlock(nn.Module):
    """DiT's block: a condition makes shift, scale and gate of attention and feed-forward part (AdaLN).

    The gates begin near zero and not at it, so that the first step moves every weight.
    """

    def __init__(self, width: int, heads: int, generator: torch.Generator) -> None:
        super().__init__()
        self.attention, self.feedforward = Heads(width, heads, generator), Feedforward(width, generator)
        self.modulation = dense(width, 6 * width, generator)

    def forward(self, x_BND: torch.Tensor, condition_BD: torch.Tensor) -> torch.Tensor:
        """Return [B, N, D]."""
        shift, scale, gate, shift_2, scale_2, gate_2 = self.modulation(functional.silu(condition_BD)).chunk(6, dim=-1)
        normed = modulated(x_BND, shift, scale)
        x_BND = x_BND + gate.unsqueeze(1) * self.attention(normed, normed)
        return x_BND + gate_2.unsqueeze(1) * self.feedforward(modulated(x_BND, shift_2, scale_2))


def modulated(x_BND: torch.Tensor, shift_BD: torch.Tensor, scale_BD: torch.Tensor) -> torch.Tensor:
    """Return LayerNorm(x) (1 + scale) + shift, the norm without weights of its own."""
    normed = functional.layer_norm(x_BND, x_BND.shape[-1:])
    return normed * (1 + scale_BD.unsqueeze(1)) + shift_BD.unsqueeze(1)


class Sines(nn.Module):
    """Sines and cosines of a time at `width / 2` log-spaced frequencies, from `scale` to `scale` / 10000."""

    frequencies: torch.Tensor

    def __init__(self, width: int, *, scale: float = 1.0) -> None:
        super().__init__()
        half = width // 2
        spaced = torch.exp(torch.arange(half) * (-math.log(10000.0) / max(1, half - 1)))
        self.register_buffer("frequencies", scale * spaced, persistent=False)

    def forward(self, time_B1: torch.Tensor) -> torch.Tensor:
        """Return [B, width] of times [B, 1]."""
        angles = time_B1 * self.frequencies
        return torch.cat((angles.sin(), angles.cos()), dim=-1)
