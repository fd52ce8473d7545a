"""A GPT over the steps of a window: one token a step, with causal attention.

Shape suffixes: B samples, T steps, F features, W width.
"""

from __future__ import annotations

from typing import Annotated, ClassVar

import torch
from pydantic import Field, model_validator
from torch import nn

from understudy.algorithm import Draws
from understudy.spec.part import PerMember
from understudy.trainables.networks.blocks import Block, causal, dense, learned, masks_of_blocks
from understudy.trainables.networks.steps import Body, Window
from understudy.trainables.networks.transformer import NO_DROPOUT, Dropout, check_heads, draw_masks

MASKS = "keep_"
"""Prefix of the names of dropout masks."""


class GPTConfig(Window):
    """Settings of a GPT over the window."""

    title: ClassVar[str] = "the transformer"

    dim_model: int = Field(default=512, ge=4, le=16_384, multiple_of=4, description="width of the tokens")
    n_heads: int = Field(default=8, ge=1, le=1024, description="heads of the attention")
    n_layers: int = Field(default=6, ge=1, le=256, description="blocks")
    dropout: Annotated[float, PerMember()] = Field(
        default=0.1, ge=0, lt=1, description="dropout of tokens, attention and blocks' outputs"
    )

    @model_validator(mode="after")
    def _heads_share_the_width(self) -> GPTConfig:
        check_heads(self.dim_model, self.n_heads)
        return self


class GPT(Body):
    """Embedding with learned positions, LayerNorm, causal blocks, LayerNorm (robomimic's form)."""

    allowed: torch.Tensor

    def __init__(self, features: int, config: GPTConfig, generator: torch.Generator) -> None:
        super().__init__()
        count, width = config.obs_horizon, config.dim_model
        self.width = width
        self.embed, self.positions = dense(features, width, generator), learned(count, width, generator)
        self.embed_norm = nn.LayerNorm(width)
        self.blocks = nn.ModuleList(Block(width, config.n_heads, generator) for _ in range(config.n_layers))
        self.norm = nn.LayerNorm(width)
        self.register_buffer("allowed", causal(count), persistent=False)

    def forward(self, x_BTF: torch.Tensor, dropout: Dropout = NO_DROPOUT) -> torch.Tensor:
        """Return [B, T, W]."""
        x_BTW = dropout("embedded", self.embed_norm(self.embed(x_BTF) + self.positions))
        for index, block in enumerate(self.blocks):
            x_BTW = block(x_BTW, None, self.allowed, dropout.of(f"blocks_{index}"))
        return self.norm(x_BTW)


def draw_gpt_masks(batch_size: int, config: GPTConfig, generator: torch.Generator) -> Draws:
    """Draw a GPT's dropout masks as robomimic has them: for tokens, attention and the outputs of each block's parts."""
    if config.dropout == 0:
        return {}
    count, width = config.obs_horizon, config.dim_model
    blocks = masks_of_blocks("blocks", config.n_layers, (width, config.n_heads), count)
    shapes = {"embedded": (count, width), **{name: s for name, s in blocks.items() if not name.endswith("_inner")}}
    return draw_masks(batch_size, {MASKS + name: shape for name, shape in shapes.items()}, config.dropout, generator)


def gpt_dropout(draws: Draws, config: GPTConfig) -> Dropout:
    """Return the dropout of the masks that `draw_gpt_masks` drew."""
    return Dropout(draws, config.dropout, MASKS)
