"""What the operations on colours have in common: ranges as keys, one amount a sample, grey."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Annotated, Any

import torch
from pydantic import AfterValidator, BeforeValidator

GREY = (0.299, 0.587, 0.114)
"""Weights of red, green and blue in grey."""


def rising(lowest: float, highest: float = math.inf, *, above: bool = False) -> AfterValidator:
    """Return a check that a range rises, within these bounds; `above`: the lowest itself is not allowed."""

    def check(value: tuple[float, float]) -> tuple[float, float]:
        low, high = value
        if not lowest <= low <= high <= highest or (above and low == lowest):
            raise ValueError(f"[{low:g}, {high:g}] must rise, within {lowest:g} to {highest:g}")
        return value

    return AfterValidator(check)


def _one_number(value: Any) -> float | None:
    """Return x of x or [x], None of anything else."""
    if isinstance(value, Sequence) and not isinstance(value, str) and len(value) == 1:
        value = value[0]
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    if value < 0:
        raise ValueError("a single number says how far to either side, and cannot be negative")
    return float(value)


def _factors(value: Any) -> Any:
    width = _one_number(value)
    return value if width is None else (max(0.0, 1.0 - width), 1.0 + width)


def _shifts(value: Any) -> Any:
    width = _one_number(value)
    return value if width is None else (-width, width)


Factors = Annotated[tuple[float, float], BeforeValidator(_factors), rising(0.0)]
"""A range of factors; x and [x] are [1 - x, 1 + x], as in ColorJitter."""
Shifts = Annotated[tuple[float, float], BeforeValidator(_shifts), rising(-0.5, 0.5)]
"""A range of shifts along the colour circle, which is 1 long; x and [x] are [-x, x]."""


def amounts(bounds: tuple[float, float], uniforms_B1: torch.Tensor) -> torch.Tensor:
    """Return one amount a sample, uniform within the bounds, [B, 1, 1, 1, 1]."""
    low, high = bounds
    return (low + (high - low) * uniforms_B1)[:, :, None, None, None]


def grey(values_BnCHW: torch.Tensor) -> torch.Tensor:
    """Return [B, n, 1, H, W]; a single channel is grey already."""
    if values_BnCHW.shape[2] == 1:
        return values_BnCHW
    red, green, blue = values_BnCHW.split(1, dim=2)
    return GREY[0] * red + GREY[1] * green + GREY[2] * blue
