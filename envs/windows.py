"""Sample action chunks from a store: a batch is a pure function of (seed, step), so resume is exact.

Shape suffixes: K seeds (members of a pack), b samples of this worker, H steps of a chunk, A action dims, O
observation dims. Indices come from counter-based generators and data from vectorised gathers on the mapped
columns: the store is never copied and there is no Python loop over samples.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
import torch

from understudy.envs.store import EpisodeStore
from understudy.errors import DatasetError
from understudy.randomness import numpy_generator

Batch = dict[str, torch.Tensor]
Split = Literal["train", "validation", "all"]
Order = Literal["seeded", "first"]


class Windows:
    """The chunks of a store's selected episodes.

    Selection is by whole episodes: first the split (seeded, so that a validation episode is never trained on),
    then the share `proportion` of the split's transitions, in a seeded order or, with `first`, the file's.
    A larger share holds every episode of a smaller one.
    """

    def __init__(
        self,
        store: EpisodeStore,
        *,
        horizon: int,
        proportion: float = 1.0,
        proportion_order: Order = "seeded",
        proportion_seed: int = 0,
        sparse: bool = False,
        split: Split = "train",
        validation_fraction: float = 0.0,
    ) -> None:
        self.store, self.horizon, self.sparse = store, int(horizon), sparse
        if self.horizon < 1:
            raise DatasetError(f"horizon {horizon}: must be at least 1")
        self.episodes = select_episodes(
            store.lengths, proportion, proportion_order, proportion_seed, split, validation_fraction
        )
        lengths, starts = store.lengths[self.episodes], store.starts[self.episodes]
        if self.horizon > lengths.max():
            raise DatasetError(
                f"horizon {self.horizon} is longer than every episode of {store.name!r}; "
                f"the longest has {lengths.max()} steps"
            )
        self.num_episodes, self.num_transitions = len(lengths), int(lengths.sum())
        self._rows = None if len(lengths) == len(store.lengths) else _ranges(starts, lengths)
        observations, actions = store.column("observations"), store.column("actions")
        self._observation_shape, self._action_shape = observations.shape[1:], actions.shape[1:]
        self._dtype, self._actions = observations.dtype, actions
        # Gathers of whole rows and of whole chunks as opaque bytes: a third of the time of numpy's or torch's own.
        self._observation_rows = _opaque(observations, rows=1)
        self._chunks = _opaque(actions, rows=self.horizon)
        last = np.repeat(starts + lengths - 1, lengths)
        own = np.arange(self.num_transitions) if self._rows is None else self._rows
        self._left = np.minimum(last - own, self.horizon - 1).astype(np.int32)  # whole steps after each start
        self._valid = np.tri(self.horizon, dtype=np.float32)  # row `left` has left + 1 ones

    @property
    def observation_shape(self) -> tuple[int, ...]:
        """Shape of one observation."""
        return self._observation_shape

    @property
    def action_dim(self) -> int:
        """Dims of one action."""
        return int(self._action_shape[0])

    def observations_all(self) -> np.ndarray:
        """Return the selected episodes' observations [num_transitions, *O]: what a normaliser is fitted to."""
        return self._select("observations")

    def rewards(self) -> np.ndarray:
        """Return the selected episodes' rewards [num_transitions]; sparse: -1 wherever the reward was not 0."""
        rewards = self._select("rewards")
        return np.where(rewards != 0.0, np.float32(-1.0), rewards) if self.sparse else rewards

    def indices(self, seed: int, step: int, batch_size: int, rank: int = 0, world: int = 1) -> np.ndarray:
        """Return this worker's draws in [0, num_transitions): a slice of the global batch of (seed, step)."""
        if batch_size % world or not 0 <= rank < world:
            raise DatasetError(f"batch_size {batch_size} cannot be shared by {world} workers (this is worker {rank})")
        share = batch_size // world
        drawn = numpy_generator(seed, "batch", step).integers(0, self.num_transitions, batch_size)
        return drawn[rank * share : (rank + 1) * share]

    def sample(self, seeds: Sequence[int], step: int, batch_size: int, rank: int = 0, world: int = 1) -> Batch:
        """Return observations [K, b, *O], actions [K, b, H, A] and valid [K, b, H] for one update of each seed.

        Starts are uniform over transitions; steps past an episode's end repeat its last action with valid 0.
        """
        draws = [self.indices(seed, step, batch_size, rank, world) for seed in seeds]
        return self.gather(np.concatenate(draws) if len(draws) > 1 else draws[0], (len(draws), -1))

    def gather(self, indices: np.ndarray, leading: tuple[int, ...]) -> Batch:
        """Return the chunks that start at `indices` (into the selected transitions), reshaped to `leading`."""
        first = indices if self._rows is None else self._rows[indices]
        left = self._left[indices]
        observations = self._observation_rows.take(first).view(self._dtype)
        actions = self._chunks[np.minimum(first, len(self._chunks) - 1)].view(np.float32)
        actions = actions.reshape(len(first), self.horizon, self.action_dim)  # (`take` would copy overlapping rows)
        short = np.flatnonzero(left < self.horizon - 1)
        if len(short):
            steps = np.minimum(np.arange(self.horizon), left[short, None])
            actions[short] = self._actions[first[short, None] + steps]
        shape = leading if len(leading) == 1 else (leading[0], len(indices) // leading[0])
        return {
            "observations": torch.from_numpy(observations.reshape(*shape, *self._observation_shape)),
            "actions": torch.from_numpy(actions.reshape(*shape, self.horizon, self.action_dim)),
            "valid": torch.from_numpy(self._valid[left].reshape(*shape, self.horizon)),
        }

    def _select(self, column: str) -> np.ndarray:
        values = self.store.column(column)
        return values if self._rows is None else values[self._rows]


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


def _ranges(starts: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """Return the rows of several episodes, one after another."""
    offsets = np.cumsum(lengths) - lengths
    return np.arange(int(lengths.sum())) + np.repeat(starts - offsets, lengths)


def _opaque(array: np.ndarray, rows: int) -> np.ndarray:
    """Return a view in which element i is the bytes of rows i to i + rows - 1 of a contiguous array."""
    width = array[0].nbytes
    return np.ndarray((len(array) - rows + 1,), dtype=f"V{width * rows}", buffer=array.data, strides=(width,))
