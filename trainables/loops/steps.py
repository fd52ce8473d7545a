"""A training under way, and its updates one after another: what every loop is made of, with the hooks beside it.

    training = Training(...)                     # a pack, new or as its newest checkpoint left it
    for metrics in steps(training, batches):     # one update each
        for hook in hooks: hook(metrics)         # log, evaluate, keep, checkpoint, report, stop: hooks.py

A step's work is a pure function of (spec, step) and of the weights before it: going on from a checkpoint equals
never having stopped, bit for bit on the CPU with one worker.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Iterator
from typing import Any, Protocol, cast

import torch

from understudy import checkpoints
from understudy.algorithm import Algorithm, Batch
from understudy.envs.windows.augmentation import augment_batch
from understudy.envs.windows.windows import Windows
from understudy.errors import CheckpointError, UserError
from understudy.normaliser import Mode, Normaliser
from understudy.runs.directory import RunDir
from understudy.runs.rows import KEY as FILES
from understudy.runs.rows import check_rows
from understudy.runs.turns import Turns
from understudy.spec.run import RunSpec
from understudy.trainables.loops.batches import Batches
from understudy.trainables.packs.growing import begun_from
from understudy.trainables.packs.pack import Pack
from understudy.trainables.packs.population import first_settings
from understudy.trainables.packs.share import Share, Wanted
from understudy.trainables.packs.transfer import read_weights
from understudy.trainables.packs.workers import Worker

logger = logging.getLogger("understudy")
TEXT_TABLE = "language_table"
"""Key of run.json: the digest of the table that task texts are embedded by."""


class TrainsOn(Protocol):
    """What a training needs to know of its data, if it has any."""

    @property
    def content_hash(self) -> str:
        """What tells these data from others; a run goes on with the same ones only."""
        ...

    @property
    def validation(self) -> Windows | None:
        """Held-out episodes."""
        ...

    def normaliser(self, mode: Mode, action_mode: Mode = "none") -> Normaliser:
        """Return the scaling of observations and actions."""
        ...


def check_texts(run: RunDir, table: str | None) -> None:
    """Raise UserError where task texts are embedded by another table than when the run began."""
    held = run.state().get(TEXT_TABLE)
    if held and table and held != table:
        raise UserError(
            f"{run.path}: its task texts were embedded by another table ({held[:12]}) than language_encoder= has now"
            f" ({table[:12]}): put that one back"
        )


class Training:
    """What a run has reached: its pack, the step, the newest metrics, the best policies so far."""

    def __init__(
        self,
        spec: RunSpec,
        run: RunDir,
        data: TrainsOn,
        algorithm: Algorithm,
        device: torch.device,
        worker: Worker = Worker(),
        place: tuple[Turns, int] | None = None,
    ) -> None:
        """Make it; with a `place` among others' turns its pack is a share of theirs."""
        self.spec, self.run, self.data, self.algorithm, self.worker = spec, run, data, algorithm, worker
        self.seeds = spec.all_seeds
        run.check_data(run.state().get("dataset_hash") or "", data.content_hash)
        check_texts(run, self.text_table)
        saved = checkpoints.load_newest(run.resume)
        self.begun_from = saved or {}
        """The checkpoint that the run goes on from."""
        self.pack = self._pack(saved, device, place)
        self.step = 0
        self.metrics: dict[str, float] = {}
        """The newest means over seeds, of training and of evaluation."""
        self.best_parameters: dict[str, Any] = {}
        """Evaluation-time parameters that the last grid chose."""
        self.best_scores = [-math.inf] * len(self.seeds)
        self.more: Callable[[], dict[str, Any]] = dict
        """What a loop's checkpoints hold beside this."""
        self.evaluating = False
        """Whether the evaluation that is due at `step` is still to be made."""
        self.evaluated: list[dict[str, float]] = []
        """Each member's row of the newest evaluation."""
        if saved:
            self._restore(saved)
        elif spec.config.vision.encoder_weights:
            self._load_encoder(spec.config.vision.encoder_weights)

    @property
    def text_table(self) -> str | None:
        """Digest of the table that task texts are embedded by; None where the policy is told none."""
        return self.algorithm.config.language.language_table

    def _pack(self, saved: dict[str, Any] | None, device: torch.device, place: tuple[Turns, int] | None) -> Pack:
        normaliser, steps = self._normaliser(saved), self.spec.total_steps
        if place is not None:
            share = Share(*place, Wanted(self.algorithm, self.seeds, normaliser, device, steps))
            return cast(Pack, share)  # as much of one as loops and hooks need
        own, worker = first_settings(self.spec), self.worker
        return Pack(
            self.algorithm,
            self.seeds,
            normaliser=normaliser,
            device=device,
            own=own,
            worker=worker,
            training_steps=steps,
            captures=self.spec.placement.cuda_graphs,
        )

    def _normaliser(self, saved: dict[str, Any] | None) -> Normaliser:
        if saved:
            return Normaliser.from_dict(saved["normaliser"])
        actions = self.spec.data.normalize_actions if self.algorithm.acts else "none"
        return self.data.normaliser(self.spec.data.normalize, actions)

    def _load_encoder(self, source: str) -> None:
        """Start from another network's encoder; a run that goes on has it in its checkpoint, the file may be gone."""
        report = self.pack.load_encoder(read_weights(source, self.spec.placement.tracking()), source)
        logger.info("%s", report.line())
        if self.worker.writes:
            self.run.update_state(encoder_weights=report.to_dict())

    def _restore(self, saved: dict[str, Any]) -> None:
        if saved["fingerprint"] != self.spec.fingerprint():
            raise CheckpointError(f"{self.run.resume} belongs to another spec than {self.run.flags}")
        self.run.check_data(saved["data"] or "", self.data.content_hash)  # "": forked, maybe to other data
        if self.worker.writes:
            check_rows(self.run, saved.get(FILES, {}))
        for index, state in enumerate(saved["members"]):
            if saved["data"] is None:  # a fork's network may have other parts than its parent's
                begun = begun_from(state, self.pack.member_state(index))
                state, said = begun.state, begun.line()
                if said and index == 0:
                    logger.info("%s", said)
                if self.spec.population.pbt is None:  # its parent's members may have had settings of their own
                    state = {name: value for name, value in state.items() if name != "own"}
            self.pack.load_member_state(index, state)
        self.step, self.metrics = int(saved["step"]), saved["metrics"]
        self.best_parameters, self.best_scores = saved["best_parameters"], saved["best_scores"]
        self.evaluating = bool(saved.get("evaluating")) and self.evaluation_due(self.step)

    def state(self) -> dict[str, Any]:
        """Return copies of all that training goes on from; loadable with `torch.load(weights_only=True)`."""
        return {
            "step": self.step,
            "evaluating": self.evaluating,
            "fingerprint": self.spec.fingerprint(),
            "data": self.data.content_hash,
            "normaliser": self.pack.normaliser.to_dict(),
            "metrics": self.metrics,
            "best_parameters": self.best_parameters,
            "best_scores": self.best_scores,
            "members": [self.pack.member_state(index) for index in range(len(self.seeds))],
            **self.more(),
        }

    @property
    def last(self) -> bool:
        """Whether the last step has been taken."""
        return self.step == self.spec.total_steps

    @property
    def rolls_out(self) -> bool:
        """Whether evaluations play episodes in an environment."""
        return self.spec.evaluation.eval_episodes > 0 and self.algorithm.acts

    def evaluation_due(self, step: int) -> bool:
        """Return whether the policy of `step` is evaluated, by rollouts or on held-out episodes."""
        if not self.rolls_out and self.data.validation is None:
            return False
        every = self.spec.hooks.eval_interval
        if self.exchange_due(step):
            return True
        return step in (self.spec.training_steps, self.spec.total_steps) or (every > 0 and step % every == 0)

    def exchange_due(self, step: int) -> bool:
        """Return whether members exchange weights after the evaluation of `step`."""
        return self.spec.population.due(step) and step < self.spec.total_steps

    def validation_due(self, step: int) -> bool:
        """Return whether this worker's batches of held-out episodes follow that of `step`."""
        return self.worker.writes and self.data.validation is not None and self.evaluation_due(step)


def steps(training: Training, batches: Batches, until: int | None = None) -> Iterator[dict[str, torch.Tensor]]:
    """Take the remaining updates one after another; after each, yield its metrics, each [K], not synchronised.

    `until` is the last of them; none: the run's last step.
    """
    last = training.spec.total_steps if until is None else until
    while training.step < last:
        step = training.step + 1
        metrics = training.pack.update(_augmented(next(batches), training, step), step)
        training.step = step
        yield metrics


def _augmented(batch: Batch, training: Training, step: int) -> Batch:
    """Return the batch with its pictures augmented, where that is done on the device."""
    spec, worker = training.spec, training.worker
    if spec.augment.augment_where != "device":
        return batch
    share: dict[str, Any] = {"rank": worker.rank, "world": worker.world, "device": training.pack.device}
    return augment_batch(batch, spec.augment, training.seeds, step, obs_horizon=spec.data.obs_horizon, **share)


class Waits(Protocol):
    """What a loop waits for: batches that others prepare."""

    @property
    def waited(self) -> float:
        """Seconds so far."""
        ...


class Speed:
    """Steps per second, and the share of the time that was waited for batches, since the last mark."""

    def __init__(self, training: Training, batches: Waits) -> None:
        self._training, self._batches = training, batches
        self.measured: tuple[float, float] | None = None
        """What `measure` returned last."""
        self.mark()

    def mark(self) -> None:
        """Start anew: evaluations and checkpoints are no training."""
        self._time, self._step, self._waited = time.perf_counter(), self._training.step, self._batches.waited

    def measure(self) -> tuple[float, float]:
        """Return (steps per second, share of the time that was waited), and start anew."""
        seconds = max(time.perf_counter() - self._time, 1e-9)
        self.measured = measured = (
            (self._training.step - self._step) / seconds,
            min((self._batches.waited - self._waited) / seconds, 1.0),
        )
        self.mark()
        return measured
