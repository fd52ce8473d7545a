"""How much each swept key alone explains of the trials' scores, with its spread. Numpy only: no fitted model."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

FEWEST = 6
"""Complete trials below which nothing is said."""
HALVES = 200
BINS = 5


@dataclass(frozen=True)
class Share:
    """The share of the scores' variance between groups of one key's values, adjusted for their number."""

    key: str
    share: float
    low: float
    high: float
    """Where 95 % of the shares lie that random halves of the trials give."""


def importance(values: Mapping[str, Sequence[Any]], scores: Sequence[float], seed: int = 0) -> list[Share]:
    """Return each key's share, the largest first; [] for fewer than FEWEST trials or without any spread.

    Of N trials in g groups (each value of a list; of numbers with many values, up to BINS quantiles of like size) it is
    1 - (SSW / (N - g)) / (SST / (N - 1)), the adjusted correlation ratio: 0 expected of a key that changes nothing.
    """
    y = np.asarray(scores, float)
    if len(y) < FEWEST or not np.ptp(y):
        return []
    random = np.random.default_rng(seed)
    halves = [random.choice(len(y), size=max(4, len(y) // 2), replace=False) for _ in range(HALVES)]
    found: list[Share] = []
    for key, given in values.items():
        groups = grouped(given)
        spread = [ratio for half in halves if not np.isnan(ratio := explained(groups[half], y[half]))]
        whole = explained(groups, y)
        if np.isnan(whole) or not spread:
            continue
        low, high = np.percentile(spread, [2.5, 97.5])
        found.append(Share(key, max(0.0, whole), max(0.0, float(low)), max(0.0, float(high))))
    return sorted(found, key=lambda item: item.share, reverse=True)


def grouped(values: Sequence[Any]) -> np.ndarray:
    """Return the group of each value, whole numbers [N]."""
    texts = [json.dumps(value, default=str) for value in values]
    known = {text: place for place, text in enumerate(dict.fromkeys(texts))}
    numeric = all(isinstance(value, int | float) and not isinstance(value, bool) for value in values)
    if len(known) <= BINS or not numeric:
        return np.array([known[text] for text in texts])
    bins = max(2, min(BINS, len(values) // 4))
    ranks = np.argsort(np.argsort(np.asarray(values, float), kind="stable"), kind="stable")
    return ranks * bins // len(values)


def explained(groups: np.ndarray, scores: np.ndarray) -> float:
    """Return the adjusted correlation ratio; NaN where it is not defined."""
    names, inverse = np.unique(groups, return_inverse=True)
    n, g = len(scores), len(names)
    total = float(((scores - scores.mean()) ** 2).sum())
    if g < 2 or n <= g or total <= 0:
        return float("nan")
    means = np.bincount(inverse, scores) / np.bincount(inverse)
    within = float(((scores - means[inverse]) ** 2).sum())
    return 1 - (within / (n - g)) / (total / (n - 1))
