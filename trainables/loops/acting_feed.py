"""What feeds that act share: each member's player and buffer, and the rows of its training episodes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from understudy.runs.directory import CsvLog
from understudy.trainables.loops.interaction import REPLAY, MakesPlayer, Player, Players, Surroundings
from understudy.trainables.loops.steps import Training


class ActingFeed:
    """Each member's environment and replay buffer, of `capacity` steps, and its env.csv; checkpoints hold them."""

    def __init__(
        self,
        training: Training,
        surroundings: Surroundings,
        capacity: int,
        *,
        player: MakesPlayer = Player,
        marks: Sequence[str] = (),
    ) -> None:
        spec, folder = training.spec, training.run.resume / REPLAY
        self._training = training
        self._players = Players(
            surroundings,
            training.seeds,
            folder,
            capacity,
            discount=spec.data.discount,
            player=player,
            marks=marks,
        )
        if REPLAY in training.begun_from:
            self._players.restore(training.begun_from[REPLAY])
        training.more = self._state
        self._episodes = [CsvLog(training.run.member(seed, spec.all_seeds) / "env.csv") for seed in training.seeds]

    def _state(self) -> dict[str, Any]:
        """Return what a checkpoint holds beside the pack."""
        return {REPLAY: self._players.state()}

    def _log_episodes(self, acted: Iterable[Mapping[str, Any] | None], step: int) -> None:
        """Append a row for each training episode that ended with this step."""
        for log, totals in zip(self._episodes, acted, strict=True):
            if totals is not None:
                log.append(step, totals)

    def sync(self) -> None:
        """Make the buffers' rows durable, and the episodes' rows."""
        self._players.sync()
        for log in self._episodes:
            log.sync()

    def written(self, state: Mapping[str, Any]) -> None:
        """Delete what no checkpoint that is kept needs any more."""
        self._players.keep(state[REPLAY])

    def close(self) -> None:
        """Close the environments."""
        self._players.close()
