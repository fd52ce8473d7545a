"""Sample action chunks from a store: a batch is a pure function of (seed, step), so resume is exact.

Shape suffixes: K seeds (members of a pack), b samples of this worker, H steps of a chunk, A action dims, O
observation dims. Indices come from counter-based generators and data from vectorised gathers on the mapped
columns: the store is never copied and there is no Python loop over samples.

What the policy sees at a row (history, goal, cameras) is `views.py`'s; which episodes there are, `episodes.py`'s.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from understudy.algorithm import EXECUTED, RETURNS, Batch
from understudy.envs.store.store import EpisodeStore
from understudy.envs.windows.ahead import ActionsAhead
from understudy.envs.windows.balance import balanced, sides
from understudy.envs.windows.episodes import Split, chosen_episodes
from understudy.envs.windows.lengths import ranges, returns_to_go, steps_left, steps_to_done
from understudy.envs.windows.n_step import n_step
from understudy.envs.windows.relabelling import goal_offsets
from understudy.envs.windows.texts import TaskTexts, ToldView
from understudy.envs.windows.views import StoreView
from understudy.errors import DatasetError
from understudy.language import TextEncoder
from understudy.normaliser import Mode, Normaliser
from understudy.observations import Arrays, ObservationShape, each
from understudy.randomness import numpy_generator
from understudy.spec.data import DataSpec
from understudy.spec.learning import Sampling

STEPS_DRAWN = 64
"""Steps whose draws are made at once: a generator for each would take a quarter of a batch's time."""


class Windows:
    """The chunks of a store's selected episodes.

    Goals are drawn by `data.goal_relabelling`; auto, which task and algorithm decide, is none here. With an encoder
    of texts each sample's task text is a part of its observation.
    """

    def __init__(
        self,
        store: EpisodeStore,
        data: DataSpec = DataSpec(),
        sampling: Sampling = Sampling(),
        *,
        split: Split = "train",
        texts: TextEncoder | None = None,
    ) -> None:
        self.store, self.horizon, self.sparse = store, sampling.horizon, data.sparse
        self.obs_horizon, self.after, self._data = data.obs_horizon, sampling.after, data
        self.goals = "none" if data.goal_relabelling == "auto" else data.goal_relabelling
        self._before = sampling.before
        ahead = self.horizon - self._before
        """Actions of a sample from its newest observation's step on."""
        if ahead < 1:
            raise DatasetError(f"horizon {self.horizon}: must be at least {self._before + 1}")
        if self._before:
            _check_aligned(data, self.goals)
        self.episodes = chosen_episodes(store, data, split)
        lengths, starts = store.lengths[self.episodes], store.starts[self.episodes]
        if ahead > lengths.max() and not sampling.longer:
            raise DatasetError(
                f"horizon {ahead} is longer than every episode of {store.name!r}; the longest has {lengths.max()} steps"
            )
        self.num_episodes, self.num_transitions = len(lengths), int(lengths.sum())
        self._rows = None if len(lengths) == len(store.lengths) else ranges(starts, lengths)
        view = StoreView(store, data, with_goal=self.goals != "none")
        self._view = view if texts is None else ToldView(view, TaskTexts(store, texts))
        self._saliency_alpha = sampling.saliency_alpha
        if self._saliency_alpha is not None and not self._view.saliency_columns():
            raise DatasetError(f"{store.name!r} has no saliency maps; import it with --saliency, or saliency_weight=0")
        self._transitions = sampling.transitions
        self._columns = {name: self._column(name) for name in sampling.columns}
        """What batches hold beside actions, by selected transition."""
        above = sampling.balanced_above
        self._sides = None if above is None else sides(self.rewards(), above, store.name, split)
        executed = sampling.executed and EXECUTED in store.manifest.columns
        self._actions = store.column(EXECUTED if executed else "actions")
        beside = sampling.executed_beside and EXECUTED in store.manifest.columns
        longest = int(lengths.max())
        self._ahead = ActionsAhead(self._actions, ahead, longest)
        self._executed = ActionsAhead(store.column(EXECUTED), ahead, longest) if beside else None
        self._drawn: dict[int, tuple[tuple[int, int], np.ndarray]] = {}
        self._left = steps_left(lengths, ahead)
        if data.mask_after_done:
            self._left = np.minimum(self._left, steps_to_done(self._selected(store.column("terminals")), lengths))

    @property
    def observation_shape(self) -> ObservationShape:
        """Shape of what the policy sees."""
        return self._view.shape

    @property
    def action_dim(self) -> int:
        """Dims of one action."""
        return int(self._actions.shape[1])

    def normaliser(self, mode: Mode, action_mode: Mode = "none") -> Normaliser:
        """Fit a normaliser to the selected episodes, for what the policy sees and what it does."""
        seen = self._view.normaliser(mode, self._selected)
        if action_mode == "none":
            return seen
        return seen.with_actions(Normaliser.fit(self._selected(self._actions), action_mode))

    def rewards(self) -> np.ndarray:
        """Return the selected episodes' rewards [num_transitions]; sparse: -1 wherever the reward was not 0."""
        return self._sparse(self._selected(self.store.column("rewards")))

    def _sparse(self, rewards: np.ndarray) -> np.ndarray:
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
            if self._sides is None:
                numbers = generator.integers(0, self.num_transitions, (STEPS_DRAWN, batch_size))
            else:
                numbers = balanced(self._sides, generator, (STEPS_DRAWN, batch_size))
            held = self._drawn[seed] = ((block, batch_size), numbers)
        drawn = held[1][place]
        return drawn[rank * share : (rank + 1) * share]

    def rows(self, indices: np.ndarray) -> np.ndarray:
        """Return the store's rows of selected transitions."""
        return indices if self._rows is None else self._rows[indices]

    def sample(self, seeds: Sequence[int], step: int, batch_size: int, rank: int = 0, world: int = 1) -> Batch:
        """Return observations [K, b, *O] (or parts), actions [K, b, H, A] and valid [K, b, H] for one update of each.

        Starts are uniform over transitions, or balanced: every other one over those whose reward is above a bound, the
        rest over the others. With `after`, observations are those that followed the first action. Steps past an
        episode's end repeat its last action with valid 0, and steps before its start the first.
        """
        draws = [self.indices(seed, step, batch_size, rank, world) for seed in seeds]
        indices = np.concatenate(draws) if len(draws) > 1 else draws[0]
        places = None
        if self.goals != "none":
            share = slice(rank * (batch_size // world), (rank + 1) * (batch_size // world))
            drawn = [numpy_generator(seed, "goal", step).random((2, batch_size))[:, share] for seed in seeds]
            places = np.concatenate(drawn, axis=1)
        return self.gather(indices, (len(draws), -1), places)

    def gather(self, indices: np.ndarray, leading: tuple[int, ...], places: np.ndarray | None = None) -> Batch:
        """Return the chunks that start at `indices` (into the selected transitions), reshaped to `leading`.

        `places` [2, b] in [0, 1) choose the goals and which of them are reached; needed where `goals` is not none.
        """
        first = indices if self._rows is None else self._rows[indices]
        left = self._left[indices]
        episodes, goal_rows = None, None
        elsewhere = self.goals != "none" or self.after or self._transitions
        if self.obs_horizon > 1 or self._before or self._saliency_alpha or elsewhere:
            episodes = np.searchsorted(self.store.starts, first, side="right") - 1
            if self.goals != "none":
                goal_rows = self._goal_rows(first, episodes, places)
        observations = self._view.gather(first, episodes, goal_rows, after=self.after)
        if self._before:
            assert episodes is not None
            actions, valid = self._aligned(first, left, first - self.store.starts[episodes])
        else:
            actions, valid = self._ahead.gather(first, left)
        shape = leading if len(leading) == 1 else (leading[0], len(indices) // leading[0])
        batch = {
            "observations": each(lambda part: torch.from_numpy(part.reshape(*shape, *part.shape[1:])), observations),
            "actions": torch.from_numpy(actions.reshape(*shape, self.horizon, self.action_dim)),
            "valid": torch.from_numpy(valid.reshape(*shape, self.horizon)),
        }
        if self._executed is not None:
            executed = self._executed.gather(first, left)[0]
            batch[EXECUTED] = torch.from_numpy(executed.reshape(*shape, self.horizon, self.action_dim))
        if self._saliency_alpha is not None:
            for name, maps in self._view.saliency(first, episodes, self._saliency_alpha).items():
                batch[name] = torch.from_numpy(maps.reshape(*shape, *maps.shape[1:]))
        for name, column in self._columns.items():
            values = column[indices]
            batch[name] = torch.from_numpy(values.reshape(*shape, *values.shape[1:]))
        if self._transitions:
            following = self._following(first, left, episodes, goal_rows)
            batch |= {
                name: each(lambda part: torch.from_numpy(part.reshape(*shape, *part.shape[1:])), values)
                for name, values in following.items()
            }
        return batch

    def _aligned(self, rows: np.ndarray, left: np.ndarray, past: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the same from `before` steps before rows [b] on, which have `past` [b] steps of their episode before.

        Steps before an episode's start repeat its first action, those past its end the last.
        """
        steps = np.arange(self.horizon) - self._before
        first, last = -past.astype(np.int64)[:, None], left.astype(np.int64)[:, None]
        valid = (steps >= first) & (steps <= last)
        return self._actions[rows[:, None] + np.clip(steps, first, last)], valid.astype(np.float32)

    def _following(
        self, first: np.ndarray, left: np.ndarray, episodes: np.ndarray | None, goal_rows: np.ndarray | None
    ) -> dict[str, Arrays]:
        """Return what followed the chunks that start at rows `first` [b] and have `left` [b] steps after the first.

        `rewards` [b, H] are 0 past an episode's end, where `discounts` [b, H] repeat the last; see n_step.
        """
        last = np.minimum(left.astype(np.int64), self.horizon - 1)
        steps = np.minimum(np.arange(self.horizon), last[:, None])
        rows = first[:, None] + steps
        inside = np.arange(self.horizon) <= last[:, None]
        rewards = self._sparse(self.store.column("rewards")[rows]) * inside
        terminals, discount = self.store.column("terminals")[rows], self._data.discount
        return {
            "rewards": rewards,
            "discounts": np.float32(discount) * (1.0 - terminals.astype(np.float32)),
            **(n_step(rewards, terminals, discount) if self.horizon > 1 else {}),
            "next_observations": self._view.gather(first + last, episodes, goal_rows, after=True),
        }

    def _column(self, name: str) -> np.ndarray:
        if name == RETURNS:
            return self.returns()
        if name not in self.store.manifest.columns:
            raise DatasetError(f"{self.store.name!r} has no column {name!r}, which the algorithm learns from")
        return self.rewards() if name == "rewards" else self._selected(self.store.column(name))

    def returns(self) -> np.ndarray:
        """Return what each transition and the rest of its episode earned, discounted [num_transitions]."""
        lengths = self.store.lengths[self.episodes]
        return returns_to_go(self.rewards(), lengths, self._data.discount)

    def _goal_rows(self, rows: np.ndarray, episodes: np.ndarray, places: np.ndarray | None) -> np.ndarray:
        """Return a goal's row for each row, later in its episode; the row after the last is the final observation."""
        if places is None:
            raise DatasetError(f"goals={self.goals} need a place in [0, 1) for each sample")
        index, length = rows - self.store.starts[episodes], self.store.lengths[episodes]
        offsets = goal_offsets(
            self.goals,
            index,
            length,
            places[0],
            discount=self._data.discount,
            delta=self._data.goal_delta,
            reached_proportion=self._data.reached_proportion,
            reached_places=places[1],
        )
        return rows + offsets

    def _selected(self, values: np.ndarray) -> np.ndarray:
        return values if self._rows is None else values[self._rows]


def _check_aligned(data: DataSpec, goals: str) -> None:
    """Raise DatasetError for what windows of observations with their actions are not made of."""
    if goals != "none":
        raise DatasetError(f"goal_relabelling={goals}: a method that learns a window of steps is told no goal: none")
    if data.mask_after_done:
        raise DatasetError("mask_after_done=true is for chunks that begin at the newest observation: false")
