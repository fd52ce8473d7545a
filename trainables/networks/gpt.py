"""A GPT over the steps of a window: one token a step, with causal attention.

Shape suffixes: B samples, T steps, F features, W width.
"""

from __future__ import annotations

import torch
from torch import nn

from understudy.algorithm import Draws
from understudy.trainables.networks.blocks import Block, causal, dense, learned, masks_of_blocks
from understudy.trainables.networks.steps import Body
from understudy.trainables.networks.transformer import NO_DROPOUT, Dropout, draw_masks


class GPT(Body):
    """Embedding with learned positions, LayerNorm, causal blocks, LayerNorm (robomimic's form)."""

    allowed: torch.Tensor

    def __init__(
        self, features: int, count: int, width: int, heads: int, layers: int, generator: torch.Generator
    ) -> None:
        super().__init__()
        self.width = width
        self.embed, self.positions = dense(features, width, generator), learned(count, width, generator)
        self.embed_norm = nn.LayerNorm(width)
        self.blocks = nn.ModuleList(Block(width, heads, generator) for _ in range(layers))
        self.norm = nn.LayerNorm(width)
        self.register_buffer("allowed", causal(count), persistent=False)

    def forward(self, x_BTF: torch.Tensor, dropout: Dropout = NO_DROPOUT) -> torch.Tensor:
        """Return [B, T, W]."""
        x_BTW = dropout("embedded", self.embed_norm(self.embed(x_BTF) + self.positions))
        for index, block in enumerate(self.blocks):
            x_BTW = block(x_BTW, None, self.allowed, dropout.of(f"blocks_{index}"))
        return self.norm(x_BTW)


def draw_gpt_masks(
    batch_size: int, prefix: str, count: int, sizes: tuple[int, int, int], rate: float, generator: torch.Generator
) -> Draws:
    """Draw a GPT's dropout masks as robomimic has them: for tokens, attention and the outputs of each block's parts.

    `sizes` are width, heads and layers.
    """
    if rate == 0:
        return {}
    width, heads, layers = sizes
    blocks = masks_of_blocks("blocks", layers, (width, heads), count)
    shapes = {"embedded": (count, width), **{name: s for name, s in blocks.items() if not name.endswith("_inner")}}
    return draw_masks(batch_size, {prefix + name: shape for name, shape in shapes.items()}, rate, generator)
