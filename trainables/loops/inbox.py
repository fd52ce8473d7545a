"""Actors' buffers on the learner's side: whose steps are where, and what came twice or is missing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from understudy.envs.replay.replay import Counters, Replay
from understudy.observations import ObservationShape
from understudy.spec.in_the_loop import InTheLoop
from understudy.trainables.loops.correcting import MARKS
from understudy.trainables.loops.fragments import MARK, Fragment

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


def buffers_of(folder: Path, sees: Sees, config: InTheLoop, count: int) -> list[Replay]:
    """Return each actor's buffer, which share the run's `buffer_size`."""
    capacity = max(1, config.buffer_size // count)
    names = [folder / f"actor{number:03d}" for number in range(count)]
    return [Replay(name, sees.shape, sees.action_dim, capacity, marks=MARKS) for name in names]
