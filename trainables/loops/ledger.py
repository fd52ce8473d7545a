"""Updates of a learner that has actors, each a function of its number and of the rows that the buffers had: a ledger
notes these, and all updates can be done again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from understudy.algorithm import Batch
from understudy.envs.replay.pool import Pool
from understudy.envs.windows.augmentation import augment_batch
from understudy.observations import together
from understudy.spec.in_the_loop import InTheLoop
from understudy.spec.run import RunSpec
from understudy.trainables.loops.correcting import corrected_batch
from understudy.trainables.loops.data import Data
from understudy.trainables.loops.inbox import STATE_OF_ACTORS, Inbox, Sees, buffers_of, numbers_of
from understudy.trainables.loops.steps import Training

LEDGER = "ledger.bin"
"""Beside the buffers: for each update its number and the rows of every buffer, int64."""


def do_update(
    training: Training, pools: Sequence[Pool], data: Data | None, update: int, shown: int, counts: list[int]
) -> dict[str, torch.Tensor]:
    """Take update number `update` of every member, each on what its buffers had; return its metrics [K].

    `counts` are the rows that the buffers of all actors held, by the actors' numbers.
    """
    spec, pack, members = training.spec, training.pack, len(pools)
    size = spec.config.batch_size
    drawn = [
        corrected_batch(pool, data, seed, update, size, shown, counts[member::members])
        for member, (pool, seed) in enumerate(zip(pools, training.seeds, strict=True))
    ]
    whole: Batch = {name: together(torch.stack, [one[name] for one in drawn]) for name in drawn[0]}
    whole = augment_batch(whole, spec.augment, training.seeds, update, device=pack.device)
    config = spec.config
    assert isinstance(config, InTheLoop)
    last = update % config.utd_ratio == 0
    only = None if last else [phase.name for phase in pack.phases[:-1]]
    return pack.update(whole, update, only)


class Ledger:
    """What each update could draw: its number and the rows of every buffer, a line of int64 each."""

    def __init__(self, folder: Path, actors: int) -> None:
        self.path, self._width = folder / LEDGER, actors + 1
        folder.mkdir(parents=True, exist_ok=True)
        self._file = open(self.path, "ab")  # noqa: SIM115  (open as long as the run)

    def note(self, update: int, counts: list[int]) -> None:
        """Add an update."""
        self._file.write(np.array([update, *counts], np.int64).tobytes())

    def cut(self, last: int) -> None:
        """Remove the updates after `last`."""
        self._file.truncate(last * self._width * 8)

    def sync(self) -> None:
        """Hand what was noted to the system."""
        self._file.flush()

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    @staticmethod
    def read(folder: Path, actors: int) -> np.ndarray:
        """Return the updates' numbers and counts [updates, 1 + actors]."""
        return np.fromfile(folder / LEDGER, np.int64).reshape(-1, actors + 1)


def replay_ledger(training: Training, folder: Path, saved: Mapping[str, Any], sees: Sees, data: Data | None) -> int:
    """Do all updates of a run again, from drawn weights, in the order and on the rows of the ledger in `folder`.

    `saved` is the run's newest checkpoint. Returns how many there are.
    """
    config = training.spec.config
    assert isinstance(config, InTheLoop)
    members = len(training.seeds)
    buffers = buffers_of(folder, sees, config, members)
    for buffer, state in zip(buffers, saved[STATE_OF_ACTORS], strict=True):
        Inbox(buffer, sees.shape).restore(state)
    own = [[buffers[number] for number in numbers_of(k, members, config.actors)] for k in range(members)]
    pools = [Pool(held, training.spec.data.discount, from_start=True) for held in own]
    shown = round(config.batch_size * config.offline_ratio)
    noted = Ledger.read(folder, len(buffers))
    for update, *counts in noted.tolist():
        do_update(training, pools, data, update, shown, counts)
    return len(noted)


def ledger_kept(spec: RunSpec) -> bool:
    """Return whether a run's updates can be done again."""
    return isinstance(spec.config, InTheLoop) and spec.config.has_actors and spec.config.replay == "ledger"
