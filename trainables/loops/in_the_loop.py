"""Training with somebody in the loop (HIL-SERL): half of each batch are demonstrations and corrections.

Without actors one process acts, learns and is corrected, exactly as `online.py` does, and resumes bit for bit. With
actors this process learns from what they send: see `learner.py`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import torch

from understudy.algorithm import Batch
from understudy.envs.replay.pool import INTERVENTIONS, Pool
from understudy.errors import SpecError
from understudy.observations import each, together
from understudy.registry import loops
from understudy.spec.in_the_loop import InTheLoop
from understudy.spec.run import RunSpec
from understudy.trainables.loops.correcting import MARKS, CorrectedPlayer, corrected, judge_of
from understudy.trainables.loops.data import Data
from understudy.trainables.loops.interaction import Surroundings
from understudy.trainables.loops.online import FromEnvironments, OnlineLoop
from understudy.trainables.loops.session import Feed
from understudy.trainables.loops.steps import Training


@loops.register("in_the_loop")
class InTheLoopLoop(OnlineLoop):
    """Train every seed in an environment of its own, where it is corrected."""

    def __init__(self, spec: RunSpec) -> None:
        super().__init__(spec)
        self.judge = judge_of(spec)

    @classmethod
    def check(cls, spec: RunSpec) -> None:
        """Raise what is wrong with a new run's numbers and names."""
        super().check(spec)
        config = spec.config
        assert isinstance(config, InTheLoop)
        if config.has_actors and len(spec.all_seeds) > 1:
            raise SpecError(f"seeds={list(spec.all_seeds)}: actors of their own act for one seed; start a run for each")

    def _feed(self, training: Training) -> Feed:
        """Return where updates come from."""
        config = self.spec.config
        assert isinstance(config, InTheLoop)
        return CorrectedFeed(training, self.surroundings, self.experience.data, config, self)


class CorrectedFeed(FromEnvironments):
    """Updates on what the members have done so far, were shown and were corrected to."""

    def __init__(
        self,
        training: Training,
        surroundings: Surroundings,
        data: Data | None,
        config: InTheLoop,
        loop: InTheLoopLoop,
    ) -> None:
        super().__init__(training, surroundings, data, player=corrected(config, loop.judge), marks=MARKS)
        discount = training.spec.data.discount
        self._pools = [Pool([player.buffer], discount) for player in self._players.players]
        for player in self._players.players:
            if isinstance(player, CorrectedPlayer) and player.overseer is not None:
                player.overseer.control.__enter__()

    def _act(self, step: int, exploring: bool) -> Sequence[Mapping[str, Any] | None]:
        """Take a step with every member's policy, untrained at first: somebody corrects it, and noise explores."""
        return self._players.act(self._training.pack, step)

    def _batch(self, update: int) -> Batch:
        """Return the batch of an update: a share of demonstrations and corrections, then of all that was done."""
        size, drawn = self._training.spec.config.batch_size, []
        for pool, seed in zip(self._pools, self._training.seeds, strict=True):
            drawn.append(batch_of(pool, self._data, seed, update, size, self._offline))
        return {name: together(torch.stack, [one[name] for one in drawn]) for name in drawn[0]}

    def close(self) -> None:
        """Close the environments, and the devices of those who correct."""
        for player in self._players.players:
            if isinstance(player, CorrectedPlayer) and player.overseer is not None:
                player.overseer.control.__exit__()
        super().close()


def batch_of(
    pool: Pool,
    data: Data | None,
    seed: int,
    update: int,
    size: int,
    shown: int,
    counts: Sequence[int] | None = None,
) -> Batch:
    """Return a member's batch of `size`: `shown` of demonstrations and corrections first; `counts` as the pool says."""
    done = pool.draw(seed, update, size - shown, counts)
    if shown:
        assert data is not None
        demonstrated = pool.draw_shown(data.windows(update), seed, update, shown, counts)
        done = {name: together(partial(torch.cat, dim=0), [demonstrated[name], done[name]]) for name in done}
    return {name: each(lambda part: part, value) for name, value in done.items() if name != INTERVENTIONS}
