"""Layers of torch's without the weights that they would draw: who builds one fills it from its own generator."""

from __future__ import annotations

from functools import cache
from typing import Any, TypeVar, cast

from torch import nn

Layer = TypeVar("Layer", nn.Linear, nn.Conv1d, nn.ConvTranspose1d, nn.Conv2d)


def blank(kind: type[Layer], *sizes: Any, **settings: Any) -> Layer:
    """Return a layer with memory for its weights and nothing in it; the global random state stays as it is.

    torch.nn.utils.skip_init goes by the meta device, which imports sympy: most of a second in every process.
    """
    layer = _undrawn(kind)(*sizes, **settings)
    layer.__class__ = kind
    return cast(Layer, layer)


@cache
def _undrawn(kind: type[nn.Module]) -> type[nn.Module]:
    return type(kind.__name__, (kind,), {"reset_parameters": lambda _layer: None})
