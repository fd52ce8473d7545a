"""Learning from what actors of their own send: their steps in the order that they come, updates counted by them.

A step of the run is a step of some actor; `utd_ratio` updates follow each, so that actors which are too quick wait (or
queue). When and in which order fragments come is the one thing that is not a function of the spec: the rest is, of the
rows that each actor's buffer had (`ledger` notes them). Shape suffix: P parameters.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Mapping
from typing import Any, Protocol

import torch

from understudy.algorithm import Batch
from understudy.envs.replay.pool import Pool
from understudy.envs.replay.replay import Counters
from understudy.errors import DatasetError
from understudy.runs.directory import CsvLog
from understudy.runs.stop import check_signals
from understudy.spec.in_the_loop import InTheLoop
from understudy.trainables.loops.data import Data
from understudy.trainables.loops.fragments import Fragment
from understudy.trainables.loops.inbox import STATE_OF_ACTORS, Inbox, Sees, buffers_of
from understudy.trainables.loops.interaction import REPLAY
from understudy.trainables.loops.ledger import Ledger, do_update
from understudy.trainables.loops.logs import Logs
from understudy.trainables.loops.steps import Training
from understudy.trainables.packs.pack import Pack

logger = logging.getLogger("understudy")
WAIT_SECONDS = 0.2
VERSION = "version"


class Published:
    """One version of the policy: parameters [P] float32 in one array, and constants that came from a file."""

    def __init__(self, version: int, steps: int, pack: Pack) -> None:
        self.version, self.steps = version, steps
        self.flat = pack.acting_values[0].detach().cpu().numpy().copy()
        state = pack.members[0].state_dict()
        self.buffers = {n: v.cpu().numpy().copy() for n, v in state.items() if n not in pack.layout.shapes}


class Actors(Protocol):
    """Where fragments come from, and weights go to."""

    def start(self, weights: Published) -> None:
        """Begin: every actor starts with the learner's weights."""
        ...

    def publish(self, weights: Published) -> None:
        """Let every actor act with these weights as soon as it can."""
        ...

    def poll(self, seconds: float) -> list[Fragment]:
        """Return the fragments that have come; wait at most so long for the first."""
        ...

    @property
    def lives(self) -> int:
        """How often an actor was started, in all."""
        ...

    def close(self) -> None:
        """End them, or let them go."""
        ...


class FromActors:
    """Updates on what actors have sent so far."""

    def __init__(self, training: Training, sees: Sees, data: Data | None, actors: Actors) -> None:
        spec, config = training.spec, training.spec.config
        assert isinstance(config, InTheLoop)
        self._training, self._config, self._data, self._actors = training, config, data, actors
        self._sees = sees
        self._folder, count = training.run.resume / REPLAY, max(1, config.num_actors)
        self.inboxes = [Inbox(buffer, sees.shape) for buffer in buffers_of(self._folder, sees, config, count)]
        self._begun = training.begun_from
        for inbox, state in zip(self.inboxes, self._begun.get(STATE_OF_ACTORS, []), strict=False):
            inbox.restore(state)
        self._pool = Pool([inbox.buffer for inbox in self.inboxes], spec.data.discount)
        self._version = int(self._begun.get(VERSION, 0))
        self._published_at = self._update = max(0, training.step - config.start_training) * config.utd_ratio
        self._offline = round(config.batch_size * config.offline_ratio)
        self.waited = 0.0
        self._refused = 0
        self._newest: dict[str, float] = {}
        self._kept: list[list[Counters]] = []
        self._unneeded = False
        self._episodes = CsvLog(training.run.path / "env.csv")
        self._ledger = Ledger(self._folder, count) if config.replay == "ledger" else None
        self._cut()
        training.more = self._state

    def _cut(self) -> None:
        """Remove the rows of a time that is no more: what comes now is not what came then."""
        step = self._training.step
        for path in sorted(self._training.run.path.glob("*.csv")):
            CsvLog(path).cut(step if path.name != "env.csv" else self._rows)
        self._episodes = CsvLog(self._episodes.path)
        if self._ledger:
            self._ledger.cut(self._update)

    @property
    def _rows(self) -> int:
        return sum(self._pool.counts())

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
        """Take what has come; wait where every step has been learned from."""
        began = time.monotonic()
        fragments = self._actors.poll(0.0)
        while not self._take_in(fragments) and self._rows <= self._training.step:
            check_signals()
            fragments = self._actors.poll(WAIT_SECONDS)
        self.waited += time.monotonic() - began

    def _take_in(self, fragments: list[Fragment]) -> int:
        """Add fragments to their actors' buffers; return how many steps came."""
        if fragments and self._unneeded:
            self._unneeded = False
            for inbox, counters in zip(self.inboxes, self._kept[0], strict=True):
                inbox.buffer.drop(counters)
        came = 0
        for fragment in fragments:
            header = fragment.header
            try:
                fragment.check(self._sees.shape, self._sees.action_dim)
            except DatasetError as error:
                self._refused += 1
                if self._refused == 1:
                    logger.warning("%s: its steps are left out", error)
                continue
            added = self.inboxes[header.actor].add(fragment)
            came += added
            if added:
                behind = self._version - header.version
                hz = len(fragment) / max(header.seconds, 1e-9)
                self._newest = {"parameter_age": float(behind), "policy_hz": hz}
                if header.ended:
                    self._episodes.append(self._rows, {"actor": header.actor, **header.totals, **self._newest})
        return came

    def _take_update(self, training: Training) -> dict[str, torch.Tensor]:
        """Take the next update, and publish the weights where that is due."""
        update, counts = self._update + 1, self._pool.counts()
        if self._ledger:
            self._ledger.note(update, counts)
        metrics = do_update(training, self._pool, self._data, update, self._offline, counts)
        self._update = update
        if update - self._published_at >= self._config.publish_interval:
            self._published_at = update
            self._version += 1
            self._actors.publish(self._weights())
        return metrics

    def _weights(self) -> Published:
        return Published(self._version, self._training.step, self._training.pack)

    def _with_facts(self, metrics: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Return an update's metrics [1] with those of the actors, none before the first update."""
        if not metrics:
            return {}
        lost = sum(inbox.lost for inbox in self.inboxes) + self._refused
        facts = {
            "version": self._version,
            "rows": self._rows,
            "lost_fragments": lost,
            "actor_lives": self._actors.lives,
        }
        facts |= {name: self._newest.get(name, 0.0) for name in ("parameter_age", "policy_hz")}
        return {**metrics, **{name: torch.tensor([float(value)]) for name, value in facts.items()}}

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
        self._episodes.sync()

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
