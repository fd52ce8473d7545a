"""Learning from what actors of their own send: their steps in the order that they come, updates counted by them.

A step of the run is a step of some actor of each seed; `utd_ratio` updates follow, and what comes next is taken when
they are done: actors which are too quick wait. When and in which order fragments come is the one thing that is not a
function of the spec: the rest is, of the rows that each actor's buffer had (`ledger` notes them). Shape suffixes: K
members, P parameters.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any, Protocol

import torch

from understudy.algorithm import Batch
from understudy.envs.replay.replay import Counters
from understudy.runs.stop import check_signals
from understudy.spec.in_the_loop import InTheLoop
from understudy.trainables.loops.data import Data
from understudy.trainables.loops.fragments import Fragment
from understudy.trainables.loops.inbox import STATE_OF_ACTORS, Inbox, Member, Sees, buffers_of, numbers_of
from understudy.trainables.loops.interaction import REPLAY
from understudy.trainables.loops.ledger import Ledger, do_update
from understudy.trainables.loops.logs import Logs
from understudy.trainables.loops.steps import Training
from understudy.trainables.packs.pack import Pack

WAIT_SECONDS = 0.2
VERSION = "version"


class Published:
    """One version of a member's policy: parameters [P] float32 in one array, and constants that came from a file."""

    def __init__(self, version: int, steps: int, pack: Pack, member: int = 0) -> None:
        self.version, self.steps = version, steps
        self.flat = pack.acting_values[member].detach().cpu().numpy().copy()
        state = pack.members[member].state_dict()
        self.buffers = {n: v.cpu().numpy().copy() for n, v in state.items() if n not in pack.layout.shapes}


class Actors(Protocol):
    """Where fragments come from, and weights go to; actor n has those of member n % K."""

    def start(self, weights: Sequence[Published]) -> None:
        """Begin: every actor starts with its member's weights."""
        ...

    def publish(self, weights: Sequence[Published]) -> None:
        """Let every actor act with its member's weights as soon as it can."""
        ...

    def poll(self, numbers: Collection[int], seconds: float) -> list[Fragment]:
        """Return the fragments of these actors that have come; wait at most so long for the first."""
        ...

    @property
    def lives(self) -> Mapping[int, int]:
        """How often each actor was started, by its number."""
        ...

    def close(self) -> None:
        """End them, or let them go."""
        ...


class FromActors:
    """Updates on what actors have sent so far."""

    def __init__(self, training: Training, sees: Sees, data: Data | None, actors: Actors) -> None:
        config = training.spec.config
        assert isinstance(config, InTheLoop)
        self._training, self._config, self._data, self._actors = training, config, data, actors
        self._sees = sees
        self._folder, count = training.run.resume / REPLAY, len(training.seeds)
        self.inboxes = [Inbox(buffer, sees.shape) for buffer in buffers_of(self._folder, sees, config, count)]
        self._begun = training.begun_from
        for inbox, state in zip(self.inboxes, self._begun.get(STATE_OF_ACTORS, []), strict=False):
            inbox.restore(state)
        self._members = [self._member(place) for place in range(count)]
        self._version = int(self._begun.get(VERSION, 0))
        self._published_at = self._update = max(0, training.step - config.start_training) * config.utd_ratio
        self._offline = round(config.batch_size * config.offline_ratio)
        self.waited = 0.0
        self._kept: list[list[Counters]] = []
        self._unneeded = False
        self._ledger = Ledger(self._folder, len(self.inboxes)) if config.replay == "ledger" else None
        self._cut()
        training.more = self._state

    def _member(self, place: int) -> Member:
        training = self._training
        numbers = numbers_of(place, len(training.seeds), self._config.actors)
        folder = training.run.member(training.seeds[place], training.spec.all_seeds)
        return Member(numbers, [self.inboxes[number] for number in numbers], training.spec.data.discount, folder)

    def _cut(self) -> None:
        """Remove the rows of a time that is no more: what comes now is not what came then."""
        step, path = self._training.step, self._training.run.path
        for member in self._members:
            folders = {member.folder, path}
            member.cut(step, [file for folder in folders for file in sorted(folder.glob("*.csv"))])
        if self._ledger:
            self._ledger.cut(self._update)

    def log_name(self, step: int) -> str:
        """Return the name that online runs' updates are logged under."""
        return "online_agent.csv"

    def updates(self, training: Training, logs: Logs | None) -> Iterator[dict[str, torch.Tensor]]:
        """Take the remaining steps as they come; yield the newest update's metrics, {} before the first."""
        metrics: dict[str, torch.Tensor] = {}
        self._actors.start(self._weights())
        while not training.last:
            self._receive()
            step = training.step + 1
            if step > self._config.start_training:
                for _ in range(self._config.utd_ratio):
                    metrics = self._take_update(training)
            training.step = step
            yield self._with_facts(metrics)

    def _receive(self) -> None:
        """Wait for those members' actors whose every step has been learned from; take what they send."""
        began = time.monotonic()
        while behind := [member for member in self._members if member.rows <= self._training.step]:
            numbers = {number for member in behind for number in member.numbers}
            self._take_in(self._actors.poll(numbers, WAIT_SECONDS))
            check_signals()
        self.waited += time.monotonic() - began

    def _take_in(self, fragments: list[Fragment]) -> None:
        """Add fragments to their actors' buffers."""
        if fragments and self._unneeded:
            self._unneeded = False
            for inbox, counters in zip(self.inboxes, self._kept[0], strict=True):
                inbox.buffer.drop(counters)
        for fragment in fragments:
            self._members[fragment.header.actor % len(self._members)].add(fragment, self._version, self._sees)

    def _take_update(self, training: Training) -> dict[str, torch.Tensor]:
        """Take the next update, and publish the weights where that is due."""
        update, counts = self._update + 1, [inbox.buffer.counters.rows for inbox in self.inboxes]
        if self._ledger:
            self._ledger.note(update, counts)
        pools = [member.pool for member in self._members]
        metrics = do_update(training, pools, self._data, update, self._offline, counts)
        self._update = update
        if update - self._published_at >= self._config.publish_interval:
            self._published_at = update
            self._version += 1
            self._actors.publish(self._weights())
        return metrics

    def _weights(self) -> list[Published]:
        step, pack = self._training.step, self._training.pack
        return [Published(self._version, step, pack, member) for member in range(len(self._members))]

    def _with_facts(self, metrics: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Return an update's metrics [K] with those of the actors, none before the first update."""
        if not metrics:
            return {}
        lives = self._actors.lives
        facts = [
            {
                "version": float(self._version),
                "actor_lives": float(sum(lives.get(number, 0) for number in member.numbers)),
                **member.facts(),
            }
            for member in self._members
        ]
        return {**metrics, **{name: torch.tensor([of[name] for of in facts]) for name in facts[0]}}

    def _state(self) -> dict[str, Any]:
        """Return what a checkpoint holds beside the pack."""
        return {STATE_OF_ACTORS: [inbox.state() for inbox in self.inboxes], VERSION: self._version}

    def held_out(self) -> Iterator[Batch]:
        """Return nothing: there are no held-out episodes."""
        return iter(())

    def sync(self) -> None:
        """Make the buffers' rows durable, the ledger's and the episodes'."""
        for inbox in self.inboxes:
            inbox.buffer.sync()
        if self._ledger:
            self._ledger.sync()
        for member in self._members:
            member.episodes.sync()

    def written(self, state: Mapping[str, Any]) -> None:
        """Note what no checkpoint that is kept needs any more; with a ledger everything is kept."""
        counters = [Counters(**one["counters"]) for one in state[STATE_OF_ACTORS]]
        self._kept = [*self._kept[-1:], counters]
        self._unneeded = self._ledger is None

    def close(self) -> None:
        """End the actors."""
        self._actors.close()
        if self._ledger:
            self._ledger.close()
