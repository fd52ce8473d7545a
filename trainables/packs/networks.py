"""The networks of a pack's members, in blocks of memory: what is trained, its average and its targets.

All members' parameters are one float32 tensor [K, P] and their gradients another of the same layout. Knows nothing of
losses, optimisers or workers. Shape suffixes: K members, P padded parameters of one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import nn

from understudy.algorithm import Algorithm
from understudy.trainables.packs.average import WeightAverage
from understudy.trainables.packs.dropout import drops, without_dropout
from understudy.trainables.packs.flat import ALIGNMENT, FlatLayout, move_into
from understudy.trainables.packs.targets import TargetNetworks
from understudy.trainables.packs.transfer import LoadedEncoder, load_encoder


class Networks:
    """K members' networks."""

    def __init__(
        self,
        algorithm: Algorithm,
        seeds: Sequence[int],
        device: torch.device,
        of_members: Sequence[Algorithm] | None = None,
    ) -> None:
        """Build them; `of_members` are the members' algorithms where settings of theirs differ."""
        # Weights are drawn on the CPU, so that a seed means the same network on every device.
        builders = [algorithm] * len(seeds) if of_members is None else of_members
        self.members = [one.build(seed) for one, seed in zip(builders, seeds, strict=True)]
        self.drops = drops(self.members[0])
        """Whether torch's own dropout layers are among them."""
        self.layout = FlatLayout(self.members[0])
        size = self.layout.size
        # One more block of columns carries the loss, so that workers average it in the same message.
        self.gradients = torch.zeros(len(seeds), size + ALIGNMENT, device=device)
        self.parameters = torch.zeros_like(self.gradients)[:, :size]
        self.losses = self.gradients[:, size]
        for index, member in enumerate(self.members):
            move_into(member, self.layout.views(self.parameters[index]), self.layout.views(self.gradients[index]))
            member.to(device)
        rate, shared = algorithm.average_rate, (seeds, self.layout, self.parameters)
        self.average = None if rate is None else WeightAverage(algorithm, rate, *shared)
        self.acting = self.members if self.average is None else self.average.members
        self.targets = TargetNetworks(algorithm.targets, self.members, self.layout, self.parameters)

    @property
    def acting_values(self) -> torch.Tensor:
        """The parameters [K, P] that the members act with: the trained ones, or their averages where kept."""
        return self.parameters if self.average is None else self.average.values

    def without_dropout(self) -> AbstractContextManager[None]:
        """Let nothing be dropped out, as in acting and in held-out losses."""
        return without_dropout(_distinct(*self.members, *self.acting) if self.drops else [])

    def load_encoder(self, weights: Mapping[str, torch.Tensor], origin: str, members: Sequence[int]) -> LoadedEncoder:
        """Put another network's encoder weights into members; return what was loaded. SpecError if nothing was."""
        networks = _distinct(*(self.members[k] for k in members), *(self.acting[k] for k in members))
        reports = [load_encoder(network, weights, origin) for network in networks]
        self.targets.restart(members)
        return reports[0]

    def weights(self, k: int) -> dict[str, torch.Tensor]:
        """Return copies, on the CPU, of the weights that member k acts with (the averaged ones where kept)."""
        return {name: value.detach().cpu().clone() for name, value in self.acting[k].state_dict().items()}

    def member_state(self, k: int) -> dict[str, Any]:
        """Return member k's weights, averages, targets and constants, those that there are, on the CPU."""
        state: dict[str, Any] = {"weights": self.layout.copies(self.parameters[k])}
        if self.average is not None:
            state["averages"] = self.layout.copies(self.average.values[k])
        if targets := self.targets.member_state(k):
            state["targets"] = targets
        buffers = {n: value for n, value in self.members[k].state_dict().items() if n not in self.layout.shapes}
        if buffers:  # constants that came from a file, which may be gone
            state["buffers"] = {name: value.cpu().clone() for name, value in buffers.items()}
        return state

    def load_member_state(self, k: int, state: Mapping[str, Any]) -> None:
        """Take member k back to what `member_state` returned; CheckpointError if it is of another network."""
        self.layout.fill(self.parameters[k], state["weights"])
        if self.average is not None:  # a fork may begin to average where its parent did not
            self.layout.fill(self.average.values[k], state.get("averages", state["weights"]))
        self.targets.load_member_state(k, state.get("targets", {}))
        if "buffers" in state:
            for module in _distinct(self.members[k], self.acting[k]):
                module.load_state_dict(state["buffers"], strict=False)
            self.targets.load_buffers(k, state["buffers"])


def _distinct(*networks: nn.Module) -> list[nn.Module]:
    return list({id(network): network for network in networks}.values())
