"""Training from fixed data and then from what the policy does: one run, resumable anywhere. No ray, no mlflow.

Steps 1 to `training_steps` are updates on the data, as those of `offline.py`; `training_steps` + i is step i of each
member's environment: decide on a chunk where none is left, act, insert; from i = `start_training` on one draw of
`utd_ratio` batches over all of the data and what was done, and as many updates (Q-chunking, arXiv 2507.07969). Until
then the policy that was trained acts. The data stay in their store: a row of a batch is a row of it or of the member's
own replay buffer. Shape suffix: K members.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch

from understudy.algorithm import Batch
from understudy.envs.replay.beside_data import DataAndReplay
from understudy.envs.windows.augmentation import augment_batch
from understudy.envs.windows.windows import Windows
from understudy.errors import SpecError
from understudy.observations import each, together
from understudy.registry import loops
from understudy.spec.parts import FineTuning
from understudy.spec.run import RunSpec
from understudy.trainables.loops.acting_feed import ActingFeed
from understudy.trainables.loops.batches import HELD_OUT, Batches, held_out_batch
from understudy.trainables.loops.data import Data, environment_of
from understudy.trainables.loops.interaction import REPLAY, Surroundings
from understudy.trainables.loops.logs import Logs
from understudy.trainables.loops.offline import FromDataset, OfflineLoop
from understudy.trainables.loops.session import Feed
from understudy.trainables.loops.steps import Training, steps

DECIDED = "decided"
"""What checkpoints call the actions that were decided and not done yet."""


@loops.register("fine_tuning")
class FineTuningLoop(OfflineLoop):
    """Train every seed of one configuration from a fixed dataset, then in environments of their own."""

    def __init__(self, spec: RunSpec) -> None:
        _check_settings(spec)
        super().__init__(spec)
        windows = self.data.windows(1)
        check_data(spec, windows)
        self.surroundings: Surroundings | None = None
        if spec.config.tuning:
            environment = environment_of(spec)
            self.surroundings = Surroundings(
                environment, spec.evaluation.eval_seed, as_stored=True, sparse=spec.data.sparse
            )
            shows, acts = self.surroundings.shape, self.surroundings.action_dim
            if (shows, acts) != (windows.observation_shape, windows.action_dim):
                raise SpecError(
                    f"environment {environment.env_name} shows {shows} and takes {acts} numbers, {windows.store.name!r}"
                    f" holds {windows.observation_shape} and {windows.action_dim}"
                )

    @classmethod
    def check(cls, spec: RunSpec) -> None:
        """Raise what is wrong with a new run's numbers, names, files, and data that are here."""
        _check_settings(spec)
        super().check(spec)

    def _feed(self, training: Training) -> Feed:
        """Return both phases' updates."""
        batches = self._batches(training)
        if self.surroundings is None:
            return FromDataset(batches, "offline_agent.csv")
        return FromBoth(training, batches, self.data, self.surroundings)


def _check_settings(spec: RunSpec) -> None:
    """Raise SpecError for numbers that leave an online phase nothing to learn, and for what it cannot do."""
    tuning = spec.config.tuning
    if tuning is None:
        return
    if tuning.start_training > tuning.online_steps:
        raise SpecError(
            f"online_steps={tuning.online_steps} leaves no update from start_training={tuning.start_training} on"
        )
    if spec.placement.num_workers > 1:
        raise SpecError(f"num_workers={spec.placement.num_workers}: a run that acts in an environment is one worker")
    if spec.placement.checkpoint_storage:
        raise SpecError("checkpoint_storage does not copy replay buffers, which resuming an online run needs")
    if spec.data.obs_horizon > 1:
        raise SpecError(f"obs_horizon={spec.data.obs_horizon}: online methods see the newest observation alone")


def check_data(spec: RunSpec, windows: Windows) -> None:
    """Raise SpecError for data that a critic can learn nothing from."""
    if windows.goals != "none":
        raise SpecError(f"use_critic=true: {spec.env_name} has goals, for which its rewards are not known")
    rewards = windows.rewards()
    if not rewards.any():
        raise SpecError(f"use_critic=true: every reward of {windows.store.name!r} is 0, so it has none to learn from")


class FromBoth(ActingFeed):
    """Updates on the data, then steps of every member's environment with updates on both."""

    def __init__(self, training: Training, batches: Batches, data: Data, surroundings: Surroundings) -> None:
        spec, tuning = training.spec, training.spec.config.tuning
        assert isinstance(tuning, FineTuning)
        super().__init__(training, surroundings, tuning.buffer_size)
        self._batches, self._data, self._tuning = batches, data, tuning
        # Of several files, the one that was open at the end.
        self._mixture = DataAndReplay(data.windows(spec.training_steps), spec.data.discount)
        if REPLAY in training.begun_from:
            self._players.decide_again(training.begun_from[DECIDED])

    def _state(self) -> dict[str, Any]:
        """Return what a checkpoint holds beside the pack: also the actions that were decided and not done yet."""
        return {**super()._state(), DECIDED: self._players.decided()}

    @property
    def waited(self) -> float:
        """Seconds that were waited for batches of the data."""
        return self._batches.waited

    def log_name(self, step: int) -> str:
        """Return the name of a phase's csv file, which is that of the published code."""
        return "offline_agent.csv" if step <= self._training.spec.training_steps else "online_agent.csv"

    def updates(self, training: Training, logs: Logs | None) -> Iterator[dict[str, torch.Tensor]]:
        """Take the remaining steps of both phases; yield the newest update's metrics, {} before the first."""
        offline = training.spec.training_steps
        yield from steps(training, self._batches, until=offline)
        self._batches.close()
        metrics: dict[str, torch.Tensor] = {}
        while not training.last:
            step = training.step + 1
            self._log_episodes(self._players.act(training.pack, step), step)
            if step - offline >= self._tuning.start_training:
                metrics = self._update(training, step)
            training.step = step
            yield metrics

    def _update(self, training: Training, step: int) -> dict[str, torch.Tensor]:
        """Take the updates that follow an online step: of one draw, a batch each."""
        spec, ratio, metrics = training.spec, self._tuning.utd_ratio, {}
        first = spec.training_steps + (step - spec.training_steps - self._tuning.start_training) * ratio + 1
        size = spec.config.batch_size
        drawn = self._draw(step, size * ratio)
        for place in range(ratio):
            part = slice(place * size, (place + 1) * size)
            batch = {name: each(lambda values, part=part: values[:, part], value) for name, value in drawn.items()}
            batch = augment_batch(batch, spec.augment, training.seeds, first + place, device=training.pack.device)
            metrics = training.pack.update(batch, first + place)
        return metrics

    def _draw(self, step: int, count: int) -> Batch:
        """Return `count` windows of each member [K, count, ...], uniform over the data's rows and those it added."""
        drawn: list[Batch] = []
        for player in self._players.players:
            rows = self._mixture.rows(player.buffer, player.seed, step, count)
            drawn.append(self._mixture.gather(player.buffer, rows))
        return {name: together(torch.stack, [one[name] for one in drawn]) for name in drawn[0]}

    def held_out(self) -> Iterator[Batch]:
        """Yield the batches of held-out episodes, HELD_OUT an evaluation, as the data's own phase has them."""
        training, number = self._training, 0
        while True:
            if training.step <= training.spec.training_steps:
                yield next(self._batches)
                continue
            assert self._data.validation is not None
            yield held_out_batch(
                self._data.validation, len(training.seeds), number % HELD_OUT, training.spec.config.batch_size
            )
            number += 1

    def close(self) -> None:
        """End the workers that prepare batches, and the environments."""
        self._batches.close()
        super().close()
