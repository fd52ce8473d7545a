"""What happens after an update, in this order: log, show, evaluate, keep, exchange, checkpoint, report, stop.

The order makes a checkpoint imply all before it. One more is written before an evaluation, which may take long, and
says that the evaluation is still to be made. Checkpoints are written in the background: a process that dies after a
report may evaluate and report once more. Of several workers one does all this; logging and stopping need all of them.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any, Protocol

import torch

from understudy.algorithm import Batch
from understudy.checkpoints import RollingWriter
from understudy.errors import Stopped
from understudy.runs.clips import failures_first
from understudy.runs.results import OnEvaluation, OnProgress, rank_key
from understudy.runs.rows import KEY as FILES
from understudy.runs.rows import WrittenRows
from understudy.runs.stop import Notice
from understudy.trainables.loops.evaluation import Evaluator, Outcome, held_out_losses
from understudy.trainables.loops.filming import record
from understudy.trainables.loops.logs import Logs
from understudy.trainables.loops.models import drop_old_models, save_models
from understudy.trainables.loops.steps import Speed, Training

logger = logging.getLogger("understudy")
AGREE_STEPS = 20
"""Steps after which several workers ask each other whether to stop."""
SHOW_SECONDS = 0.5
"""Between two calls of `progress`."""


class Hook(Protocol):
    """What is called after each update."""

    def __call__(self, metrics: dict[str, torch.Tensor]) -> None:
        """Do what is due at the training's step; `metrics` [K] are the update's."""
        ...


class Log:
    """Append the update's metrics, averaged over the workers, to the run's files."""

    def __init__(self, training: Training, logs: Logs | None, speed: Speed) -> None:
        self._training, self._logs, self._speed = training, logs, speed

    def __call__(self, metrics: dict[str, torch.Tensor]) -> None:
        """Every log_interval steps, and at the last."""
        training = self._training
        if not metrics or (training.step % training.spec.hooks.log_interval and not training.last):
            return
        metrics = training.worker.average_each(metrics)  # by every worker, or none
        if self._logs is None:
            return
        training.pack.check_finite()
        steps_per_sec, data_wait = self._speed.measure()
        table = {key: _numbers(value) for key, value in metrics.items()}
        self._logs.training(training.step, table, steps_per_sec, data_wait)
        means = {key: sum(values) / len(values) for key, values in table.items()}
        training.metrics = {**training.metrics, **means, "steps_per_sec": steps_per_sec}


def _numbers(values: torch.Tensor) -> list[float]:
    return values.detach().double().cpu().numpy().tolist()


class Show:
    """Tell the caller how far the run is."""

    def __init__(self, training: Training, progress: OnProgress | None) -> None:
        self._training, self._progress, self._shown_at = training, progress, 0.0

    def __call__(self, metrics: dict[str, torch.Tensor] | None = None) -> None:
        """Where it was told long enough ago, at the last step, and where a row was logged."""
        training = self._training
        logged = training.step % training.spec.hooks.log_interval == 0
        if training.last or logged or time.monotonic() - self._shown_at > SHOW_SECONDS:
            self.now()

    def now(self) -> None:
        """Tell it."""
        if self._progress:
            self._shown_at = time.monotonic()
            self._progress(self._training.step, self._training.spec.total_steps, self._training.metrics)


class Checkpoint:
    """Hand a copy of the state to the writer; `before` makes what its steps wrote durable, and precedes the file."""

    def __init__(
        self,
        training: Training,
        writer: RollingWriter,
        before: Callable[[], None],
        after: Callable[[dict[str, Any]], None],
    ) -> None:
        self._training, self._writer, self._before, self._after = training, writer, before, after
        self._rows = WrittenRows(training.run.path)
        self._saved_at = time.monotonic()

    def __call__(self, metrics: dict[str, torch.Tensor] | None = None) -> None:
        """After evaluations, at the last step, and every checkpoint_seconds."""
        training, seconds = self._training, self._training.spec.hooks.checkpoint_seconds
        old = time.monotonic() - self._saved_at > seconds
        if training.evaluation_due(training.step) or training.last or old:
            self.write()
            self._saved_at = time.monotonic()

    def write(self) -> None:
        """Write one now, in the background."""
        training = self._training
        training.pack.check_finite()
        step, state = training.step, training.state()

        def before() -> None:
            state[FILES] = self._rows.note()  # then `before` makes the rows durable that were noted
            self._before()

        def written() -> None:
            training.run.update_state(step=step)
            self._after(state)

        self._writer.submit(step, state, before, written)


class Stop:
    """End after a checkpoint when the run is told to stop; all workers at the same step."""

    def __init__(
        self, training: Training, notice: Notice, writer: RollingWriter, checkpoint: Checkpoint | None
    ) -> None:
        self._training, self._notice, self._writer, self._checkpoint = training, notice, writer, checkpoint
        self.told: Stopped | None = None
        """What an evaluation was ended by; a checkpoint from before it is there."""

    def poll(self) -> None:
        """End an evaluation that is under way when the run is told to stop; it is made again when the run goes on."""
        if self._notice.given():
            self.told = self._notice.error(self._training.step)
            raise self.told

    def between(self, error: Stopped) -> Stopped:
        """Write a checkpoint where an update was waited for and the wait was ended; return what to raise."""
        if self._checkpoint is not None and self._training.step:
            self._checkpoint.write()
            self._writer.flush()
        return self._notice.error(self._training.step) if self._notice.pending else error

    def __call__(self, metrics: dict[str, torch.Tensor] | None = None) -> None:
        """Raise Stopped where any worker is told to stop."""
        training, last, world = self._training, self._training.last, self._training.worker.world
        if self.told is not None and (last or world == 1):
            self._writer.flush()
            raise self.told
        agreed = training.step % AGREE_STEPS == 0 or training.evaluation_due(training.step)
        if last or (world > 1 and not agreed):
            return
        if training.worker.any(self.told is not None or self._notice.given(), training.pack.device):
            if self._checkpoint is not None:
                if self.told is None:
                    self._checkpoint.write()
                self._writer.flush()
            raise self.told or self._notice.error(training.step)


class EvaluationFiles:
    """Append one row to each evaluation file: the held-out episodes' loss, and rollouts where there are any."""

    def __init__(
        self,
        training: Training,
        logs: Logs,
        batches: Iterator[Batch],
        evaluator: Evaluator | None,
        grid: Mapping[str, tuple[Any, ...]],
        stop: Stop,
    ) -> None:
        self._training, self._logs, self._batches = training, logs, batches
        self._evaluator, self._grid, self._stop = evaluator, grid, stop

    def __call__(self) -> None:
        """Evaluate the policies of this step; keep each seed's best."""
        training = self._training
        held_out = training.data.validation is not None
        rows: list[dict[str, float]] = [{} for _ in training.seeds]
        if held_out:
            rows = held_out_losses(training.pack, self._batches, self._stop.poll)
        best = summary = {key: sum(row[key] for row in rows) / len(rows) for key in rows[0]}
        if self._evaluator is not None:
            outcome = self._roll_out(self._evaluator)
            rows = [{**row, **losses} for row, losses in zip(outcome.rows, rows, strict=True)]
            summary, best = {**outcome.summary, **summary}, {**outcome.best_summary, **summary}
        training.evaluated = rows
        self._logs.evaluation(training.step, rows, summary, training.metrics.get("steps_per_sec", ""))
        training.metrics = {**training.metrics, **best}
        if training.spec.hooks.save_best and (self._evaluator is not None or not training.algorithm.acts):
            self._save_best(rows)

    def _save_best(self, rows: list[dict[str, float]]) -> None:
        """Keep the policy of each seed whose evaluation is its best so far."""
        training = self._training
        scores = [rank_key(row)[0] for row in rows]
        better = [index for index, score in enumerate(scores) if score > training.best_scores[index]]
        training.best_scores = [max(pair) for pair in zip(training.best_scores, scores, strict=True)]
        keep(training, "best_model.pt", better)

    def _roll_out(self, evaluator: Evaluator) -> Outcome:
        """Evaluate in the environment; at the end also at each value of the grid, and on video."""
        training, algorithm, act = self._training, self._training.algorithm, self._training.pack.act
        searched, shown = self._grid, training.spec.evaluation.eval_grid or {}
        grid: Mapping[str, tuple[Any, ...]] = {**shown, **searched} if training.last else {}
        recorder = self._logs.episodes(training.step)
        outcome = evaluator.evaluate(act, len(training.seeds), algorithm, grid, self._stop.poll, recorder)
        if not searched:  # nothing is chosen among what is only shown: the run's result is what it was configured for
            outcome.best_summary, outcome.best_parameters = outcome.summary, {}
            outcome.best_episodes = outcome.episodes
            own = {key: value for key, value in outcome.grid_summary.items() if not key.startswith("best/")}
            outcome.grid_summary = own
        if training.last and training.spec.evaluation.video_episodes:
            acting = algorithm.with_config(**outcome.best_parameters)
            chosen = failures_first(outcome.best_episodes, training.spec.evaluation.video_episodes)
            path, poll = training.run.path / "video.mp4", self._stop.poll
            reason = record(evaluator, act, acting, path, chosen, step=training.step, poll=poll)
            if reason:
                logger.warning("%s", reason)
        if outcome.grid_summary:
            self._logs.grid(training.step, outcome.grid_rows, outcome.grid_summary)
        training.best_parameters = outcome.best_parameters
        return outcome


class Evaluate:
    """Evaluate after a checkpoint, so that an evaluation that is interrupted is made again."""

    def __init__(
        self, training: Training, evaluation: EvaluationFiles, checkpoint: Checkpoint, show: Show, speed: Speed
    ) -> None:
        self._training, self._evaluation, self._checkpoint = training, evaluation, checkpoint
        self._show, self._speed = show, speed

    def __call__(self, metrics: dict[str, torch.Tensor] | None = None) -> None:
        """Every eval_interval steps, and at the last; Stopped where the run is told to stop meanwhile."""
        training = self._training
        if not training.evaluation_due(training.step):
            return
        if not training.evaluating:
            training.evaluating = True
            self._checkpoint.write()
        self._evaluation()
        training.evaluating = False
        self._show.now()
        self._speed.mark()


class Keep:
    """Write a policy of every save_interval steps, and remove the oldest beyond save_total_limit."""

    def __init__(self, training: Training) -> None:
        self._training = training

    def __call__(self, metrics: dict[str, torch.Tensor] | None = None) -> None:
        """Write one where it is due."""
        training, every = self._training, self._training.spec.hooks.save_interval
        if every > 0 and training.step % every == 0:
            keep(training, f"checkpoint_{training.step}.pt")
            drop_old_models(training.run, training.spec)


class Report:
    """Tell the caller what an evaluation gave."""

    def __init__(self, training: Training, report: OnEvaluation | None) -> None:
        self._training, self._report = training, report

    def __call__(self, metrics: dict[str, torch.Tensor] | None = None) -> None:
        """After each evaluation."""
        if self._report and self._training.evaluation_due(self._training.step):
            self._report(self._training.step, self._training.metrics)


def keep(training: Training, name: str, only: Collection[int] | None = None) -> None:
    """Write the policies of all seeds, or of the members `only`, under a name."""
    training.pack.check_finite()
    save_models(training.run, training.spec, training.pack, training.step, name, only)


def follow(training: Training, updates: Iterable[dict[str, torch.Tensor]], hooks: Sequence[Hook], stop: Stop) -> None:
    """Call the hooks after each of the updates; the first hook, the log, only after those that are taken here.

    A run that goes on from a checkpoint whose evaluation is still to be made begins with that.
    """

    def after(called: Sequence[Hook], metrics: dict[str, torch.Tensor]) -> None:
        try:
            for hook in called:
                hook(metrics)
        except Stopped:
            if stop.told is None:
                raise
        stop(metrics)  # all workers end together

    if training.evaluating:
        after(hooks[1:], {})
    taken = iter(updates)
    while True:
        try:
            metrics = next(taken)
        except StopIteration:
            return
        except Stopped as error:
            raise stop.between(error) from None
        after(hooks, metrics)
