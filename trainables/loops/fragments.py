"""What an actor sends: steps of one episode in a row, and what was seen after the last of them.

A fragment says which actor's it is, in which life of it, of which episode, and from which step on: the learner drops
what it has, and knows what is missing. Shape suffixes: n steps, O observation dims, A action dims.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from understudy.envs.replay.replay import Counters
from understudy.errors import DatasetError
from understudy.observations import STATE, Arrays, ObservationShape, describe, parts_of, shape_of

STEPS = ("actions", "rewards", "terminals")
SEEN, AFTER, MARK = "seen/", "after/", "mark/"
HEADER = "header"


@dataclass(frozen=True)
class Header:
    """Where a fragment belongs, and how it was made."""

    actor: int
    life: str
    """What tells an actor from the one that it was before it died."""
    episode: int
    first: int
    """The step of its episode that it begins with."""
    ended: bool
    version: int
    """The version of the newest weights that it was made with."""
    seconds: float
    """How long the policy and the environment took for it."""
    totals: dict[str, float] = field(default_factory=dict[str, float])
    """What its episode came to, where that has ended."""


@dataclass(frozen=True)
class Fragment:
    """Steps of an episode."""

    header: Header
    arrays: dict[str, np.ndarray]
    """`actions` [n, A], `rewards` and `terminals` [n], `seen/PART` [n, *O], `after/PART` [*O], `mark/NAME` [n]."""

    def __len__(self) -> int:
        return len(self.arrays["actions"])

    def seen(self, place: int, single: bool) -> Arrays:
        """Return what was seen before step `place` (after the last one, where it is n)."""
        if place == len(self):
            parts = {name.removeprefix(AFTER): a for name, a in self.arrays.items() if name.startswith(AFTER)}
        else:
            parts = {name.removeprefix(SEEN): a[place] for name, a in self.arrays.items() if name.startswith(SEEN)}
        return parts[STATE] if single else parts

    def check(self, shape: ObservationShape, action_dim: int) -> None:
        """Raise DatasetError where it is not of an environment with these observations and actions."""
        single = not isinstance(shape, dict)
        try:
            places = {place: shape_of(self.seen(place, single)) for place in (0, len(self))}
            lengths = {len(value) for name, value in self.arrays.items() if not name.startswith(AFTER)}
        except KeyError as error:
            raise DatasetError(f"actor {self.header.actor} sends no {error}") from None
        for found in places.values():
            if found != shape:
                raise DatasetError(f"actor {self.header.actor} sees {describe(found)}, the policy {describe(shape)}")
        if self.arrays["actions"].shape[1:] != (action_dim,) or len(lengths) > 1 or not len(self):
            shapes = {name: value.shape for name, value in self.arrays.items()}
            raise DatasetError(f"actor {self.header.actor} sends arrays of {shapes}")
        if not all(np.isfinite(value).all() for value in self.arrays.values() if value.dtype.kind == "f"):
            raise DatasetError(f"actor {self.header.actor} sends NaN or infinity")


class FragmentBuffer:
    """What an actor keeps of its episode: a replay buffer as far as a player needs one, emptied by `take`."""

    def __init__(self, shape: ObservationShape) -> None:
        self._parts = list(parts_of(shape)) if isinstance(shape, dict) else [STATE]
        self._single = not isinstance(shape, dict)
        self._now: dict[str, np.ndarray] = {}
        self._rows: list[dict[str, Any]] = []
        self.counters = Counters()
        self._first = 0

    def __len__(self) -> int:
        return len(self._rows)

    def begin(self, observation: Arrays) -> None:
        """Begin an episode."""
        self._rows, self._first, self._now = [], 0, self._named(observation)

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
        """Add a step."""
        row = {SEEN + name: part for name, part in self._now.items()}
        row |= {"actions": np.asarray(action, np.float32), "rewards": np.float32(reward)}
        row |= {"terminals": np.uint8(terminated), **{MARK + name: np.float32(v) for name, v in (marks or {}).items()}}
        self._rows.append(row)
        self._now = self._named(observation)
        episodes, open_rows = self.counters.episodes, self.counters.open_rows
        self.counters = Counters(self.counters.rows + 1, episodes + ended, 0 if ended else open_rows + 1)

    def take(self) -> tuple[int, dict[str, np.ndarray]]:
        """Return the first step's number in its episode and the arrays of what was added since the last call."""
        first, rows = self._first, self._rows
        arrays = {name: np.stack([row[name] for row in rows]) for name in rows[0]}
        self._first, self._rows = first + len(rows), []
        return first, arrays | {AFTER + name: part for name, part in self._now.items()}

    def _named(self, observation: Arrays) -> dict[str, np.ndarray]:
        parts = observation if isinstance(observation, dict) else {STATE: observation}
        return {name: np.array(parts[name]) for name in self._parts}


def to_bytes(kind: str, facts: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> bytes:
    """Return a message: its kind, what JSON holds of it, and arrays, as one safetensors file."""
    from safetensors.numpy import save

    header = np.frombuffer(json.dumps({"kind": kind, **facts}).encode(), np.uint8)
    return save({**{name: np.ascontiguousarray(array) for name, array in arrays.items()}, HEADER: header})


def from_bytes(message: bytes) -> tuple[str, dict[str, Any], dict[str, np.ndarray]]:
    """Return what `to_bytes` was given; DatasetError for anything else."""
    from safetensors.numpy import load

    try:
        arrays = load(message)
        facts = json.loads(arrays.pop(HEADER).tobytes())
        return str(facts.pop("kind")), facts, arrays
    except Exception as error:  # noqa: BLE001  (safetensors raises its own, and more)
        raise DatasetError(f"no message of an actor or a learner: {str(error)[:100]}") from None
