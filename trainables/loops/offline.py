"""The one offline training loop: data, updates, evaluation, checkpoints. No ray, no mlflow, no command line.

    open data -> pack of seeds -> for each step: batch, update, log, evaluate, checkpoint -> RunResult

A step's work is a pure function of (spec, step) and of the weights before it: going on from a checkpoint equals
never having stopped, bit for bit on the CPU with one worker.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Collection, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

import torch

from understudy import checkpoints
from understudy.algorithm import Algorithm, Batch
from understudy.devices import resolve_device
from understudy.envs.windows.augmentation import augment_batch
from understudy.envs.windows.windows import Windows
from understudy.errors import CheckpointError, OutOfMemory, Stopped, StorageError, TrainingDiverged
from understudy.normaliser import Normaliser
from understudy.registry import loops
from understudy.runs.directory import RunDir
from understudy.runs.loop import Loop
from understudy.runs.mirror import Mirror
from understudy.runs.results import OnEvaluation, OnProgress, RunResult, rank_key
from understudy.runs.stop import Notice
from understudy.spec.run import RunSpec
from understudy.trainables.loops.agent import Agent
from understudy.trainables.loops.batches import Batches, Order, Steps, loader_workers
from understudy.trainables.loops.data import algorithm_for, data_here, open_data
from understudy.trainables.loops.evaluation import Evaluator, Outcome, evaluate_policy, held_out_losses, record_policy
from understudy.trainables.loops.logs import Logs
from understudy.trainables.loops.models import drop_old_models, save_models
from understudy.trainables.packs.optimiser import Schedule
from understudy.trainables.packs.pack import Pack
from understudy.trainables.packs.precision import check_precision
from understudy.trainables.packs.transfer import load_encoder, read_weights

logger = logging.getLogger("understudy")
AGREE_STEPS = 20
"""Steps after which several workers ask each other whether to stop."""
SHOW_SECONDS = 0.5
"""Between two calls of `progress`."""


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
        return _Training(self, RunDir(path), report, progress, dict(grid or {}), rank, world).go()


def _learner(spec: RunSpec, windows: Windows) -> tuple[Algorithm, torch.nn.Module]:
    """Return the run's algorithm for what the windows hold, and one network of it."""
    spec.augment.check(windows.observation_shape, spec.data.obs_horizon)
    algorithm = algorithm_for(spec, windows)
    return algorithm, algorithm.network(torch.Generator())


class _Training:
    """The state of one call of OfflineLoop.run."""

    def __init__(
        self,
        loop: OfflineLoop,
        run: RunDir,
        report: OnEvaluation | None,
        progress: OnProgress | None,
        grid: dict[str, tuple[Any, ...]],
        rank: int,
        world: int,
    ) -> None:
        self.loop, self.spec, self.run = loop, loop.spec, run
        self.report, self.progress, self.grid = report, progress, grid
        self.rank, self.world = rank, world
        self.seeds = self.spec.all_seeds
        self.step = 0
        self._notice = Notice(run.path)
        self._told: Stopped | None = None
        self._saved_at, self._shown_at = time.monotonic(), 0.0
        saved = checkpoints.load_newest(run.resume)
        self.pack = Pack(
            loop.algorithm,
            self.seeds,
            normaliser=self._normaliser(saved),
            device=loop.device,
            world_size=world,
            rank=rank,
            training_steps=self.spec.training_steps,
        )
        if saved:
            self._restore(saved)
        elif self.spec.config.vision.encoder_weights:
            self._load_encoder(self.spec.config.vision.encoder_weights)
        self.logs = Logs(run, self.seeds) if rank == 0 else None
        self.best_parameters: dict[str, Any] = saved["best_parameters"] if saved else {}
        self.best_scores: list[float] = saved["best_scores"] if saved else [-math.inf] * len(self.seeds)
        self.metrics: dict[str, float] = saved["metrics"] if saved else {}
        unfinished = bool(saved and saved.get("evaluating")) and self._evaluation_due(self.step)
        self._unfinished = unfinished
        """Whether the evaluation of the checkpoint's step is still to be made: it was interrupted."""

    def _normaliser(self, saved: dict[str, Any] | None) -> Normaliser:
        if saved:
            return Normaliser.from_dict(saved["normaliser"])
        actions = self.spec.data.normalize_actions if self.loop.algorithm.acts else "none"
        return self.loop.data.normaliser(self.spec.data.normalize, actions)

    def _load_encoder(self, path: str) -> None:
        """Start from another network's encoder; a run that goes on has it in its checkpoint, the file may be gone."""
        report = self.pack.load_encoder(read_weights(path, self.spec.placement.tracking()), path)
        logger.info("%s", report.line())
        if self.rank == 0:
            self.run.update_state(encoder_weights=report.to_dict())

    def _restore(self, saved: dict[str, Any]) -> None:
        of_these_data = saved["data"] in (None, self.loop.data.content_hash)  # None: forked, maybe to other data
        if saved["fingerprint"] != self.spec.fingerprint() or not of_these_data:
            raise CheckpointError(f"{self.run.resume} belongs to another spec or dataset than {self.run.flags}")
        for index, state in enumerate(saved["members"]):
            self.pack.load_member_state(index, state)
        self.step = int(saved["step"])

    def go(self) -> RunResult:
        """Do the remaining steps; the last evaluation and the final model belong to the last step."""
        if self.rank == 0:
            self.run.update_state(dataset_hash=self.loop.data.content_hash)
            if self.step:
                before = self.run.state().get("resumed_at", [])
                self.run.update_state(resumed_at=[*before, self.step])
            self._replay_reports()
        try:
            with Mirror(self.run) as self.mirror, checkpoints.RollingWriter(self.run.resume) as self.writer:
                self._train()
        except (TrainingDiverged, StorageError):
            # What led here is on disk already: the last good checkpoint is the newest rolling one.
            if self.logs:
                self.logs.sync()
            raise
        except torch.OutOfMemoryError as error:
            wanted = str(error).splitlines()[0].split(". ")[0]
            raise OutOfMemory(
                f"step {self.step + 1}: {wanted}: try a smaller batch_size (now {self.spec.config.batch_size}), smaller"
                f" hidden_dims, fewer seeds at once (now {len(self.seeds)}), or device=cpu"
            ) from error
        return self._finish()

    def _train(self) -> None:
        spec, data = self.spec, self.loop.data
        steps = Steps(spec, self.seeds, self.rank, self.world, data)
        order = Order(self.step + 1, spec.training_steps, self._validation_due, self._unfinished)
        self.batches = Batches(steps, order, loader_workers(spec, data), self.loop.device)
        self._mark()
        with closing(self.batches):
            self._steps()

    def _steps(self) -> None:
        spec = self.spec
        if self._unfinished:
            if self.rank == 0:
                self._after_step()
            self._stop_if_told()
        while self.step < spec.training_steps:
            step = self.step + 1
            metrics = self.pack.update(self._augmented(next(self.batches), step), step)
            self.step = step
            if step % spec.hooks.log_interval == 0 or step == spec.training_steps:
                metrics = self.pack.average_over_workers(metrics)  # by every worker, or none
                if self.rank == 0:
                    self._log(metrics)
            if self.rank == 0:
                self._after_step()
            self._stop_if_told()

    def _augmented(self, batch: Batch, step: int) -> Batch:
        """Return the batch with its pictures augmented, where that is done on the device."""
        spec = self.spec
        if spec.augment.augment_where != "device":
            return batch
        share: dict[str, Any] = {"rank": self.rank, "world": self.world, "device": self.pack.device}
        return augment_batch(batch, spec.augment, self.seeds, step, obs_horizon=spec.data.obs_horizon, **share)

    def _stop_if_told(self) -> None:
        """End after a checkpoint when the run is told to stop; all workers at the same step."""
        last = self.step == self.spec.training_steps
        if self._told is not None and (last or self.world == 1):
            self.writer.flush()
            raise self._told
        if last or (self.world > 1 and self.step % AGREE_STEPS and not self._evaluation_due(self.step)):
            return
        if self.pack.any_worker(self._told is not None or self._notice.given()):
            if self.rank == 0:
                if self._told is None:
                    self._checkpoint()
                self.writer.flush()
            raise self._told or self._notice.error(self.step)

    def _poll(self) -> None:
        """End an evaluation that is under way when the run is told to stop; it is made again when the run goes on."""
        if self._notice.given():
            self._told = self._notice.error(self.step)
            raise self._told

    def _mark(self) -> None:
        """Start measuring steps/s anew: evaluations and checkpoints are no training."""
        self._mark_time, self._mark_step, self._mark_waited = time.perf_counter(), self.step, self.batches.waited

    def _after_step(self) -> None:
        """Show, evaluate, keep, checkpoint, report: in this order, so that a checkpoint implies all before it.

        One more comes before the evaluation, which may take long: it says that the evaluation is still to be made.
        They are written in the background: a process that dies after a report may evaluate and report once more.
        """
        step, spec, now = self.step, self.spec, time.monotonic()
        last = step == spec.training_steps
        self._show(last)
        evaluated = self._evaluation_due(step)
        if evaluated:
            if not self._unfinished:
                self._checkpoint(evaluating=True)
            try:
                self._evaluate(last)
            except Stopped:  # told by _poll: all workers end together
                return
            self._unfinished = False
            self._show(now=True)
            self._mark()
        if spec.hooks.save_interval > 0 and step % spec.hooks.save_interval == 0:
            self._keep(f"checkpoint_{step}.pt")
            drop_old_models(self.run, spec)
        if evaluated or last or now - self._saved_at > spec.hooks.checkpoint_seconds:
            self._checkpoint()
            self._saved_at = time.monotonic()
        if evaluated and self.report:
            self.report(step, self.metrics)

    def _show(self, now: bool) -> None:
        """Tell the caller how far the run is, `now` or when it was told long enough ago."""
        if self.progress and (now or time.monotonic() - self._shown_at > SHOW_SECONDS):
            self._shown_at = time.monotonic()
            self.progress(self.step, self.spec.training_steps, self.metrics)

    def _evaluation_due(self, step: int) -> bool:
        if self.loop.evaluator is None and self.loop.data.validation is None:
            return False
        every = self.spec.hooks.eval_interval
        return step == self.spec.training_steps or (every > 0 and step % every == 0)

    def _validation_due(self, step: int) -> bool:
        return self.rank == 0 and self.loop.data.validation is not None and self._evaluation_due(step)

    def _replay_reports(self) -> None:
        """Tell the caller again what was evaluated before the checkpoint: its own memory may be gone."""
        if self.report is None or self.step == 0:
            return
        assert self.logs is not None
        for step, summary in self.logs.evaluated(self.step):
            self.report(step, summary)

    def _log(self, metrics: dict[str, torch.Tensor]) -> None:
        assert self.logs is not None
        self.pack.check_finite()
        seconds = max(time.perf_counter() - self._mark_time, 1e-9)
        steps_per_sec = (self.step - self._mark_step) / seconds
        data_wait = min((self.batches.waited - self._mark_waited) / seconds, 1.0)
        self._mark()
        table = {key: value.detach().double().cpu().tolist() for key, value in metrics.items()}
        self.logs.training(self.step, table, steps_per_sec, data_wait)
        means = {key: sum(values) / len(values) for key, values in table.items()}
        self.metrics = {**self.metrics, **means, "steps_per_sec": steps_per_sec}

    def _evaluate(self, final: bool) -> None:
        """Append one row to each evaluation file: the held-out episodes' loss, and rollouts where there are any."""
        assert self.logs is not None
        held_out = self.loop.data.validation is not None
        rows = held_out_losses(self.pack, self.batches, self._poll) if held_out else [{} for _ in self.seeds]
        best = summary = {key: sum(row[key] for row in rows) / len(rows) for key in rows[0]}
        if self.loop.evaluator is not None:
            outcome = self._roll_out(self.loop.evaluator, final)
            rows = [{**row, **held_out} for row, held_out in zip(outcome.rows, rows, strict=True)]
            summary, best = {**outcome.summary, **summary}, {**outcome.best_summary, **summary}
        self.logs.evaluation(self.step, rows, summary, self.metrics.get("steps_per_sec", ""))
        self.metrics = {**self.metrics, **best}
        if self.spec.hooks.save_best and (self.loop.evaluator is not None or not self.loop.algorithm.acts):
            self._save_best(rows)

    def _save_best(self, rows: list[dict[str, float]]) -> None:
        """Keep the policy of each seed whose evaluation is its best so far."""
        scores = [rank_key(row)[0] for row in rows]
        better = [index for index, score in enumerate(scores) if score > self.best_scores[index]]
        self.best_scores = [max(pair) for pair in zip(self.best_scores, scores, strict=True)]
        self._keep("best_model.pt", better)

    def _keep(self, name: str, only: Collection[int] | None = None) -> None:
        self.pack.check_finite()
        save_models(self.run, self.spec, self.pack, self.step, name, only)

    def _roll_out(self, evaluator: Evaluator, final: bool) -> Outcome:
        """Evaluate in the environment; at the end also at each value of the grid, and on video."""
        assert self.logs is not None
        algorithm = self.loop.algorithm
        grid = self.grid if final else {}
        recorder = self.logs.episodes(self.step)
        outcome = evaluator.evaluate(self.pack.act, len(self.seeds), algorithm, grid, self._poll, recorder)
        if final and self.spec.evaluation.video_episodes:
            acting = algorithm.with_config(**outcome.best_parameters)
            reason = evaluator.record(self.pack.act, acting, self.run.path / "video.mp4", poll=self._poll)
            if reason:
                logger.warning("%s", reason)
        if outcome.grid_summary:
            self.logs.grid(self.step, outcome.grid_rows, outcome.grid_summary)
        self.best_parameters = outcome.best_parameters
        return outcome

    def _state(self, evaluating: bool) -> dict[str, Any]:
        return {
            "step": self.step,
            "evaluating": evaluating,
            "fingerprint": self.spec.fingerprint(),
            "data": self.loop.data.content_hash,
            "normaliser": self.pack.normaliser.to_dict(),
            "metrics": self.metrics,
            "best_parameters": self.best_parameters,
            "best_scores": self.best_scores,
            "members": [self.pack.member_state(index) for index in range(len(self.seeds))],
        }

    def _checkpoint(self, evaluating: bool = False) -> None:
        """Hand a copy of the state to the writer; the rows of its steps are made durable before the file."""
        assert self.logs is not None
        self.pack.check_finite()
        step = self.step

        def written() -> None:
            self.run.update_state(step=step)
            self.mirror.submit()

        self.writer.submit(step, self._state(evaluating), self.logs.sync, written)

    def _finish(self) -> RunResult:
        if self.rank == 0:
            self._keep("final_model.pt")
        return RunResult(self.run.path, "finished", self.step, self.metrics, self.best_parameters)
