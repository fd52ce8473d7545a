"""One block of memory for a pack's parameters: where each lies, moving modules in, calling with swapped ones.

Knows nothing of losses or optimisers. Shape suffixes: K members, P padded parameters of one member.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Collection, Mapping
from typing import Any, TypeVar

import torch
from torch import nn

from understudy.algorithm import belongs
from understudy.errors import CheckpointError, SpecError

T = TypeVar("T")
ALIGNMENT = 16
"""Every parameter starts at a multiple of this many numbers: 64 bytes, a cache line and an AVX-512 register."""


class FlatLayout:
    """Where each parameter of one member lies in its row of P numbers."""

    def __init__(self, module: nn.Module) -> None:
        self.shapes = {name: parameter.shape for name, parameter in module.named_parameters()}
        self.offsets: dict[str, int] = {}
        offset = 0
        for name, shape in self.shapes.items():
            self.offsets[name] = offset
            offset += math.ceil(shape.numel() / ALIGNMENT) * ALIGNMENT
        self.size = offset

    def views(self, flat: torch.Tensor) -> dict[str, torch.Tensor]:
        """Return every parameter's view of `flat` [..., >= P], keeping the leading dims."""
        lead = flat.shape[:-1]
        return {
            name: flat[..., self.offsets[name] : self.offsets[name] + shape.numel()].view((*lead, *shape))
            for name, shape in self.shapes.items()
        }

    def stretches(self, key: Callable[[str], T]) -> list[tuple[T, slice]]:
        """Return the row in stretches of equal `key(name)`: the key, and the place with its padding."""
        bounds = [*self.offsets.values(), self.size]
        found: list[tuple[T, slice]] = []
        start = 0
        for answer, run in itertools.groupby(map(key, self.offsets)):
            stop = start + len(list(run))
            found.append((answer, slice(bounds[start], bounds[stop])))
            start = stop
        return found

    def place(self, part: str) -> slice:
        """Return where a submodule's parameters lie in the row: as in a FlatLayout of the submodule alone."""
        places = [place for inside, place in self.stretches(lambda name: belongs(name, part)) if inside]
        if len(places) != 1:
            raise SpecError(f"{part!r} is no part of this network with parameters of its own alone")
        return places[0]

    def copies(self, row: torch.Tensor) -> dict[str, torch.Tensor]:
        """Return copies, on the CPU, of every parameter in `row` [>= P]."""
        return {name: view.cpu().clone() for name, view in self.views(row.detach()).items()}

    def fill(self, row: torch.Tensor, named: dict[str, torch.Tensor], only: Collection[str] | None = None) -> None:
        """Write what `copies` returned, or those named `only`, into `row`.

        CheckpointError names a parameter that is another network's.
        """
        shapes = {name: tuple(value.shape) for name, value in named.items()}
        wanted = {name: tuple(shape) for name, shape in self.shapes.items() if only is None or name in only}
        if shapes != wanted:
            odd = min(name for name in shapes.keys() | wanted.keys() if shapes.get(name) != wanted.get(name))
            raise CheckpointError(
                f"the saved weights are of another network: {odd} is {shapes.get(odd, 'absent')} in the file"
                f" and {wanted.get(odd, 'absent')} here"
            )
        views = self.views(row.detach())
        for name, value in named.items():
            views[name].copy_(value)


def move_into(module: nn.Module, values: dict[str, torch.Tensor], gradients: dict[str, torch.Tensor] | None) -> None:
    """Copy a module's parameters into `values` and make those its parameters; without `gradients` they are frozen."""
    for path, parameter in list(module.named_parameters()):
        values[path].copy_(parameter.detach())
        owner, _, name = path.rpartition(".")
        moved = nn.Parameter(values[path], requires_grad=gradients is not None)
        if gradients is not None:
            moved.grad = gradients[path]
        setattr(module.get_submodule(owner), name, moved)


class FunctionCaller(nn.Module):
    """Calls a function with its network, so that functional_call can swap its and its targets' parameters."""

    def __init__(self, network: nn.Module, targets: Mapping[str, nn.Module]) -> None:
        super().__init__()
        self.network = network
        self.targets = nn.ModuleDict(dict(targets))

    def forward(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """Return function(network, *arguments)."""
        return function(self.network, *arguments)
