"""Statistics as LeRobot keeps them: of each episode in meta/episodes, of the whole dataset in meta/stats.json.

All frames count (LeRobot samples pictures and estimates quantiles from histograms). Minimum, maximum, mean, standard
deviation and count of the dataset are those of all of its frames; its quantiles are the episodes', averaged by their
lengths, which is what LeRobot aggregates (`compute_stats.py`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

QUANTILES = {"q01": 0.01, "q10": 0.1, "q50": 0.5, "q90": 0.9, "q99": 0.99}
Statistics = dict[str, np.ndarray]
"""min, max, mean, std, q01 to q99 of the shape of a row; count [1]."""


def number_statistics(rows: np.ndarray) -> Statistics:
    """Return the statistics of rows [T, D], each [D]."""
    values = rows.astype(np.float64)
    found = {"min": values.min(0), "max": values.max(0), "mean": values.mean(0), "std": values.std(0)}
    quantiles = np.quantile(values, list(QUANTILES.values()), axis=0)
    return {**found, "count": np.array([len(rows)]), **dict(zip(QUANTILES, quantiles, strict=True))}


def picture_statistics(frames: np.ndarray) -> Statistics:
    """Return the statistics of frames [T, H, W, 3] uint8 over all pixels, each [3, 1, 1], on a scale of 0 to 1."""
    levels = np.arange(256)
    channels = [np.bincount(frames[..., channel].reshape(-1), minlength=256) for channel in range(3)]
    found: dict[str, list[float]] = {name: [] for name in ("min", "max", "mean", "std", *QUANTILES)}
    for counts in channels:
        present, total = np.flatnonzero(counts), counts.sum()
        mean = (counts * levels).sum() / total
        found["min"].append(present[0])
        found["max"].append(present[-1])
        found["mean"].append(mean)
        found["std"].append(float(np.sqrt((counts * (levels - mean) ** 2).sum() / total)))
        for name, share in QUANTILES.items():
            found[name].append(_quantile(counts, share))
    scaled = {name: np.array(values, np.float64).reshape(3, 1, 1) / 255 for name, values in found.items()}
    return {**scaled, "count": np.array([len(frames)])}


def _quantile(counts: np.ndarray, share: float) -> float:
    """Return a quantile of whole numbers given by how often each occurs, as numpy interpolates (linear)."""
    upto = np.cumsum(counts)
    place = share * (upto[-1] - 1)
    below = np.searchsorted(upto, np.floor(place), side="right")
    above = np.searchsorted(upto, np.ceil(place), side="right")
    return float(below + (above - below) * (place - np.floor(place)))


def pool(first: Statistics | None, second: Statistics) -> Statistics:
    """Return the statistics of two parts together."""
    if first is None:
        return second
    counts = [float(part["count"][0]) for part in (first, second)]
    shares = [count / sum(counts) for count in counts]

    def average(name: str) -> np.ndarray:
        return shares[0] * first[name] + shares[1] * second[name]

    mean = average("mean")
    spread = sum(
        share * (part["std"] ** 2 + (part["mean"] - mean) ** 2)
        for share, part in zip(shares, (first, second), strict=True)
    )
    return {
        "min": np.minimum(first["min"], second["min"]),
        "max": np.maximum(first["max"], second["max"]),
        "mean": mean,
        "std": np.sqrt(spread),
        "count": first["count"] + second["count"],
        **{name: average(name) for name in QUANTILES},
    }


def pool_all(first: Mapping[str, Statistics], second: Mapping[str, Statistics]) -> dict[str, Statistics]:
    """Return the statistics of two parts together, by feature."""
    return {key: pool(first.get(key), part) for key, part in second.items()}


def as_lists(statistics: Mapping[str, Statistics]) -> dict[str, dict[str, Any]]:
    """Return statistics as JSON values."""
    return {key: {name: value.tolist() for name, value in part.items()} for key, part in statistics.items()}
