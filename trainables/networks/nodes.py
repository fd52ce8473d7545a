"""How several operations become one node of autograd's graph: a small network's step is half overhead.

Such a node is a `torch.autograd.Function` with `setup_context` and `generate_vmap_rule`, so that torch.func can stack
it too. Knows no layer and no loss.
"""

from __future__ import annotations

from typing import Any, cast

import torch
from torch.autograd import Function


def apply(function: type[Function], *arguments: Any) -> Any:
    """Return `function.apply(*arguments)`, which must be all arguments that its `forward` takes.

    Where torch.func is not at work, it is what torch itself does there after it has bound the arguments to the
    signature, at each call; that costs as much as a layer.
    """
    if stacking():
        return function.apply(*arguments)
    return cast(Any, super(Function, function)).apply(*arguments)


def stacking() -> bool:
    """Whether torch.func is at work."""
    return torch._C._are_functorch_transforms_active()  # pyright: ignore[reportPrivateImportUsage, reportAttributeAccessIssue]


def at_once(x: torch.Tensor) -> bool:
    """Whether operations on x may be one node: not where dtypes are chosen for each product, or compiled."""
    return not torch.is_autocast_enabled(x.device.type) and not torch.compiler.is_compiling()
