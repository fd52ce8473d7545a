"""Population-based training within one pack (Jaderberg et al. 2017, arXiv 1711.09846).

Each member begins with settings of its own, drawn evenly on a logarithmic scale within their bounds. When an exchange
is due, after an evaluation, the worst members take the whole state of one of the best (weights, optimiser, averages,
settings), and then change each setting: times 0.8 or 1.2, or drawn anew. All draws are pure functions of (seed, step):
a run that goes on from a checkpoint exchanges what it would have. A member keeps its seed: its batches and its noise.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

from understudy.randomness import numpy_generator
from understudy.spec.population import Population
from understudy.spec.run import RunSpec

FACTORS = (0.8, 1.2)
Score = tuple[float, float]
"""What members are ranked by: the objective, ties broken by the return; higher is better."""


def first_settings(spec: RunSpec) -> list[dict[str, float]] | None:
    """Return the settings that each member begins with; None for a run without a population."""
    bounds = spec.population.pbt
    if bounds is None:
        return None
    return [
        {name: _drawn(numpy_generator(seed, f"pbt {name}"), *ends) for name, ends in bounds.items()}
        for seed in spec.all_seeds
    ]


def _drawn(generator: np.random.Generator, low: float, high: float) -> float:
    return math.exp(generator.uniform(math.log(low), math.log(high)))


def exchanges(population: Population, seeds: Sequence[int], step: int, scores: Sequence[Score]) -> dict[int, int]:
    """Return which member takes whose state after a step: {place of the worse one: place of the better one}.

    A score that is no number is the worst. Nobody takes the state of one that is no better.
    """
    known = [(-math.inf, -math.inf) if math.isnan(score[0]) else score for score in scores]
    order = sorted(range(len(seeds)), key=lambda place: (known[place], -place), reverse=True)
    count = max(1, round(population.pbt_share * len(seeds)))
    best, worst = order[:count], order[max(count, len(order) - count) :]
    taken = {place: best[int(_generator(seeds[place], step).integers(len(best)))] for place in worst}
    return {place: other for place, other in taken.items() if known[other][0] > known[place][0]}


def explored(population: Population, seed: int, step: int, settings: Mapping[str, float]) -> dict[str, float]:
    """Return what a member makes of the settings that it took over, within their bounds."""
    changed: dict[str, float] = {}
    for name, (low, high) in (population.pbt or {}).items():
        generator = numpy_generator(seed, f"pbt explore {name}", step)
        if generator.random() < population.pbt_resample:
            changed[name] = _drawn(generator, low, high)
        else:
            changed[name] = min(max(settings[name] * FACTORS[int(generator.integers(2))], low), high)
    return changed


def _generator(seed: int, step: int) -> np.random.Generator:
    return numpy_generator(seed, "pbt exploit", step)
