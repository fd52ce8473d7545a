"""Sample action chunks from a store: a batch is a pure function of (seed, step), so resume is exact.

Shape suffixes: K seeds (members of a pack), b samples of this worker, H steps of a chunk, A action dims, O
observation dims. Indices come from counter-based generators and data from vectorised gathers on the mapped
columns: the store is never copied and there is no Python loop over samples.

With `obs_horizon` n the observation is the last n of them, oldest first, joined along the last axis (the first is
repeated before the episode's start); with `goals` a state that the episode reaches later follows it. `observing.py`
does the same to an environment.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
import torch

from understudy.envs.store import MASK, EpisodeStore
from understudy.errors import DatasetError, did_you_mean
from understudy.normaliser import Mode, Normaliser
from understudy.randomness import numpy_generator

Batch = dict[str, torch.Tensor]
Split = Literal["train", "validation", "all"]
Order = Literal["seeded", "first"]
Goals = Literal["none", "uniform", "geometric", "final"]
GOAL_COLUMN = "achieved_goals"
"""What a state is as a goal, in stores where that is not the observation itself."""
STEPS_DRAWN = 64
"""Steps whose draws are made at once: a generator for each would take a quarter of a batch's time."""


class Windows:
    """The chunks of a store's selected episodes.

    Selection is by whole episodes: first the filter key, then the split (seeded, or by a filter key of its own, so
    that a validation episode is never trained on), then the share `proportion` of the split's transitions, in a
    seeded order or, with `first`, the file's. A larger share holds every episode of a smaller one.
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
        filter_key: str | None = None,
        validation_filter_key: str | None = None,
        obs_horizon: int = 1,
        goals: Goals = "none",
        goal_discount: float = 0.99,
    ) -> None:
        self.store, self.horizon, self.sparse = store, int(horizon), sparse
        self.obs_horizon, self.goals, self._goal_discount = int(obs_horizon), goals, goal_discount
        for name, value in (("horizon", self.horizon), ("obs_horizon", self.obs_horizon)):
            if value < 1:
                raise DatasetError(f"{name} {value}: must be at least 1")
        by_key = split == "validation" and validation_filter_key is not None
        candidates = filtered_episodes(store, validation_filter_key if by_key else filter_key)
        self.episodes = candidates[
            select_episodes(
                store.lengths[candidates],
                proportion,
                proportion_order,
                proportion_seed,
                "all" if by_key else split,
                validation_fraction,
            )
        ]
        lengths, starts = store.lengths[self.episodes], store.starts[self.episodes]
        if self.horizon > lengths.max():
            raise DatasetError(
                f"horizon {self.horizon} is longer than every episode of {store.name!r}; "
                f"the longest has {lengths.max()} steps"
            )
        self.num_episodes, self.num_transitions = len(lengths), int(lengths.sum())
        self._rows = None if len(lengths) == len(store.lengths) else _ranges(starts, lengths)
        self._observations, self._actions = store.column("observations"), store.column("actions")
        # Gathers of whole rows and of whole chunks as opaque bytes: a third of the time of numpy's or torch's own.
        self._observation_rows = _opaque(self._observations, rows=1)
        self._chunks = _opaque(self._actions, rows=self.horizon)
        self._drawn: dict[int, tuple[tuple[int, int], np.ndarray]] = {}
        self._left = _steps_left(lengths, self.horizon)
        self._valid = np.tri(self.horizon, dtype=np.float32)  # row `left` has left + 1 ones

    @property
    def observation_shape(self) -> tuple[int, ...]:
        """Shape of what the policy sees: one observation, or several and a goal along the last axis."""
        *outer, width = self._observations.shape[1:]
        goal = self._goal_states().shape[-1] if self.goals != "none" else 0
        return (*outer, width * self.obs_horizon + goal)

    @property
    def action_dim(self) -> int:
        """Dims of one action."""
        return int(self._actions.shape[1])

    def normaliser(self, mode: Mode) -> Normaliser:
        """Fit a normaliser to the selected episodes, for what the policy sees."""
        one = Normaliser.fit(self.observations_all(), mode) if mode != "none" else self._identity(self._observations)
        parts = [one] * self.obs_horizon
        if self.goals != "none":
            states = self._goal_states()
            if states is self._observations:
                parts.append(one)
            else:
                chosen = states if self._rows is None else states[self._rows]
                parts.append(Normaliser.fit(chosen, mode) if mode != "none" else self._identity(states))
        return Normaliser.join(parts) if len(parts) > 1 else one

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
        block, place = divmod(step, STEPS_DRAWN)
        held = self._drawn.get(seed)
        if held is None or held[0] != (block, batch_size):
            generator = numpy_generator(seed, "batch", block)
            numbers = generator.integers(0, self.num_transitions, (STEPS_DRAWN, batch_size))
            held = self._drawn[seed] = ((block, batch_size), numbers)
        drawn = held[1][place]
        return drawn[rank * share : (rank + 1) * share]

    def sample(self, seeds: Sequence[int], step: int, batch_size: int, rank: int = 0, world: int = 1) -> Batch:
        """Return observations [K, b, *O], actions [K, b, H, A] and valid [K, b, H] for one update of each seed.

        Starts are uniform over transitions; steps past an episode's end repeat its last action with valid 0.
        """
        draws = [self.indices(seed, step, batch_size, rank, world) for seed in seeds]
        indices = np.concatenate(draws) if len(draws) > 1 else draws[0]
        places = None
        if self.goals != "none":
            share = slice(rank * (batch_size // world), (rank + 1) * (batch_size // world))
            places = np.concatenate([numpy_generator(seed, "goal", step).random(batch_size)[share] for seed in seeds])
        return self.gather(indices, (len(draws), -1), places)

    def gather(self, indices: np.ndarray, leading: tuple[int, ...], places: np.ndarray | None = None) -> Batch:
        """Return the chunks that start at `indices` (into the selected transitions), reshaped to `leading`.

        `places` in [0, 1), one a sample, choose the goals; they are needed where `goals` is not none.
        """
        first = indices if self._rows is None else self._rows[indices]
        left = self._left[indices]
        observations = self._seen(first, places)
        valid = np.ones((len(first), self.horizon), np.float32)
        short = np.flatnonzero(left < self.horizon - 1)
        whole = np.minimum(first, len(self._chunks) - 1) if len(short) else first
        actions = self._chunks[whole].view(np.float32)
        actions = actions.reshape(len(first), self.horizon, self.action_dim)  # (`take` would copy overlapping rows)
        if len(short):
            steps = np.minimum(np.arange(self.horizon), left[short, None])
            actions[short] = self._actions[first[short, None] + steps]
            valid[short] = self._valid[left[short]]
        shape = leading if len(leading) == 1 else (leading[0], len(indices) // leading[0])
        return {
            "observations": torch.from_numpy(observations.reshape(*shape, *observations.shape[1:])),
            "actions": torch.from_numpy(actions.reshape(*shape, self.horizon, self.action_dim)),
            "valid": torch.from_numpy(valid.reshape(*shape, self.horizon)),
        }

    def _seen(self, rows: np.ndarray, places: np.ndarray | None) -> np.ndarray:
        """Return what the policy sees at `rows` of the store, [len(rows), *observation_shape]."""
        shape = self._observations.shape[1:]
        if self.obs_horizon == 1 and self.goals == "none":
            return self._observation_rows.take(rows).view(self._observations.dtype).reshape(len(rows), *shape)
        episodes = np.searchsorted(self.store.starts, rows, side="right") - 1
        back = np.arange(self.obs_horizon - 1, -1, -1)
        history = np.maximum(rows[:, None] - back, self.store.starts[episodes, None])
        parts = self._observation_rows.take(history.T.ravel()).view(self._observations.dtype)
        joined = [*parts.reshape(self.obs_horizon, len(rows), *shape)]
        if self.goals != "none":
            if places is None:
                raise DatasetError(f"goals={self.goals} need a place in [0, 1) for each sample")
            joined.append(self._goals_of(rows, episodes, places))
        return np.concatenate(joined, axis=-1)

    def _goals_of(self, rows: np.ndarray, episodes: np.ndarray, places: np.ndarray) -> np.ndarray:
        """Return for each row a state of its episode's future, which ends with the final observation where kept.

        uniform: any of them; geometric: k steps ahead with probability (1 - discount) discount^(k-1), the end's
        share beyond it (as in OGBench's GCDataset, arXiv 2410.20092); final: the last.
        """
        states = self._goal_states()
        ends = self.store.starts[episodes] + self.store.lengths[episodes]  # the row after the episode's last
        ahead = ends - rows
        if self.goals == "uniform":
            offsets = 1 + (places * ahead).astype(np.int64)
        elif self.goals == "geometric":
            drawn = 1 + np.floor(np.log1p(-places) / np.log(min(self._goal_discount, 1.0 - 1e-12)))
            offsets = np.minimum(drawn, ahead).astype(np.int64)
        else:
            offsets = ahead
        chosen = rows + offsets
        goals = states[np.minimum(chosen, ends - 1)]
        if states is self._observations and "final_observations" in self.store.manifest.episode_columns:
            after = np.flatnonzero(chosen == ends)
            goals[after] = self.store.episode_column("final_observations")[episodes[after]]
        return goals

    def _goal_states(self) -> np.ndarray:
        known = GOAL_COLUMN in self.store.manifest.columns
        return self.store.column(GOAL_COLUMN) if known else self._observations

    @staticmethod
    def _identity(values: np.ndarray) -> Normaliser:
        return Normaliser.identity(values.shape[1:])

    def _select(self, column: str) -> np.ndarray:
        values = self.store.column(column)
        return values if self._rows is None else values[self._rows]


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


def _steps_left(lengths: np.ndarray, horizon: int) -> np.ndarray:
    """Return how many whole steps follow each row of its episode, at most horizon - 1, episode after episode.

    Only an episode's last rows have fewer: one fill and a few scatters, so that a large store opens at once.
    """
    left = np.full(int(lengths.sum()), horizon - 1, np.min_scalar_type(horizon - 1))
    ends = np.cumsum(lengths)
    for steps in range(horizon - 1):
        left[ends[lengths > steps] - 1 - steps] = steps
    return left


def _ranges(starts: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """Return the rows of several episodes, one after another."""
    offsets = np.cumsum(lengths) - lengths
    return np.arange(int(lengths.sum())) + np.repeat(starts - offsets, lengths)


def _opaque(array: np.ndarray, rows: int) -> np.ndarray:
    """Return a view in which element i is the bytes of rows i to i + rows - 1 of a contiguous array."""
    width = array[0].nbytes
    return np.ndarray((len(array) - rows + 1,), dtype=f"V{width * rows}", buffer=array.data, strides=(width,))
