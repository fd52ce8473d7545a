"""Intervals over K seeds x E episodes: what every table, curve and sweep objective here reports.

Shape suffixes: K seeds, E episodes of one seed. Numpy and scipy only; scipy is imported on first use,
because the command line must start quickly.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from understudy.errors import UserError

CONFIDENCE = 0.95


@dataclass(frozen=True)
class Interval:
    """A mean over seeds with its 95 % interval and the interquartile mean over seeds."""

    mean: float
    low: float
    high: float
    iqm: float
    n_seeds: int
    n_episodes: int
    """Episodes of each seed."""

    def __str__(self) -> str:
        counts = f"{_count(self.n_seeds, 'seed')} x {_count(self.n_episodes, 'episode')}"
        return f"{_number(self.mean)} [{_number(self.low)}, {_number(self.high)}] ({counts})"

    def as_metrics(self, name: str) -> dict[str, float]:
        """Return csv and MLflow columns: name, name_low, name_high, name_iqm, name_seeds, name_episodes."""
        return {
            name: self.mean,
            f"{name}_low": self.low,
            f"{name}_high": self.high,
            f"{name}_iqm": self.iqm,
            f"{name}_seeds": float(self.n_seeds),
            f"{name}_episodes": float(self.n_episodes),
        }


def wilson(successes: float, trials: int, confidence: float = CONFIDENCE) -> tuple[float, float]:
    """Return Wilson's score interval of a success rate.

    With p = successes / trials and z the normal quantile, the centre is (p + z^2 / 2n) / (1 + z^2 / n) and the half
    width z / (1 + z^2 / n) * sqrt(p (1 - p) / n + z^2 / 4n^2) (Wilson 1927, JASA 22:209). Unlike p +- z s it stays in
    [0, 1] and has a width at 0 and at 1.
    """
    from scipy.special import ndtri

    if trials < 1:
        return 0.0, 1.0
    z = float(ndtri(0.5 + confidence / 2))
    p, z2n = successes / trials, z * z / trials
    centre = (p + z2n / 2) / (1 + z2n)
    half = z / (1 + z2n) * float(np.sqrt(p * (1 - p) / trials + z2n / (4 * trials)))
    low = 0.0 if successes == 0 else max(0.0, centre - half)
    high = 1.0 if successes == trials else min(1.0, centre + half)
    return low, high


def student_t(values: ArrayLike, confidence: float = CONFIDENCE) -> tuple[float, float]:
    """Return mean +- t(n - 1) * s / sqrt(n), s over n - 1 (Student 1908); one value is both ends itself."""
    from scipy.special import stdtrit

    samples = np.asarray(values, np.float64)
    mean = float(samples.mean())
    if samples.size < 2:
        return mean, mean
    spread = float(samples.std(ddof=1)) / float(np.sqrt(samples.size))
    half = float(stdtrit(samples.size - 1, 0.5 + confidence / 2)) * spread
    return mean - half, mean + half


def interquartile_mean(values: ArrayLike) -> float:
    """Return the mean without the lowest and the highest quarter (Agarwal et al. 2021, arXiv 2108.13264).

    As scipy.stats.trim_mean(values, 0.25): fewer than four values are all kept.
    """
    samples = np.sort(np.asarray(values, np.float64).ravel())
    cut = int(0.25 * samples.size)
    return float(samples[cut : samples.size - cut].mean())


def interval(successes_KE: ArrayLike) -> Interval:
    """Return the interval of a success rate; `successes_KE` is [K, E] (or [E], one seed) of 0 and 1.

    Episodes of one seed share a policy, so they are not independent over seeds: the interval is the wider of Wilson's
    over the K * E pooled episodes (what finite episodes leave open) and Student's t over the K seed means clipped to
    [0, 1] (what finite seeds leave open). One seed has no second part: Wilson alone, which then says nothing about
    other seeds.
    """
    scores = _matrix(successes_KE, "successes")
    if bool(((scores < 0) | (scores > 1)).any()):
        raise UserError(f"successes must be between 0 and 1, got {scores.min():g} to {scores.max():g}")
    means = scores.mean(axis=1)
    low, high = wilson(float(scores.sum()), scores.size)
    if len(means) > 1:
        t_low, t_high = (float(np.clip(edge, 0, 1)) for edge in student_t(means))
        if t_high - t_low > high - low:
            low, high = t_low, t_high
    return _interval(scores, low, high)


def return_interval(returns_KE: ArrayLike) -> Interval:
    """Return Student's t interval of an unbounded score [K, E] over seed means; with one seed, over its episodes."""
    scores = _matrix(returns_KE, "returns")
    low, high = student_t(scores.mean(axis=1) if len(scores) > 1 else scores[0])
    return _interval(scores, low, high)


def _interval(scores_KE: np.ndarray, low: float, high: float) -> Interval:
    means = scores_KE.mean(axis=1)
    return Interval(float(means.mean()), low, high, interquartile_mean(means), *scores_KE.shape)


def _matrix(values: ArrayLike, what: str) -> np.ndarray:
    """Return float64 [K, E]; raise UserError for the wrong shape, no episodes or NaN."""
    scores = np.asarray(values, np.float64)
    scores = scores[None] if scores.ndim == 1 else scores
    if scores.ndim != 2 or scores.size == 0:
        raise UserError(f"{what} must be [seeds, episodes] with at least one of each, got shape {scores.shape}")
    if not np.isfinite(scores).all():
        raise UserError(f"{what} of seed {int(np.argmin(np.isfinite(scores).all(axis=1)))} hold NaN or infinity")
    return scores


def _number(value: float) -> str:
    return f"{value:.2f}" if abs(value) < 100 else f"{value:.1f}"


def _count(n: int, noun: str) -> str:
    return f"{n} {noun}{'' if n == 1 else 's'}"
