"""A replay buffer of one member: the steps of its episodes, in the episode store's own columns.

A row is what was seen, the action, the reward and whether the episode terminated. What was seen after it is the next
row of the same episode, or the episode's final observation, or, for the newest row of an episode that is still open,
what its environment shows now: never a copy, and never across the end of an episode. `capacity` bounds which rows are
drawn; rows below are deleted by segments when no checkpoint that is kept needs them.

Writing is append-only, so a checkpoint holds three counters (`counters`); going on from it cuts off what came later.
Shape suffixes: b rows, H steps of a window, A action dims, O observation dims.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from understudy.envs.replay.segments import SegmentedColumn, segment_rows
from understudy.envs.windows.n_step import n_step
from understudy.errors import CheckpointError
from understudy.files import storage_errors
from understudy.observations import STATE, Arrays, ObservationShape, is_picture

ACTIONS, REWARDS, TERMINALS, ENDED, EPISODES = "actions", "rewards", "terminals", "ended", "episodes"
FINAL = "final."
"""Prefix of the columns that hold what was seen after each episode's last action, a row an episode."""
SEEN = "seen."
"""Prefix of the columns that hold what was seen before each action, by part."""


@dataclass(frozen=True)
class Counters:
    """Where a buffer stands."""

    rows: int = 0
    """Steps that were added."""
    episodes: int = 0
    """Episodes that have ended."""
    open_rows: int = 0
    """The newest of the rows, which belong to an episode that has not ended."""


class Replay:
    """The newest `capacity` steps of one member, drawn as windows of transitions."""

    def __init__(
        self,
        folder: Path,
        shape: ObservationShape,
        action_dim: int,
        capacity: int,
        *,
        segment: int | None = None,
        marks: Sequence[str] = (),
    ) -> None:
        self.folder, self.capacity, self.marks = folder, capacity, tuple(marks)
        """`marks` are columns of one more number a step, such as who chose its action; batches hold them as [b]."""
        with storage_errors(folder):
            folder.mkdir(parents=True, exist_ok=True)
        self._single = not isinstance(shape, dict)
        parts = shape if isinstance(shape, dict) else {STATE: shape}
        kinds = {
            name: np.dtype(np.uint8 if len(part) > 2 or is_picture(name) else np.float32)
            for name, part in parts.items()
        }
        columns: dict[str, tuple[tuple[int, ...], Any]] = {
            **{SEEN + name: (tuple(part), kinds[name]) for name, part in parts.items()},
            ACTIONS: ((action_dim,), np.float32),
            REWARDS: ((), np.float32),
            TERMINALS: ((), np.uint8),
            ENDED: ((), np.uint8),
            EPISODES: ((), np.int32),
            **{mark: ((), np.float32) for mark in marks},
        }
        bytes_a_row = sum(int(np.prod(one)) * np.dtype(kind).itemsize for one, kind in columns.values())
        rows = segment or segment_rows(bytes_a_row)
        self._columns = {name: SegmentedColumn(folder, name, one, kind, rows) for name, (one, kind) in columns.items()}
        self._finals = {
            name: SegmentedColumn(folder, FINAL + name, tuple(part), kinds[name], rows) for name, part in parts.items()
        }
        self._names = list(parts)
        self._now: dict[str, np.ndarray] | None = None
        self.counters = Counters()

    # ---- writing ----

    def begin(self, observation: Arrays) -> None:
        """Begin an episode; an open one is left where it was cut off, as if it had been truncated."""
        if self.counters.open_rows:
            self._end(self._seen())
        self._now = self._parts(observation)

    def add(
        self,
        action: np.ndarray,
        reward: float,
        observation: Arrays,
        *,
        terminated: bool,
        ended: bool,
        marks: Mapping[str, float] | None = None,
    ) -> None:
        """Add a step: its action in the environment's units, and what was seen after it."""
        row, seen = self.counters.rows, self._seen()
        for name, part in seen.items():
            self._columns[SEEN + name].put(row, part)
        self._columns[ACTIONS].put(row, action)
        self._columns[REWARDS].put(row, reward)
        self._columns[TERMINALS].put(row, terminated)
        self._columns[ENDED].put(row, 0)
        self._columns[EPISODES].put(row, self.counters.episodes)
        for mark in self.marks:
            self._columns[mark].put(row, (marks or {}).get(mark, 0.0))
        self._now = self._parts(observation)
        self.counters = Counters(row + 1, self.counters.episodes, self.counters.open_rows + 1)
        if ended:
            self._end(self._now)
            self._now = None

    def _end(self, final: Mapping[str, np.ndarray]) -> None:
        """End the open episode with its newest row."""
        self._columns[ENDED].put(self.counters.rows - 1, 1)
        for name, part in final.items():
            self._finals[name].put(self.counters.episodes, part)
        self.counters = Counters(self.counters.rows, self.counters.episodes + 1, 0)

    def _seen(self) -> dict[str, np.ndarray]:
        assert self._now is not None, "an episode must begin before its first step"
        return self._now

    def _parts(self, observation: Arrays) -> dict[str, np.ndarray]:
        parts = {STATE: observation} if not isinstance(observation, Mapping) else observation
        return {name: np.asarray(parts[name]) for name in self._names}

    # ---- reading ----

    @property
    def first(self) -> int:
        """The oldest row that is drawn."""
        return max(0, self.counters.rows - self.capacity)

    def __len__(self) -> int:
        return self.counters.rows - self.first

    def gather(self, rows: np.ndarray, horizon: int, discount: float) -> dict[str, Any]:
        """Return the windows of `horizon` steps that start at `rows` [b], in the names of a batch of `Windows`.

        observations, next_observations [b, *O] (or parts), actions [b, H, A], rewards, discounts and valid [b, H], with
        several steps n_step_rewards and n_step_discounts [b].
        Steps past an episode's end, or not taken yet, repeat the last with valid 0 and reward 0.
        """
        steps = rows[:, None] + np.arange(horizon)
        valid = np.ones(steps.shape, bool)
        for place in range(1, horizon):
            before, now = steps[:, place - 1], steps[:, place]
            known = np.minimum(before, self.counters.rows - 1)
            goes_on = (now < self.counters.rows) & (self._columns[ENDED].gather(known) == 0)
            valid[:, place] = valid[:, place - 1] & goes_on
        last = rows + valid.sum(1) - 1
        steps = np.minimum(steps, last[:, None])
        flat = steps.ravel()
        shape = steps.shape
        terminals = self._columns[TERMINALS].gather(flat).reshape(shape)
        rewards = self._columns[REWARDS].gather(flat).reshape(shape) * valid
        return {
            "observations": self._observed(rows),
            "actions": self._columns[ACTIONS].gather(flat).reshape(*shape, -1),
            "valid": valid.astype(np.float32),
            "rewards": rewards,
            "discounts": np.float32(discount) * (1.0 - terminals.astype(np.float32)),
            **(n_step(rewards, terminals, discount) if horizon > 1 else {}),
            "next_observations": self._after(last),
            **{mark: self._columns[mark].gather(rows) for mark in self.marks},
        }

    def marked(self, mark: str, first: int) -> np.ndarray:
        """Return the rows from `first` on whose mark is not 0; none of them may have been dropped."""
        rows = np.arange(first, self.counters.rows)
        return rows[self._columns[mark].gather(rows) != 0] if len(rows) else rows

    def episode(self) -> tuple[Arrays, np.ndarray]:
        """Return what was seen [T, *O] and the actions [T, A] of the open episode."""
        rows = np.arange(self.counters.rows - self.counters.open_rows, self.counters.rows)
        return self._observed(rows), self._columns[ACTIONS].gather(rows)

    def _observed(self, rows: np.ndarray) -> Arrays:
        return self._joined({name: self._columns[SEEN + name].gather(rows) for name in self._names})

    def _after(self, rows: np.ndarray) -> Arrays:
        """Return what was seen after the actions of rows [b]."""
        ended = np.flatnonzero(self._columns[ENDED].gather(rows))
        episodes = self._columns[EPISODES].gather(rows[ended])
        newest = np.flatnonzero((rows == self.counters.rows - 1) & (self.counters.open_rows > 0))
        following = np.minimum(rows + 1, self.counters.rows - 1)
        seen: dict[str, np.ndarray] = {}
        for name in self._names:
            part = self._columns[SEEN + name].gather(following)
            part[ended] = self._finals[name].gather(episodes) if len(ended) else part[ended]
            if len(newest):
                part[newest] = self._seen()[name]
            seen[name] = part
        return self._joined(seen)

    def _joined(self, parts: dict[str, np.ndarray]) -> Arrays:
        return parts[STATE] if self._single else parts

    # ---- checkpoints ----

    def sync(self) -> None:
        """Make the rows durable; costs what was added since the last call."""
        for column in (*self._columns.values(), *self._finals.values()):
            column.sync()

    def drop(self, counters: Counters) -> None:
        """Delete the segments that neither the oldest kept checkpoint, which is at `counters`, nor this needs."""
        oldest = max(0, counters.rows - self.capacity)
        for column in self._columns.values():
            column.drop(min(oldest, self.first, counters.rows - counters.open_rows))

    def restore(self, counters: Counters) -> None:
        """Take the buffer back to `counters`; CheckpointError where rows are missing. What came later is cut off.

        An open episode goes on with `reopen`.
        """
        if counters.rows:
            needed = np.array([max(0, counters.rows - self.capacity), counters.rows - 1])
            try:
                self._columns[ACTIONS].gather(needed)
            except KeyError:
                raise CheckpointError(f"{self.folder}: rows {needed[0]} to {needed[1]} are not all there") from None
        self.counters = counters
        if counters.open_rows:
            self._columns[ENDED].put(counters.rows - 1, 0)  # it may have ended later

    @property
    def newest(self) -> dict[str, np.ndarray]:
        """What is seen now in the open episode, by part."""
        return dict(self._seen())

    def cut_off(self, newest: Mapping[str, np.ndarray]) -> None:
        """End the open episode where it is, as if it had been truncated; `newest` is what was seen last, by part."""
        self._end(newest)
        self._now = None

    def reopen(self, observation: Arrays) -> None:
        """Go on with the open episode, whose environment shows `observation` after its newest row."""
        self._now = self._parts(observation)
