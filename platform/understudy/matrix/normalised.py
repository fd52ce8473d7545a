"""Scores between a random policy's and an expert's, with what is uncertain of those two.

Shape suffixes: K seeds, E start states, which all play.
"""

from __future__ import annotations

import numpy as np

from understudy.comparisons import paired_difference
from understudy.statistics import ConfidenceInterval, return_interval


def normalised(scores_KE: np.ndarray, random_KE: np.ndarray, expert_KE: np.ndarray) -> ConfidenceInterval | None:
    """Return S = (R - R_random) / (R_expert - R_random) with its interval.

    None where the expert cannot be told from random actions: S is then a ratio to nothing. Random actions and expert
    play the same start states, so that S moves with their means too: to first order by (dR - S dR_expert - (1 - S)
    dR_random) / (R_expert - R_random). The interval is the crossed one (`return_interval`) of these terms, state by
    state. Unlike a share of the expert's return S has a meaning for negative returns.
    """
    random_E, expert_E = random_KE.mean(axis=0), expert_KE.mean(axis=0)
    span = float(expert_E.mean() - random_E.mean())
    if not paired_difference(expert_KE, random_KE).distinguishable:
        return None
    score = float(scores_KE.mean() - random_E.mean()) / span
    return return_interval(score + (scores_KE - score * expert_E - (1 - score) * random_E) / span)
