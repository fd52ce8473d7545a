"""Race configurations over seeds: few seeds for all of them, more for the promising. Pure rules; no files, no Ray.

`halving` gives all the first seed, the best third (at least 2) three, the best third of these all. Its cost is about a
third of all seeds for all, and it may drop the best. `guaranteed` drops a configuration only where its mean is clearly
below the leader's: the best is ever dropped with probability ALPHA at most, for normal seeds on fixed start states.
A drop is no claim of "worse".

Shape suffixes: N configurations, G evaluation-time settings, K seeds.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

import numpy as np

from understudy.errors import UserError

if TYPE_CHECKING:
    from understudy.sweeping.sweep_spec import SweepSpec

Rule = Literal["none", "halving", "guaranteed"]
LOOKS: dict[Rule, tuple[int, ...]] = {"none": (), "halving": (1, 3), "guaranteed": (2, 3, 4, 6, 8)}
"""Seeds that those in the race have at each look; the last look is at all seeds."""
KEPT, LEAST = 3, 2
"""Halving lets a third go on, and at least two."""
ALPHA = 0.05


def looks(rule: Rule, seeds: int) -> tuple[int, ...]:
    """Return how many seeds those in the race have at each look, the last one being all of them."""
    return (*(look for look in LOOKS[rule] if look < seeds), seeds)


def first_seeds(spec: SweepSpec) -> tuple[int, ...]:
    """Return the seeds that every trial is trained with."""
    seeds = spec.base.all_seeds
    return seeds[: looks(spec.options.racing, len(seeds))[0]]


def survivors(
    rule: Rule, means: Sequence[np.ndarray], alive: Sequence[int], number_of_looks: int, floor: float = 0.0
) -> list[int]:
    """Return which of `alive` go on to the next look, best first.

    `means[i]` are configuration i's seed means (higher is better) so far, also of those that were dropped before.
    `floor` is the least variance of a seed's mean that is believed, against seeds that agree by chance.
    """
    ordered = sorted(alive, key=lambda place: (-float(means[place].mean()), place))
    if rule == "halving":
        return ordered[: max(LEAST, len(ordered) // KEPT)]
    if rule == "guaranteed":
        return [place for place in ordered if not _clearly_below(means, place, ordered[0], number_of_looks, floor)]
    return ordered


def _clearly_below(means: Sequence[np.ndarray], place: int, leader: int, number_of_looks: int, floor: float) -> bool:
    """Return whether m_leader - m_place > t(1 - ALPHA / ((N-1) R), nu) s sqrt(2 / k), s pooled over configurations."""
    from scipy.special import stdtrit

    freedom = sum(len(own) - 1 for own in means)
    gap = float(means[leader].mean() - means[place].mean())
    if place == leader or freedom < 1:
        return False
    pooled = sum(float(((own - own.mean()) ** 2).sum()) for own in means) / freedom
    spread = math.sqrt(max(pooled, floor) * 2 / len(means[place]))
    return gap > float(stdtrit(freedom, 1 - ALPHA / ((len(means) - 1) * number_of_looks))) * spread


def binomial_floor(rates: np.ndarray, episodes: int) -> float:
    """Return the variance that chance alone gives a seed's success rate over so many episodes, at the mean rate."""
    rate = float(np.clip(rates.mean(), 0.5 / episodes, 1 - 0.5 / episodes))
    return rate * (1 - rate) / episodes


# ---- on recorded scores ----


@dataclass(frozen=True)
class RaceReplay:
    """What a rule would have done on recorded scores."""

    seed_runs: int
    all_seed_runs: int
    picked: int
    best: int
    regret: float
    """How much better the best of all seeds is than the picked one, both by all their seeds."""
    rounds: list[tuple[int, list[int]]] = field(default_factory=list[tuple[int, list[int]]])
    """(seeds, configurations that had them)."""

    @property
    def cost(self) -> float:
        """The share of the seeds of all configurations that were trained."""
        return self.seed_runs / self.all_seed_runs


def replay(rule: Rule, scores_NGK: np.ndarray, floor: float = 0.0) -> RaceReplay:
    """Race on recorded seed means (higher is better), at each look at each configuration's best setting so far."""
    if scores_NGK.ndim != 3 or scores_NGK.shape[0] < 2:
        raise UserError("a race is between at least two configurations that have all their seeds")
    number, _, seeds = scores_NGK.shape
    stages, alive, trained = looks(rule, seeds), list(range(number)), np.zeros(number, int)
    rounds: list[tuple[int, list[int]]] = []
    for stage, look in enumerate(stages):
        trained[alive] = look
        rounds.append((look, sorted(alive)))
        means = [at_best_setting(scores_NGK[place, :, : trained[place]]) for place in range(number)]
        if stage + 1 < len(stages):
            alive = survivors(rule, means, alive, len(stages), floor)
    whole = scores_NGK.mean(axis=2).max(axis=1)
    picked = max(alive, key=lambda place: (whole[place], -place))
    best = int(whole.argmax())
    regret = float(whole[best] - whole[picked])
    return RaceReplay(int(trained.sum()), number * seeds, picked, best, regret, rounds)


def at_best_setting(scores_GK: np.ndarray) -> np.ndarray:
    """Return the seed means [K] of the setting with the highest mean."""
    return scores_GK[int(scores_GK.mean(axis=1).argmax())]
