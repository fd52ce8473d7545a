"""Training from a fixed dataset: the steps of `steps.py`, the hooks of `hooks.py`. No ray, no mlflow, no command line.

open data -> pack of seeds -> for each step: batch, update, log, evaluate, checkpoint -> RunResult
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

import torch

from understudy import checkpoints
from understudy.algorithm import Algorithm
from understudy.devices import resolve_device
from understudy.envs.windows.windows import Windows
from understudy.errors import OutOfMemory, StorageError, TrainingDiverged
from understudy.registry import loops, plug_in_errors
from understudy.runs.directory import RunDir
from understudy.runs.loop import Loop
from understudy.runs.mirror import Mirror
from understudy.runs.results import OnEvaluation, OnProgress, RunResult
from understudy.runs.stop import Notice
from understudy.spec.effects import check_with_data
from understudy.spec.run import RunSpec
from understudy.trainables.loops.agent import Agent
from understudy.trainables.loops.batches import Batches, Order, Steps, loader_workers
from understudy.trainables.loops.data import algorithm_for, data_here, facts_of, open_data
from understudy.trainables.loops.evaluation import Evaluator, evaluate_policy, record_policy
from understudy.trainables.loops.hooks import (
    Checkpoint,
    Evaluate,
    Evaluation,
    Hook,
    Keep,
    Log,
    Report,
    Show,
    Stop,
    follow,
    keep,
)
from understudy.trainables.loops.logs import Logs
from understudy.trainables.loops.steps import Speed, Training, Worker, steps
from understudy.trainables.loops.trial import try_plug_ins
from understudy.trainables.packs.optimiser import Schedule
from understudy.trainables.packs.precision import check_precision
from understudy.trainables.packs.transfer import load_encoder, read_weights

logger = logging.getLogger("understudy")


@loops.register("offline")
class OfflineLoop(Loop):
    """Train every seed of one configuration from a fixed dataset."""

    evaluate = staticmethod(evaluate_policy)
    record = staticmethod(record_policy)
    agent = Agent

    def __init__(self, spec: RunSpec) -> None:
        self.spec = spec
        self.device = resolve_device(spec.placement.device)
        self.data = open_data(spec)
        first = self.data.windows(1)
        self.algorithm, _ = _learner(spec, first)  # an encoder that does not fit is said now
        check_precision(spec.config.precision, self.device)
        Schedule.of(spec.config, spec.training_steps)
        self.evaluator = Evaluator(spec) if spec.evaluation.eval_episodes and self.algorithm.acts else None
        if self.evaluator:
            self.evaluator.check(first.observation_shape, first.action_dim)

    @classmethod
    def check(cls, spec: RunSpec) -> None:
        """Raise what is wrong with a new run's device, names, files, and data that are here; nothing is simulated."""
        resolve_device(spec.placement.device)
        source = spec.config.vision.encoder_weights  # of a run that goes on, it may be gone
        weights = read_weights(source, spec.placement.tracking()) if source else {}
        data = data_here(spec)
        if data is not None:
            for note in check_with_data(spec, facts_of(spec, data)):
                logger.warning("note: %s", note)
            _, network = _learner(spec, data.windows(1))
            if source:
                load_encoder(network, weights, source)

    def run(
        self,
        path: Path,
        *,
        report: OnEvaluation | None = None,
        progress: OnProgress | None = None,
        grid: Mapping[str, tuple[Any, ...]] | None = None,
        rank: int = 0,
        world: int = 1,
    ) -> RunResult:
        """Train to `training_steps`, going on from the newest whole checkpoint in the run directory."""
        torch.set_num_threads(self.spec.placement.cpus)
        worker = Worker(rank, world)
        training = Training(self.spec, RunDir(path), self.data, self.algorithm, self.device, worker)
        logs = Logs(training.run, training.seeds) if worker.writes else None
        if logs:
            self._begin(training, logs, report)
        try:
            self._train(training, logs, report, progress, grid or {})
        except (TrainingDiverged, StorageError):
            # What led here is on disk already: the last good checkpoint is the newest rolling one.
            if logs:
                logs.sync()
            raise
        except torch.OutOfMemoryError as error:
            wanted = str(error).splitlines()[0].split(". ")[0]
            raise OutOfMemory(
                f"step {training.step + 1}: {wanted}: try a smaller batch_size (now {self.spec.config.batch_size}),"
                f" smaller hidden_dims, fewer seeds at once (now {len(training.seeds)}), or device=cpu"
            ) from error
        if worker.writes:
            keep(training, "final_model.pt")
        return RunResult(training.run.path, "finished", training.step, training.metrics, training.best_parameters)

    def _begin(self, training: Training, logs: Logs, report: OnEvaluation | None) -> None:
        """Say what the run trains on and where it goes on from; report its earlier evaluations again."""
        training.run.update_state(dataset_hash=self.data.content_hash)
        if training.step:
            before = training.run.state().get("resumed_at", [])
            training.run.update_state(resumed_at=[*before, training.step])
            if report:  # the caller's own memory may be gone
                for step, summary in logs.evaluated(training.step):
                    report(step, summary)

    def _train(
        self,
        training: Training,
        logs: Logs | None,
        report: OnEvaluation | None,
        progress: OnProgress | None,
        grid: Mapping[str, tuple[Any, ...]],
    ) -> None:
        """Do the remaining steps; the last evaluation belongs to the last step."""
        run, notice = training.run, Notice(training.run.path)
        with (
            Mirror(run) as mirror,
            checkpoints.RollingWriter(run.resume) as writer,
            closing(self._batches(training)) as batches,
        ):
            speed = Speed(training, batches)
            if logs is None:
                stop = Stop(training, notice, writer, None)
                hooks: list[Hook] = [Log(training, None, speed)]
            else:
                checkpoint, show = Checkpoint(training, logs, writer, mirror), Show(training, progress)
                stop = Stop(training, notice, writer, checkpoint)
                evaluation = Evaluation(training, logs, batches, self.evaluator, grid, stop)
                hooks = [
                    Log(training, logs, speed),
                    show,
                    Evaluate(training, evaluation, checkpoint, show, speed),
                    Keep(training),
                    checkpoint,
                    Report(training, report),
                ]
            follow(training, steps(training, batches), hooks, stop)

    def _batches(self, training: Training) -> Batches:
        """Return the batches of the remaining steps and of their evaluations."""
        worker = training.worker
        drawn = Steps(self.spec, training.seeds, worker.rank, worker.world, self.data)
        order = Order(training.step + 1, self.spec.training_steps, training.validation_due, training.evaluating)
        return Batches(drawn, order, loader_workers(self.spec, self.data), self.device)


def _learner(spec: RunSpec, windows: Windows) -> tuple[Algorithm, torch.nn.Module]:
    """Return the run's algorithm for what the windows hold, and one network of it."""
    spec.augment.check(windows.observation_shape, spec.data.obs_horizon)
    with plug_in_errors():
        algorithm = algorithm_for(spec, windows)
        network = algorithm.network(torch.Generator())
    try_plug_ins(spec, algorithm, network, windows)
    return algorithm, network
