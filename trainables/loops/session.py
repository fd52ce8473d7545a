"""One call of a loop: its updates with all hooks beside them, from the newest checkpoint to the final model.

A loop brings a `Feed`, which is what its updates are made of; everything else is the same for all loops.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch

from understudy.algorithm import Batch
from understudy.checkpoints import RollingWriter
from understudy.errors import OutOfMemory, StorageError, TrainingDiverged
from understudy.runs.mirror import Mirror
from understudy.runs.results import OnEvaluation, OnProgress, RunResult
from understudy.runs.stop import Notice
from understudy.trainables.loops.evaluation import Evaluator
from understudy.trainables.loops.exchange import Exchange
from understudy.trainables.loops.exporting import Export
from understudy.trainables.loops.hooks import (
    Checkpoint,
    Evaluate,
    EvaluationFiles,
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
from understudy.trainables.loops.steps import TEXT_TABLE, Speed, Training


class Feed(Protocol):
    """What a loop's updates are made of."""

    def log_name(self, step: int) -> str:
        """Return the name of the csv file that the updates of a step are logged in."""
        ...

    @property
    def waited(self) -> float:
        """Seconds that were waited for data so far."""
        ...

    def updates(self, training: Training, logs: Logs | None) -> Iterator[dict[str, torch.Tensor]]:
        """Take the remaining steps one after another, and yield after each the newest metrics [K], if there are any."""
        ...

    def held_out(self) -> Iterator[Batch]:
        """Return the batches of held-out episodes, in order."""
        ...

    def sync(self) -> None:
        """Make durable what the steps so far have written: a checkpoint of them follows."""
        ...

    def written(self, state: Mapping[str, Any]) -> None:
        """Take note that a checkpoint is on disk."""
        ...

    def close(self) -> None:
        """End what was started."""
        ...


@dataclass(frozen=True)
class Caller:
    """Who started the training, and what they want to be told and to have tried."""

    report: OnEvaluation | None = None
    progress: OnProgress | None = None
    grid: Mapping[str, tuple[Any, ...]] = field(default_factory=dict[str, tuple[Any, ...]])
    """Values of evaluation-time parameters that the last evaluation tries."""


def train(training: Training, feed: Feed, evaluator: Evaluator | None, caller: Caller) -> RunResult:
    """Do the remaining steps; the last evaluation and the final model belong to the last step."""
    logs = Logs(training.run, training.seeds, feed.log_name) if training.worker.writes else None
    if logs:
        _begin(training, logs, caller.report)
    with (
        _last_words(training, logs),
        closing(feed),
        Mirror(training.run) as mirror,
        RollingWriter(training.run.resume) as writer,
    ):
        hooks, stop = _hooks(training, logs, feed, evaluator, caller, writer, mirror)
        follow(training, feed.updates(training, logs), hooks, stop)
    if logs:
        keep(training, "final_model.pt")
    return RunResult(training.run.path, "finished", training.step, training.metrics, training.best_parameters)


def _hooks(
    training: Training,
    logs: Logs | None,
    feed: Feed,
    evaluator: Evaluator | None,
    caller: Caller,
    writer: RollingWriter,
    mirror: Mirror,
) -> tuple[list[Hook], Stop]:
    """Return the hooks in their order, and the one that ends the run."""
    speed, notice = Speed(training, feed), Notice(training.run.path)
    if logs is None:
        return [Log(training, None, speed)], Stop(training, notice, writer, None)

    def before() -> None:
        logs.sync()
        feed.sync()

    def after(state: Mapping[str, Any]) -> None:
        feed.written(state)
        mirror.submit()

    show, checkpoint = Show(training, caller.progress), Checkpoint(training, writer, before, after)
    stop = Stop(training, notice, writer, checkpoint)
    evaluation = EvaluationFiles(training, logs, feed.held_out(), evaluator, caller.grid, stop)
    hooks: list[Hook] = [
        Log(training, logs, speed),
        show,
        Evaluate(training, evaluation, checkpoint, show, speed),
        Keep(training),
        Exchange(training, logs),
        checkpoint,
        Export(training, speed, lambda: writer.seconds),
        Report(training, caller.report),
    ]
    return hooks, stop


def _begin(training: Training, logs: Logs, report: OnEvaluation | None) -> None:
    """Say what the run trains on and where it goes on from; report its earlier evaluations again."""
    told = {TEXT_TABLE: training.text_table} if training.text_table else {}
    training.run.update_state(dataset_hash=training.data.content_hash, **told)
    if training.step:
        before: list[int] = training.run.state().get("resumed_at") or []
        training.run.update_state(resumed_at=[*before, training.step])
        if report:  # the caller's own memory may be gone
            for step, summary in logs.evaluated(training.step):
                report(step, summary)


@contextmanager
def _last_words(training: Training, logs: Logs | None) -> Generator[None]:
    """Make the logs durable where training breaks, and say what to do where memory runs out."""
    try:
        yield
    except (TrainingDiverged, StorageError):
        # What led here is on disk already: the last good checkpoint is the newest rolling one.
        if logs:
            logs.sync()
        raise
    except torch.OutOfMemoryError as error:
        wanted = str(error).splitlines()[0].split(". ")[0]
        raise OutOfMemory(
            f"step {training.step + 1}: {wanted}: try a smaller batch_size (now {training.spec.config.batch_size}),"
            f" smaller hidden_dims, fewer seeds at once (now {len(training.seeds)}), or device=cpu"
        ) from error
