"""Actors' buffers on the learner's side: whose steps are where, and what came twice or is missing.

Actor number n acts for member n % K: the first K actors to come are one for each of K seeds.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from understudy.envs.replay.pool import Pool
from understudy.envs.replay.replay import Counters, Replay
from understudy.errors import DatasetError
from understudy.observations import ObservationShape
from understudy.runs.directory import CsvLog
from understudy.spec.in_the_loop import InTheLoop
from understudy.trainables.loops.correcting import MARKS
from understudy.trainables.loops.fragments import MARK, Fragment

logger = logging.getLogger("understudy")
STATE_OF_ACTORS = "inboxes"
"""What a checkpoint holds them under."""


@dataclass(frozen=True)
class Sees:
    """What a policy sees and how many numbers it gives."""

    shape: ObservationShape
    action_dim: int


class Inbox:
    """One actor's buffer, and where in its stream of fragments it is."""

    def __init__(self, buffer: Replay, shape: ObservationShape) -> None:
        self.buffer, self._single = buffer, not isinstance(shape, dict)
        self.life: str = ""
        self.episode: int = -1
        self.next: int = 0
        self.lost = self.repeated = 0
        """Fragments whose episode is not whole before them, and such as were there already."""

    def add(self, fragment: Fragment) -> int:
        """Add the steps of a fragment unless they are there, or what is before them is not; return how many."""
        header = fragment.header
        same = (header.life, header.episode) == (self.life, self.episode)
        if header.first != (self.next if same else 0):
            if same and header.first < self.next:
                self.repeated += 1
            else:
                self.lost += 1
            return 0
        if header.first == 0:
            self.buffer.begin(fragment.seen(0, self._single))
            self.life, self.episode = header.life, header.episode
        arrays, count = fragment.arrays, len(fragment)
        for place in range(count):
            last = header.ended and place == count - 1
            self.buffer.add(
                arrays["actions"][place],
                float(arrays["rewards"][place]),
                fragment.seen(place + 1, self._single),
                terminated=bool(arrays["terminals"][place]),
                ended=last,
                marks={name: float(arrays[MARK + name][place]) for name in MARKS if MARK + name in arrays},
            )
        self.next = header.first + count
        return count

    def state(self) -> dict[str, Any]:
        """Return where it is, as checkpoints hold it; the newest observation goes along while an episode is open."""
        newest = self.buffer.newest if self.buffer.counters.open_rows else {}
        parts = {name: torch.as_tensor(np.array(part)) for name, part in newest.items()}
        place = {"life": self.life, "episode": self.episode, "next": self.next}
        return {"counters": asdict(self.buffer.counters), "newest": parts, **place}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Take it back to what `state` returned. An open episode's environment is gone: it ends there, cut off."""
        self.buffer.restore(Counters(**state["counters"]))
        if self.buffer.counters.open_rows:
            newest = {name: part.numpy() for name, part in state["newest"].items()}
            self.buffer.cut_off(newest)
        self.life, self.episode, self.next = state["life"], state["episode"], state["next"]


class Member:
    """What one seed learns from: its actors' buffers drawn as one; and the rows of their episodes, in env.csv."""

    def __init__(self, numbers: Sequence[int], inboxes: Sequence[Inbox], discount: float, folder: Path) -> None:
        self.numbers, self._inboxes = tuple(numbers), dict(zip(numbers, inboxes, strict=True))
        self.pool = Pool([inbox.buffer for inbox in inboxes], discount)
        self.folder = folder
        self.episodes = CsvLog(folder / "env.csv")
        self._refused = 0
        self._newest: dict[str, float] = {}

    @property
    def rows(self) -> int:
        """How many steps have come."""
        return sum(self.pool.counts())

    def add(self, fragment: Fragment, version: int, sees: Sees) -> None:
        """Add the steps of a fragment; one of another shape is left out, said once and counted."""
        header = fragment.header
        try:
            fragment.check(sees.shape, sees.action_dim)
        except DatasetError as error:
            self._refused += 1
            if self._refused == 1:
                logger.warning("%s: its steps are left out", error)
            return
        if self._inboxes[header.actor].add(fragment):
            hz = len(fragment) / max(header.seconds, 1e-9)
            self._newest = {"parameter_age": float(version - header.version), "policy_hz": hz}
            if header.ended:
                self.episodes.append(self.rows, {"actor": header.actor, **header.totals, **self._newest})

    def facts(self) -> dict[str, float]:
        """Return what is logged of its actors beside an update."""
        lost = sum(inbox.lost for inbox in self._inboxes.values()) + self._refused
        newest = {name: self._newest.get(name, 0.0) for name in ("parameter_age", "policy_hz")}
        return {"rows": float(self.rows), "lost_fragments": float(lost), **newest}

    def cut(self, step: int, files: Sequence[Path]) -> None:
        """Remove rows of a time that is no more from csv files of the run: what comes now is not what came then."""
        for path in files:
            CsvLog(path).cut(self.rows if path == self.episodes.path else step)
        self.episodes = CsvLog(self.episodes.path)


def numbers_of(member: int, members: int, actors: int) -> range:
    """Return the numbers of the actors that act for a member; each of them has `actors`."""
    return range(member, members * actors, members)


def buffers_of(folder: Path, sees: Sees, config: InTheLoop, members: int) -> list[Replay]:
    """Return each actor's buffer; those of a member share the run's `buffer_size`."""
    capacity = max(1, config.buffer_size // config.actors)
    names = [folder / f"actor{number:03d}" for number in range(members * config.actors)]
    return [Replay(name, sees.shape, sees.action_dim, capacity, marks=MARKS) for name in names]
