"""The hook by which members of a population exchange weights: see `packs/population.py`."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

import torch

from understudy.runs.results import rank_key
from understudy.trainables.loops.logs import Logs
from understudy.trainables.loops.steps import Training
from understudy.trainables.packs.population import exchanges, explored

logger = logging.getLogger("understudy")


class Exchange:
    """The hook that does it, between an evaluation and the checkpoint after it."""

    def __init__(self, training: Training, logs: Logs) -> None:
        self._training, self._logs = training, logs
        if training.spec.population.pbt is not None and training.step == 0:
            logs.population(0, [self._row(place, "", place) for place in range(len(training.seeds))], {})

    def _row(self, place: int, score: Any, origin: int) -> dict[str, Any]:
        """Return what pbt.csv has of a member: its score, whose state it goes on from, its settings from here on."""
        return {"score": score, "from": self._training.seeds[origin], **self._training.pack.own(place)}

    def __call__(self, metrics: dict[str, torch.Tensor] | None = None) -> None:
        """Exchange where it is due; pbt.csv has a row a member, with its settings from here on."""
        training = self._training
        step, population = training.step, training.spec.population
        if not training.exchange_due(step):
            return
        seeds, pack = training.seeds, training.pack
        scores = [rank_key(row) for row in training.evaluated]
        taken = exchanges(population, seeds, step, scores)
        states = {other: pack.member_state(other) for other in set(taken.values())}  # before anything changes
        for place, other in taken.items():
            before = pack.own(place)
            pack.load_member_state(place, states[other])
            pack.change(place, explored(population, seeds[place], step, pack.own(other)))
            logger.info(
                "step %d: seed %d (%.3g) goes on from seed %d (%.3g): %s",
                *(step, seeds[place], scores[place][0], seeds[other], scores[other][0]),
                _changes(before, pack.own(place)),
            )
        best = max(range(len(seeds)), key=lambda place: (scores[place], -place))
        rows = [self._row(place, scores[place][0], taken.get(place, place)) for place in range(len(seeds))]
        settings = {f"best_{key}": value for key, value in pack.own(best).items()}
        summary = {"best_seed": seeds[best], "best_score": scores[best][0], "exchanges": len(taken), **settings}
        self._logs.population(step, rows, summary)


def _changes(before: Mapping[str, float], after: Mapping[str, float]) -> str:
    return ", ".join(f"{name} {before[name]:.3g} -> {value:.3g}" for name, value in after.items())
