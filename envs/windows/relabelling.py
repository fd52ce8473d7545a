"""Which later state of an episode a step is shown as its goal. Pure functions of random numbers that the caller draws.

Shapes: b samples. An episode of T steps has the states 0 to T; the state T comes after its last action. A goal offset
says how many states ahead of step i the goal lies, in [1, T - i].

OGBench's strategies (GCDataset, arXiv 2410.20092) take the next state as one among the others. BridgeData's (Walke et
al. 2023, arXiv 2308.12952) take later ones, and the next state only for a share `reached_proportion` of the steps and
for the last one: those have reached their goal and get reward 0, all others -1. The strategies are in `goals/`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np

from understudy.errors import SpecError
from understudy.registry import goal_strategies


@dataclass(frozen=True)
class Relabelled:
    """The steps that a strategy chooses goals for."""

    index: np.ndarray
    """int64 [b]: each step's place in its episode, from 0."""
    length: np.ndarray
    """int64 [b]: steps of its episode."""
    places: np.ndarray
    """[b] in [0, 1): the random numbers that choose."""
    discount: float
    delta: tuple[int, int]
    """`goal_delta`: states ahead, from the first to below the second."""
    after_next: bool
    """Whether the goal shall come after the next state, which a share of the steps gets anyway (BridgeData's)."""

    def __post_init__(self) -> None:
        if not 1 <= self.delta[0] < self.delta[1]:
            raise SpecError(f"goal_delta={list(self.delta)}: the first must be at least 1 and below the second")

    @property
    def ahead(self) -> np.ndarray:
        """States that are left, [b]."""
        return self.length - self.index


class GoalStrategy(Protocol):
    """A rule for goals, registered under the name that `goal_relabelling` takes."""

    def __call__(self, steps: Relabelled, /) -> np.ndarray:
        """Return goal offsets [b], at least 1; what lies beyond the end is cut to the last state."""
        ...


def goal_offsets(
    strategy: str,
    index: np.ndarray,
    length: np.ndarray,
    places: np.ndarray,
    *,
    discount: float = 0.99,
    delta: tuple[int, int] = (1, 25),
    reached_proportion: float | None = None,
    reached_places: np.ndarray | None = None,
) -> np.ndarray:
    """Return goal offsets int64 [b] for steps `index` [b] of episodes of `length` [b] steps.

    `places` [b] in [0, 1) choose the goals; `reached_places` [b] in [0, 1) choose which goals are reached, and are
    needed where `reached_proportion` is above 0. Without a `reached_proportion` uniform and geometric are OGBench's.
    """
    if not 0.0 <= (reached_proportion or 0.0) <= 1.0:
        raise SpecError(f"reached_proportion {reached_proportion}: must be at least 0 and at most 1")
    steps = Relabelled(
        np.asarray(index), np.asarray(length), np.asarray(places), discount, delta, reached_proportion is not None
    )
    chosen = goal_strategies.get(strategy)(steps)
    if np.shape(chosen) != steps.index.shape or not (chosen >= 1).all():
        origin = goal_strategies.origin(strategy)
        raise SpecError(f"goal strategy {strategy!r} ({origin}) must give each step [b] an offset of at least 1")
    offsets = np.minimum(chosen, steps.ahead).astype(np.int64)
    if reached_proportion:
        if reached_places is None:
            raise SpecError(f"reached_proportion {reached_proportion}: needs a number in [0, 1) for each sample")
        offsets = np.where(reached_places < reached_proportion, np.int64(1), offsets)
    return offsets
