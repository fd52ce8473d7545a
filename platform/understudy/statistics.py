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
class ConfidenceInterval:
    """A mean over seeds with its 95 % interval and the interquartile mean over seeds."""

    mean: float
    low: float
    """NaN, as is `high`, without any spread to estimate it from: one episode of one seed of an unbounded score."""
    high: float
    iqm: float
    n_seeds: int
    n_episodes: int
    """Episodes of each seed."""

    def __str__(self) -> str:
        counts = f"{_count(self.n_seeds, 'seed')} x {_count(self.n_episodes, 'episode')}"
        ends = "no interval" if np.isnan(self.low) else f"[{_number(self.low)}, {_number(self.high)}]"
        return f"{_number(self.mean)} {ends} ({counts})"

    def as_metrics(self, name: str) -> dict[str, float]:
        """Return csv and MLflow columns: name, name_low and name_high where known, _iqm, _seeds, _episodes."""
        ends = {} if np.isnan(self.low) else {f"{name}_low": self.low, f"{name}_high": self.high}
        return {
            name: self.mean,
            **ends,
            f"{name}_iqm": self.iqm,
            f"{name}_seeds": float(self.n_seeds),
            f"{name}_episodes": float(self.n_episodes),
        }


def wilson(
    successes: float, trials: float, confidence: float = CONFIDENCE, *, quantile: float | None = None
) -> tuple[float, float]:
    """Return Wilson's score interval of a success rate.

    With p = successes / trials and z the normal quantile (or `quantile`), the centre is (p + z^2 / 2n) / (1 + z^2 / n)
    and the half width z / (1 + z^2 / n) * sqrt(p (1 - p) / n + z^2 / 4n^2) (Wilson 1927, JASA 22:209). Unlike p +- z s
    it stays in [0, 1] and has a width at 0 and at 1. `trials` may be a fraction: an effective number of episodes.
    """
    from scipy.special import ndtri

    if trials <= 0:
        return 0.0, 1.0
    z = float(ndtri(0.5 + confidence / 2)) if quantile is None else quantile
    p, z2n = successes / trials, z * z / trials
    centre = (p + z2n / 2) / (1 + z2n)
    half = z / (1 + z2n) * float(np.sqrt(p * (1 - p) / trials + z2n / (4 * trials)))
    low = 0.0 if successes == 0 else max(0.0, centre - half)
    high = 1.0 if successes == trials else min(1.0, centre + half)
    return low, high


def student_t(values: ArrayLike, confidence: float = CONFIDENCE) -> tuple[float, float]:
    """Return mean +- t(n - 1) * s / sqrt(n), s over n - 1 (Student 1908); NaN for one value."""
    from scipy.special import stdtrit

    samples = np.asarray(values, np.float64)
    mean = float(samples.mean())
    if samples.size < 2:
        return float("nan"), float("nan")
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


@dataclass(frozen=True)
class Crossed:
    """Variance of the mean of y [K, E] whose K seeds all play the same E start states, for other seeds and states.

    With the mean squares MSA of the seeds' means, MSB of the states' and MSR of the rest (two-way layout, one value a
    cell, both factors random), V = max(MSA + MSB - MSR, MSA, MSB, MSR) / (K E), and Satterthwaite's degrees of freedom
    are (V K E)^2 / (MSA^2 / (K-1) + MSB^2 / (E-1) + MSR^2 / ((K-1) (E-1))), at least K - 1.
    """

    variance: float
    freedom: float
    rest: float
    """MSR / (K E): the share of the variance that is neither the seeds' nor the states'."""

    @classmethod
    def of(cls, scores_KE: np.ndarray) -> Crossed:
        """Return the variance of the mean of at least two seeds and two states."""
        seeds, states = scores_KE.shape
        mean, by_seed, by_state = scores_KE.mean(), scores_KE.mean(axis=1), scores_KE.mean(axis=0)
        msa = states * float(((by_seed - mean) ** 2).sum()) / (seeds - 1)
        msb = seeds * float(((by_state - mean) ** 2).sum()) / (states - 1)
        rest = scores_KE - by_seed[:, None] - by_state[None] + mean
        msr = float((rest**2).sum()) / ((seeds - 1) * (states - 1))
        total = max(msa + msb - msr, msa, msb, msr)
        terms = msa**2 / (seeds - 1) + msb**2 / (states - 1) + msr**2 / ((seeds - 1) * (states - 1))
        freedom = max(seeds - 1.0, total**2 / terms) if terms > 0 else seeds - 1.0
        return cls(total / scores_KE.size, freedom, msr / scores_KE.size)


def interval(successes_KE: ArrayLike, *, fixed_states: bool = False) -> ConfidenceInterval:
    """Return the interval of a success rate; `successes_KE` is [K, E] (or [E], one seed) of 0 and 1.

    All seeds play the same start states, so seeds and states are crossed (`Crossed`): the interval is Wilson's with
    the effective number of episodes n = min(K E, p (1 - p) / V) and the t quantile for z. It holds for other seeds and
    other states. All 0 or all 1: Wilson's with n = E. One seed: Wilson's over its E episodes, for this policy. One
    episode, or `fixed_states` (for other seeds on these states only): Student's t over the K seed means.
    """
    scores = _matrix(successes_KE, "successes")
    if bool(((scores < 0) | (scores > 1)).any()):
        raise UserError(f"successes must be between 0 and 1, got {scores.min():g} to {scores.max():g}")
    (seeds, states), rate = scores.shape, float(scores.mean())
    if seeds == 1 or rate in (0.0, 1.0):
        return _interval(scores, *wilson(rate * states, states))
    if states == 1 or fixed_states:
        low, high = student_t(scores.mean(axis=1))
        return _interval(scores, max(0.0, low), min(1.0, high))
    crossed = Crossed.of(scores)
    effective = min(scores.size, rate * (1 - rate) / crossed.variance)
    return _interval(scores, *wilson(rate * effective, effective, quantile=_t_quantile(crossed.freedom)))


def return_interval(returns_KE: ArrayLike, *, fixed_states: bool = False) -> ConfidenceInterval:
    """Return the interval of an unbounded score [K, E]: the mean +- t sqrt(V), seeds and states crossed (`Crossed`).

    One seed: Student's t over its episodes, for this policy. One episode, or `fixed_states`: t over the seed means.
    """
    scores = _matrix(returns_KE, "returns")
    seeds, states = scores.shape
    if seeds == 1:
        return _interval(scores, *student_t(scores[0]))
    if states == 1 or fixed_states:
        return _interval(scores, *student_t(scores.mean(axis=1)))
    crossed, mean = Crossed.of(scores), float(scores.mean())
    half = _t_quantile(crossed.freedom) * float(np.sqrt(crossed.variance))
    return _interval(scores, mean - half, mean + half)


def _t_quantile(freedom: float, confidence: float = CONFIDENCE) -> float:
    from scipy.special import stdtrit

    return float(stdtrit(freedom, 0.5 + confidence / 2))


def _interval(scores_KE: np.ndarray, low: float, high: float) -> ConfidenceInterval:
    means = scores_KE.mean(axis=1)
    return ConfidenceInterval(float(means.mean()), low, high, interquartile_mean(means), *scores_KE.shape)


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
