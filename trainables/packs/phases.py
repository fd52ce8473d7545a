"""Which parameters each phase of an update moves, and which of them learn alike."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

from understudy.algorithm import Algorithm, Phase, belongs
from understudy.errors import SpecError
from understudy.trainables.packs.flat import FlatLayout


@dataclass(frozen=True)
class ParameterGroup:
    """Parameters of one phase that learn alike: their place in a row, and a learning rate of their own or None."""

    place: slice
    rate: float | None


def phases_of(algorithm: Algorithm, layout: FlatLayout) -> tuple[Phase, ...]:
    """Return an algorithm's phases; SpecError unless each parameter belongs to exactly one of them."""
    phases, moved = tuple(algorithm.phases), {}
    for phase in phases:
        for name in moved_by(phase, layout):
            if name in moved:
                raise SpecError(f"{algorithm.name}: the phases {moved[name]!r} and {phase.name!r} both move {name}")
            moved[name] = phase.name
    left = [name for name in layout.shapes if name not in moved]
    if left:
        raise SpecError(f"{algorithm.name}: no phase moves {', '.join(left[:3])}; each parameter belongs to one")
    return phases


def moved_by(phase: Phase, layout: FlatLayout) -> dict[str, None]:
    """Return the names of the parameters that a phase moves, in the layout's order; SpecError for a part without."""
    for part in phase.parts:
        if not any(belongs(name, part) for name in layout.shapes):
            raise SpecError(f"phase {phase.name!r} moves {part!r}, and the network has no parameters of that name")
    if not phase.parts:
        return dict.fromkeys(layout.shapes)
    return dict.fromkeys(name for name in layout.shapes if any(belongs(name, part) for part in phase.parts))


def groups(rates: Mapping[str, float], layout: FlatLayout, moved: Collection[str]) -> list[ParameterGroup]:
    """Return the groups of the parameters that are `moved`, by the `rates` of the parts that they belong to."""
    for part, rate in rates.items():
        if not any(belongs(name, part) for name in layout.shapes):
            raise SpecError(f"{part}_lr={rate}: this network has no parameters under {f'{part}.'!r}")

    def key(name: str) -> tuple[bool, float | None]:
        return name in moved, next((rate for part, rate in rates.items() if belongs(name, part)), None)

    return [ParameterGroup(place, rate) for (inside, rate), place in layout.stretches(key) if inside]
