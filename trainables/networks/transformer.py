"""Transformer layers whose dropout is given to them, and the sine positions that their tokens are told.

torch.nn's layers draw dropout from the global random state and cannot add positions to queries and keys alone, as
DETR (arXiv 2005.12872) and ACT do. With the same weights, no positions and no dropout these layers are
`nn.TransformerEncoderLayer` and `nn.TransformerDecoderLayer` with the norms after the residuals (tested).
Shape suffixes: B samples, N tokens, M tokens attended to, D width, H heads.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import cast

import torch
from torch import nn
from torch.nn import functional

from understudy.trainables.networks.mlp import linear

WAVELENGTH = 10000.0
"""Ratio of the longest sine to the shortest."""


def check_heads(dim_model: int, n_heads: int) -> None:
    """Raise ValueError where tokens cannot be shared among the heads of an attention."""
    if dim_model % n_heads:
        raise ValueError(f"dim_model={dim_model} cannot be shared by n_heads={n_heads}")


@dataclass(frozen=True)
class LayerSizes:
    """Sizes of a layer: its width, the heads that share it, the width of its feed-forward part."""

    width: int
    heads: int
    feedforward: int

    def masks_of_encoder(self, name: str, layers: int, tokens: int) -> dict[str, tuple[int, ...]]:
        """Return the shapes, without B, of the dropout masks of so many encoder layers."""
        one = {"attention": (self.heads, tokens, tokens), "attended": (tokens, self.width), **self._forward(tokens)}
        return {f"{name}_{index}_{key}": shape for index in range(layers) for key, shape in one.items()}

    def masks_of_decoder(self, name: str, layers: int, queries: int, tokens: int) -> dict[str, tuple[int, ...]]:
        """Return the same of decoder layers."""
        one = {
            "attention": (self.heads, queries, queries),
            "attended": (queries, self.width),
            "cross_attention": (self.heads, queries, tokens),
            "cross_attended": (queries, self.width),
            **self._forward(queries),
        }
        return {f"{name}_{index}_{key}": shape for index in range(layers) for key, shape in one.items()}

    def _forward(self, tokens: int) -> dict[str, tuple[int, ...]]:
        return {"inner": (tokens, self.feedforward), "outer": (tokens, self.width)}


@dataclass(frozen=True)
class Dropout:
    """Dropout with masks that were drawn before: nothing is dropped where there is none of a name."""

    masks: Mapping[str, torch.Tensor] = field(default_factory=dict)
    """True where a number is kept."""
    rate: float = 0.0
    prefix: str = ""

    def of(self, name: str) -> Dropout:
        """Return the dropout of the layer of this name."""
        return Dropout(self.masks, self.rate, f"{self.prefix}{name}_")

    def __call__(self, name: str, x: torch.Tensor) -> torch.Tensor:
        """Return x where it is kept, divided by the probability of that, and 0 elsewhere."""
        mask = self.masks.get(self.prefix + name)
        return x if mask is None else x * mask / (1 - self.rate)


NO_DROPOUT = Dropout()


def draw_masks(
    batch_size: int, shapes: Mapping[str, Sequence[int]], rate: float, generator: torch.Generator
) -> dict[str, torch.Tensor]:
    """Draw a mask [B, *shape] for each name, False at the share `rate` of places."""
    device = generator.device
    return {
        name: torch.rand((batch_size, *shape), generator=generator, device=device) >= rate
        for name, shape in shapes.items()
    }


class Attention(nn.Module):
    """Multi-head attention, softmax(q k^T / sqrt(D / H)) v in each head, with `nn.MultiheadAttention`'s weights."""

    def __init__(self, sizes: LayerSizes, generator: torch.Generator) -> None:
        super().__init__()
        self.heads = sizes.heads
        self.in_proj = linear(sizes.width, 3 * sizes.width, generator)
        self.out_proj = linear(sizes.width, sizes.width, generator)

    def forward(
        self,
        query_BND: torch.Tensor,
        key_BMD: torch.Tensor,
        value_BMD: torch.Tensor,
        *,
        padding_BM: torch.Tensor | None = None,
        dropout: Dropout = NO_DROPOUT,
        name: str = "attention",
    ) -> torch.Tensor:
        """Return [B, N, D]; tokens where `padding_BM` is True are not attended to."""
        inputs = (query_BND, key_BMD, value_BMD)
        weights, biases = self.in_proj.weight.chunk(3), self.in_proj.bias.chunk(3)
        query, key, value = (
            functional.linear(x, weight, bias).unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for x, weight, bias in zip(inputs, weights, biases, strict=True)
        )
        scores_BHNM = (query / math.sqrt(query.shape[-1])) @ key.transpose(-2, -1)
        if padding_BM is not None:
            scores_BHNM = scores_BHNM.masked_fill(padding_BM[:, None, None, :], -math.inf)
        attention_BHNM = dropout(name, scores_BHNM.softmax(-1))
        return self.out_proj((attention_BHNM @ value).transpose(1, 2).flatten(2))


class _FeedForward(nn.Module):
    """norm(x + narrow(relu(widen(x)))): what every layer ends with."""

    def __init__(self, sizes: LayerSizes, generator: torch.Generator) -> None:
        super().__init__()
        self.widen = linear(sizes.width, sizes.feedforward, generator)
        self.narrow = linear(sizes.feedforward, sizes.width, generator)
        self.norm = nn.LayerNorm(sizes.width)

    def forward(self, x_BND: torch.Tensor, dropout: Dropout) -> torch.Tensor:
        inner = dropout("inner", functional.relu(self.widen(x_BND)))
        return self.norm(x_BND + dropout("outer", self.narrow(inner)))


class EncoderLayer(nn.Module):
    """Tokens attend to each other, then pass the feed-forward part; a norm after each residual."""

    def __init__(self, sizes: LayerSizes, generator: torch.Generator) -> None:
        super().__init__()
        self.attention = Attention(sizes, generator)
        self.norm = nn.LayerNorm(sizes.width)
        self.feedforward = _FeedForward(sizes, generator)

    def forward(
        self,
        x_BND: torch.Tensor,
        positions_ND: torch.Tensor | None = None,
        padding_BN: torch.Tensor | None = None,
        dropout: Dropout = NO_DROPOUT,
    ) -> torch.Tensor:
        """Return [B, N, D]; positions are added to queries and keys, not to values."""
        placed = x_BND if positions_ND is None else x_BND + positions_ND
        attended = self.attention(placed, placed, x_BND, padding_BM=padding_BN, dropout=dropout)
        return self.feedforward(self.norm(x_BND + dropout("attended", attended)), dropout)


class DecoderLayer(nn.Module):
    """Queries attend to each other, then to the encoder's tokens, then pass the feed-forward part."""

    def __init__(self, sizes: LayerSizes, generator: torch.Generator) -> None:
        super().__init__()
        self.attention, self.cross_attention = Attention(sizes, generator), Attention(sizes, generator)
        self.norm, self.cross_norm = nn.LayerNorm(sizes.width), nn.LayerNorm(sizes.width)
        self.feedforward = _FeedForward(sizes, generator)

    def forward(
        self,
        x_BND: torch.Tensor,
        memory_BMD: torch.Tensor,
        queries_ND: torch.Tensor | None = None,
        positions_MD: torch.Tensor | None = None,
        dropout: Dropout = NO_DROPOUT,
    ) -> torch.Tensor:
        """Return [B, N, D]; `queries_ND` are the positions of x, `positions_MD` those of the memory."""

        def placed(x: torch.Tensor, positions: torch.Tensor | None) -> torch.Tensor:
            return x if positions is None else x + positions

        query = placed(x_BND, queries_ND)
        x = self.norm(x_BND + dropout("attended", self.attention(query, query, x_BND, dropout=dropout)))
        attended = self.cross_attention(
            placed(x, queries_ND),
            placed(memory_BMD, positions_MD),
            memory_BMD,
            dropout=dropout,
            name="cross_attention",
        )
        return self.feedforward(self.cross_norm(x + dropout("cross_attended", attended)), dropout)


class Encoder(nn.Module):
    """Encoder layers one after the other; `name` is that of their dropout masks."""

    def __init__(self, name: str, layers: int, sizes: LayerSizes, generator: torch.Generator) -> None:
        super().__init__()
        self.name = name
        self.layers = nn.ModuleList(EncoderLayer(sizes, generator) for _ in range(layers))

    def forward(
        self,
        x_BND: torch.Tensor,
        positions_ND: torch.Tensor,
        padding_BN: torch.Tensor | None = None,
        dropout: Dropout = NO_DROPOUT,
    ) -> torch.Tensor:
        """Return [B, N, D]."""
        for index, layer in enumerate(self.layers):
            layer = cast(EncoderLayer, layer)
            x_BND = layer(x_BND, positions_ND, padding_BN, dropout.of(f"{self.name}_{index}"))
        return x_BND


class Decoder(nn.Module):
    """Decoder layers one after the other from zeros, and a norm."""

    def __init__(self, name: str, layers: int, sizes: LayerSizes, generator: torch.Generator) -> None:
        super().__init__()
        self.name = name
        self.layers = nn.ModuleList(DecoderLayer(sizes, generator) for _ in range(layers))
        self.norm = nn.LayerNorm(sizes.width)

    def forward(
        self,
        memory_BMD: torch.Tensor,
        queries_ND: torch.Tensor,
        positions_MD: torch.Tensor,
        dropout: Dropout = NO_DROPOUT,
    ) -> torch.Tensor:
        """Return what the queries found in the memory, [B, N, D]."""
        x_BND = torch.zeros_like(queries_ND).expand(memory_BMD.shape[0], -1, -1)
        for index, layer in enumerate(self.layers):
            layer = cast(DecoderLayer, layer)
            x_BND = layer(x_BND, memory_BMD, queries_ND, positions_MD, dropout.of(f"{self.name}_{index}"))
        return self.norm(x_BND)


def _sines(places_N: torch.Tensor, width: int) -> torch.Tensor:
    """Return [N, width]: sin(p / w_k), cos(p / w_k), one beside the other, with w_k = 10000^(2k / width)."""
    wavelengths = WAVELENGTH ** (torch.arange(0, width, 2, dtype=torch.float64) / width)
    angles = places_N.to(torch.float64)[:, None] / wavelengths
    return torch.stack((angles.sin(), angles.cos()), dim=-1).flatten(1)


def sine_positions(count: int, width: int) -> torch.Tensor:
    """Return the positions 0, 1, ... of a sequence, [count, width] float32 (arXiv 1706.03762)."""
    return _sines(torch.arange(count), width).to(torch.float32)


def sine_positions_2d(height: int, width: int, features: int) -> torch.Tensor:
    """Return the positions of a map row by row, [height * width, features] float32, as DETR has them.

    Half of the features are sines of the row, half of the column, each counted from 1 and scaled to end at 2 pi.
    """
    rows, columns = (_sines(torch.arange(1, n + 1) / n * 2 * math.pi, features // 2) for n in (height, width))
    rows_HWF = rows[:, None].expand(-1, width, -1)
    columns_HWF = columns[None].expand(height, -1, -1)
    return torch.cat((rows_HWF, columns_HWF), dim=-1).flatten(0, 1).to(torch.float32)
