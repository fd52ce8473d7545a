"""The metrics of a pack's phases, each of the update that the phase last had a part in: not all are taken at each."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import torch

from understudy.errors import SpecError

Tensors = dict[str, torch.Tensor]


class PhaseMetrics:
    """Metrics [K] by the names of phases; no two phases may name one alike."""

    def __init__(self, members: int, device: torch.device) -> None:
        self._members, self._device = members, device
        self._newest: dict[str, Tensors] = {}

    def note(self, phase: str, metrics: Tensors, members: Sequence[int]) -> None:
        """Take `members`' metrics [M] of a phase's newest step; SpecError for one that another phase names alike."""
        if phase not in self._newest:
            check_names(self._newest, phase, metrics)
        if len(members) == self._members:
            self._newest[phase] = metrics
            return
        before, rows = self._newest.get(phase, {}), torch.tensor(members, device=self._device)
        self._newest[phase] = {
            name: (before[name] if name in before else self._none(value)).index_copy(0, rows, value)
            for name, value in metrics.items()
        }

    def _none(self, like: torch.Tensor) -> torch.Tensor:
        return torch.full((self._members,), torch.nan, dtype=like.dtype, device=self._device)

    def all(self, members: Sequence[int]) -> Tensors:
        """Return the metrics of all phases, each [M] of `members`."""
        found = {name: value for metrics in self._newest.values() for name, value in metrics.items()}
        if len(members) == self._members:
            return found
        return {name: value[list(members)] for name, value in found.items()}

    def member_state(self, k: int) -> dict[str, dict[str, float]]:
        """Return member k's, as numbers."""
        return {
            phase: {name: value[k].item() for name, value in metrics.items()} for phase, metrics in self._newest.items()
        }

    def load_member_state(self, k: int, state: Mapping[str, Mapping[str, float]]) -> None:
        """Take member k's back to what `member_state` returned."""
        for phase, metrics in state.items():
            held = self._newest.setdefault(phase, {})
            for name, value in metrics.items():
                held.setdefault(name, torch.zeros(self._members, device=self._device))[k] = value


def check_names(known: Mapping[str, Collection[str]], phase: str, metrics: Collection[str]) -> None:
    """Raise SpecError for a metric of a phase that another phase, of those known, names alike."""
    for other, names in known.items():
        for name in metrics:
            if name in names:
                raise SpecError(
                    f"the phases {other!r} and {phase!r} both have a metric {name!r}, of which one would be lost:"
                    " name them apart"
                )
