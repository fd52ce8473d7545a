"""Choose the episodes of a store that a run trains or is validated on: by filter key, split and share."""

from __future__ import annotations

from typing import Literal

import numpy as np

from understudy.envs.store.store import MASK, EpisodeStore
from understudy.errors import DatasetError, did_you_mean
from understudy.randomness import numpy_generator
from understudy.spec.data import DataSpec, Order

Split = Literal["train", "validation", "all"]
SEED = 0
"""Seed of splits and shares, which are the same for all seeds of a run and for all runs."""


def chosen_episodes(store: EpisodeStore, data: DataSpec, split: Split) -> np.ndarray:
    """Return the sorted numbers of a split's episodes.

    First the filter key selects, then the split (seeded, or by a filter key of its own, so that a validation episode
    is never trained on), then, of what is trained on, the share `dataset_proportion` of its transitions, in a seeded
    order or, with `first`, the file's. A larger share holds every episode of a smaller one.
    """
    by_key = split == "validation" and data.validation_filter_key is not None
    candidates = filtered_episodes(store, data.validation_filter_key if by_key else data.filter_key)
    lengths = store.lengths[candidates]
    within = "all" if by_key else split
    share = data.dataset_proportion if split != "validation" else 1.0
    return candidates[select_episodes(lengths, share, data.proportion_order, SEED, within, data.validation_fraction)]


def filtered_episodes(store: EpisodeStore, filter_key: str | None) -> np.ndarray:
    """Return the numbers of the episodes that a filter key (a mask of the file, such as train) names; all without."""
    if filter_key is None:
        return np.arange(store.manifest.num_episodes)
    masks = [name.removeprefix(MASK) for name in store.manifest.episode_columns if name.startswith(MASK)]
    if filter_key not in masks:
        raise DatasetError(f"{store.name!r} has no filter key {filter_key!r}{did_you_mean(filter_key, masks)}")
    chosen = np.flatnonzero(store.episode_column(MASK + filter_key))
    if len(chosen) == 0:
        raise DatasetError(f"filter key {filter_key!r} of {store.name!r} names no episode")
    return chosen


def select_episodes(
    lengths: np.ndarray, proportion: float, order: Order, seed: int, split: Split, validation_fraction: float
) -> np.ndarray:
    """Return the sorted numbers of the episodes that a split and a share of its transitions keep."""
    if not 0.0 < proportion <= 1.0:
        raise DatasetError(f"dataset proportion {proportion}: must be above 0 and at most 1")
    if not 0.0 <= validation_fraction < 1.0:
        raise DatasetError(f"validation fraction {validation_fraction}: must be at least 0 and below 1")
    chosen = np.arange(len(lengths))
    if split != "all" and (validation_fraction > 0 or split == "validation"):
        held = int(np.ceil(validation_fraction * len(lengths)))
        if held == 0 or held == len(lengths):
            raise DatasetError(
                f"validation fraction {validation_fraction} of {len(lengths)} episodes leaves an empty split"
            )
        shuffled = numpy_generator(seed, "split").permutation(len(lengths))
        chosen = shuffled[:held] if split == "validation" else shuffled[held:]
        chosen.sort()
    if proportion < 1.0:
        ranked = chosen if order == "first" else chosen[numpy_generator(seed, "proportion").permutation(len(chosen))]
        sums = np.cumsum(lengths[ranked])
        ranked = ranked[: int(np.searchsorted(sums, proportion * sums[-1])) + 1]
        chosen = np.sort(ranked)
    return chosen
