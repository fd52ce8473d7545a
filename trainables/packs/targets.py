"""The target copies of a pack's parts: one block of memory a part, which follows the part at a rate of its own.

Shape suffixes: K members, T padded parameters of the part.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from understudy.algorithm import Phase, belongs
from understudy.errors import SpecError
from understudy.trainables.packs.flat import FlatLayout, move_into

Copies = dict[str, torch.Tensor]


@dataclass(frozen=True)
class _Target:
    """One part's copies: their rate, where the part lies in a pack's rows, and the copies [K, T] themselves."""

    rate: float
    place: slice
    layout: FlatLayout
    values: torch.Tensor


class TargetNetworks:
    """The target copies of every member, by the names of the parts that they follow."""

    def __init__(
        self, rates: Mapping[str, float], members: Sequence[nn.Module], layout: FlatLayout, parameters: torch.Tensor
    ) -> None:
        self._parameters = parameters
        self._targets: dict[str, _Target] = {}
        self.members: list[dict[str, nn.Module]] = [{} for _ in members]
        """Each member's copies as modules without gradients."""
        for part, rate in rates.items():
            if part not in dict(members[0].named_children()):
                raise SpecError(f"targets: the network has no submodule {part!r}")
            place = layout.place(part)
            target = _Target(rate, place, FlatLayout(members[0].get_submodule(part)), parameters[:, place].clone())
            self._targets[part] = target
            for index, member in enumerate(members):
                module = copy.deepcopy(member.get_submodule(part))
                move_into(module, target.layout.views(target.values[index]), None)
                self.members[index][part] = module.to(parameters.device)

    def stacked(self) -> Copies:
        """Return every copy's parameters [K, ...] as `<part>.<name>`."""
        views = {part: target.layout.views(target.values) for part, target in self._targets.items()}
        return {f"{part}.{name}": value for part, named in views.items() for name, value in named.items()}

    def follow(self, phase: Phase, members: Sequence[int]) -> None:
        """Move the copies of the parts that `phase` has moved of `members`: target += rate (part - target)."""
        for part, target in self._targets.items():
            if phase.parts and part not in phase.parts:
                continue
            if len(members) == len(self.members):
                target.values.lerp_(self._parameters[:, target.place], target.rate)
                continue
            for k in members:
                target.values[k].lerp_(self._parameters[k, target.place], target.rate)

    def restart(self, members: Sequence[int]) -> None:
        """Make the copies of `members` equal to their parts."""
        for target in self._targets.values():
            for k in members:
                target.values[k].copy_(self._parameters[k, target.place])

    def load_buffers(self, k: int, buffers: Mapping[str, torch.Tensor]) -> None:
        """Give member k's copies the constants of a network, by their whole names."""
        for part, module in self.members[k].items():
            own = {name.removeprefix(f"{part}."): value for name, value in buffers.items() if belongs(name, part)}
            module.load_state_dict(own, strict=False)

    def member_state(self, k: int) -> dict[str, Copies]:
        """Return copies, on the CPU, of member k's targets by part; empty where there are none."""
        return {part: target.layout.copies(target.values[k]) for part, target in self._targets.items()}

    def load_member_state(self, k: int, state: Mapping[str, Any]) -> None:
        """Take member k's targets back to what `member_state` returned; a part not in it starts anew."""
        for part, target in self._targets.items():
            if part in state:
                target.layout.fill(target.values[k], state[part])
            else:
                target.values[k].copy_(self._parameters[k, target.place])
