"""Compare configurations: paired on the same start states, several at once, and over tasks as rliable defines it.

Shape suffixes: K seeds (runs), E start states, T tasks. Numpy and scipy only.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from understudy.errors import UserError
from understudy.statistics import CONFIDENCE, Crossed

SIGNIFICANCE = 1 - CONFIDENCE
ROUNDING = 1e-9
"""A standard error below this share of the largest score is rounding, and counts as 0."""


@dataclass(frozen=True)
class Difference:
    """The difference of two configurations' mean scores, its interval, and the two-sided p that it is 0."""

    mean: float
    low: float
    """NaN, as is `high`, without any spread to estimate an interval from."""
    high: float
    p: float

    @property
    def ends(self) -> tuple[float, float] | None:
        """The interval; None where there is none."""
        return None if np.isnan(self.low) else (self.low, self.high)

    @property
    def distinguishable(self) -> bool:
        """Whether the difference is significant, if it is the only comparison made."""
        return self.p < SIGNIFICANCE


def paired_difference(first_KE: ArrayLike, second_JE: ArrayLike, *, rate: bool = False) -> Difference:
    """Return first minus second, two configurations with seeds of their own that play the same E start states.

    With VA the variance of the mean of the seeds' means, VR = MSR / (K E) of each (`Crossed`), and VS the variance of
    the mean of the states' differences, V = max(VA1 + VA2 + VS - VR1 - VR2, VA1 + VA2, VS), with Satterthwaite's
    degrees of freedom. One seed each: the states' differences alone, for these two policies. One state: the seeds.
    Where V is 0, all seeds and states agree, which few do by chance: see `_without_spread`. `rate`: scores are 0 or 1.
    """
    first, second = np.atleast_2d(np.asarray(first_KE, float)), np.atleast_2d(np.asarray(second_JE, float))
    if first.shape[1] != second.shape[1]:
        raise UserError(f"scores on {first.shape[1]} and on {second.shape[1]} start states are not pairs")
    terms = [(_seed_variance(scores), len(scores) - 1) for scores in (first, second) if len(scores) > 1]
    between_seeds, states = sum(term for term, _ in terms), first.shape[1]
    differences = first.mean(axis=0) - second.mean(axis=0)
    if states > 1:
        terms.append((float(differences.var(ddof=1)) / states, states - 1))
    if not terms:
        raise UserError("one seed and one start state of each configuration have no spread to compare with")
    between_states = terms[-1][0] if states > 1 else 0.0
    counted_twice = sum(Crossed.of(scores).rest for scores in (first, second) if min(scores.shape) > 1)
    variance = max(between_seeds + between_states - counted_twice, between_seeds, between_states)
    mean = float(differences.mean())
    if variance <= (ROUNDING * max(np.abs(first).max(), np.abs(second).max())) ** 2:
        return _without_spread(first, second, rate)
    return _student_t(mean, variance, variance**2 / sum(term**2 / df for term, df in terms))


def _student_t(mean: float, variance: float, freedom: float) -> Difference:
    from scipy.special import stdtr, stdtrit

    error = float(np.sqrt(variance))
    half = float(stdtrit(freedom, 0.5 + CONFIDENCE / 2)) * error
    return Difference(mean, mean - half, mean + half, 2 * float(stdtr(freedom, -abs(mean) / error)))


def _without_spread(first_KE: np.ndarray, second_JE: np.ndarray, rate: bool) -> Difference:
    """Return the difference of scores that have no spread of their own: all 1 and all 0, say.

    Rates have the spread that chance alone gives them: p (1 - p) / n each, n the states (the seeds, where there is one
    state) and p half an episode from 0 and from 1 at least, with Student's t. Other scores have no interval, and the
    p of a sign test over the states, 2^(1 - E).
    """
    states, mean = first_KE.shape[1], float(first_KE.mean() - second_JE.mean())
    if not rate:
        return Difference(mean, float("nan"), float("nan"), 1.0 if mean == 0 else 2.0 ** (1 - states))
    variance, freedom = 0.0, states - 1.0 if states > 1 else len(first_KE) + len(second_JE) - 2.0
    for scores in (first_KE, second_JE):
        trials = states if states > 1 else len(scores)
        share = float(np.clip(abs(scores.mean()), 0.5 / trials, 1 - 0.5 / trials))
        variance += share * (1 - share) / trials
    found = _student_t(mean, variance, freedom)
    return Difference(mean, max(found.low, -1.0), min(found.high, 1.0), found.p)


def _seed_variance(scores_KE: np.ndarray) -> float:
    """Return the variance of the mean of the seeds' means."""
    return float(scores_KE.mean(axis=1).var(ddof=1)) / len(scores_KE)


def holm(p_values: Mapping[str, float]) -> dict[str, float]:
    """Return p values adjusted for their number (Holm 1979, Scandinavian Journal of Statistics 6:65)."""
    adjusted: dict[str, float] = {}
    largest = 0.0
    for rank, (name, p) in enumerate(sorted(p_values.items(), key=lambda item: item[1])):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p))
        adjusted[name] = largest
    return {name: adjusted[name] for name in p_values}


def undistinguished(scores: Mapping[str, ArrayLike], best: str, *, rate: bool = False) -> list[str]:
    """Return the configurations whose paired difference from `best` is not significant after Holm's correction.

    `scores` are [K, E] of each configuration on the same start states, that of `best` among them, which must have been
    chosen on other episodes. `rate`: as of `paired_difference`.
    """
    others = {name: values for name, values in scores.items() if name != best}
    p_values = {name: paired_difference(scores[best], values, rate=rate).p for name, values in others.items()}
    return [name for name, p in holm(p_values).items() if p >= SIGNIFICANCE]


def task_iqm(scores_KT: ArrayLike) -> float:
    """Return the interquartile mean of all runs on all tasks, pooled: without the int(n / 4) lowest and highest.

    As rliable's `aggregate_iqm` (Agarwal et al. 2021, arXiv 2108.13264); fewer than four scores are all kept. Never of
    0/1 episodes: where three quarters are 1, it is 1.
    """
    pooled = np.sort(np.asarray(scores_KT, float).ravel())
    cut = pooled.size // 4
    return float(pooled[cut : pooled.size - cut].mean())


def probability_of_improvement(first_KT: ArrayLike, second_JT: ArrayLike) -> float:
    """Return P(a run of the first scores higher than one of the second), the mean over tasks; ties count one half.

    The Mann-Whitney U statistic / (K J) of each task, as rliable's `probability_of_improvement`.
    """
    first, second = np.asarray(first_KT, float), np.asarray(second_JT, float)
    gaps_KJT = first[:, None, :] - second[None, :, :]
    return float(((gaps_KJT > 0) + 0.5 * (gaps_KJT == 0)).mean())


def performance_profile(scores_KT: ArrayLike, thresholds: ArrayLike) -> np.ndarray:
    """Return the share of runs and tasks that score above each threshold (rliable's run-score distribution)."""
    pooled = np.asarray(scores_KT, float).ravel()
    return (pooled[None] > np.asarray(thresholds, float)[:, None]).mean(axis=1)


def profile_band(
    scores_KT: ArrayLike, thresholds: ArrayLike, *, resamples: int = 2000, seed: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """Return the pointwise percentile band of a performance profile, runs resampled within each task.

    As rliable's `create_performance_profile`: it holds at each threshold, not for all of them at once.
    """
    scores, steps = np.asarray(scores_KT, float), np.asarray(thresholds, float)
    random, (runs, tasks) = np.random.default_rng(seed), scores.shape
    above_KTN = scores[:, :, None] > steps
    places = random.integers(runs, size=(resamples, runs, tasks))
    shares = np.stack([above_KTN[place, np.arange(tasks)].mean(axis=(0, 1)) for place in places])
    low, high = np.percentile(shares, [50 * (1 - CONFIDENCE), 100 - 50 * (1 - CONFIDENCE)], axis=0)
    return low, high


def stratified_bootstrap(
    statistic: Callable[..., float], *scores_KT: ArrayLike, resamples: int = 50_000, seed: int = 0
) -> tuple[float, float]:
    """Return the percentile interval of a statistic of one or more score arrays, runs resampled within each task.

    As rliable's `StratifiedBootstrap`; each array is resampled apart. Three runs cover about .65 of a nominal .95.
    """
    random = np.random.default_rng(seed)
    arrays = [np.asarray(scores, float) for scores in scores_KT]

    def resample(scores: np.ndarray) -> np.ndarray:
        runs, tasks = scores.shape
        return scores[random.integers(runs, size=(runs, tasks)), np.arange(tasks)]

    values = [statistic(*(resample(scores) for scores in arrays)) for _ in range(resamples)]
    low, high = np.percentile(values, [50 * (1 - CONFIDENCE), 100 - 50 * (1 - CONFIDENCE)])
    return float(low), float(high)


@dataclass(frozen=True)
class RankCorrelation:
    """Kendall's tau-b of two measures over configurations, with its 95 % bootstrap interval."""

    tau: float
    low: float
    high: float
    configurations: int


def kendall(first_N: ArrayLike, second_N: ArrayLike, resamples: int = 2000, seed: int = 0) -> RankCorrelation | None:
    """Return how alike two measures rank configurations; None for fewer than four, or where one has no spread.

    The interval is the percentile one of configurations resampled with replacement; resamples without spread are left
    out. With few configurations it is wide.
    """
    first, second = np.asarray(first_N, float), np.asarray(second_N, float)
    known = np.isfinite(first) & np.isfinite(second)
    first, second = first[known], second[known]
    tau = _tau_b(first, second) if len(first) >= 4 else float("nan")
    if np.isnan(tau):
        return None
    random = np.random.default_rng(seed)
    places = random.integers(len(first), size=(resamples, len(first)))
    found = np.array([_tau_b(first[place], second[place]) for place in places])
    low, high = np.nanpercentile(found, [50 * (1 - CONFIDENCE), 100 - 50 * (1 - CONFIDENCE)])
    return RankCorrelation(tau, float(low), float(high), len(first))


def _tau_b(first: np.ndarray, second: np.ndarray) -> float:
    """Return tau-b by its definition, as scipy.stats.kendalltau does; NaN without spread."""
    one, two = (np.sign(values[:, None] - values[None, :]) for values in (first, second))
    scale = float(np.sqrt((one**2).sum() * (two**2).sum()))
    return float((one * two).sum()) / scale if scale > 0 else float("nan")
