"""Run one configuration, tracked: in this process, or on Ray Train workers. The same loop either way.

Everything a run does to the outside (MLflow run, artifacts, status) happens here, once, in the launching process;
the loop only writes the run directory. So `launcher=inline` and `launcher=ray` track alike.
"""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from typing import Any

from understudy import tracking
from understudy.errors import Stopped, StorageError, TrackingError, UnderstudyError
from understudy.files import write_atomic
from understudy.runs import ended, mirror, run_log, stop
from understudy.runs.directory import TRACKING_ERROR, RunDir
from understudy.runs.loop import Trains, make_loop
from understudy.runs.noting import note_dataset, note_finished
from understudy.runs.on_ray import check_launcher, train_on_ray
from understudy.runs.origin import origin_changes
from understudy.runs.results import OnEvaluation, OnProgress, RunResult
from understudy.runs.rows import ACCEPT
from understudy.spec.run import RunSpec
from understudy.tracking import Tracked

logger = logging.getLogger("understudy")


def launch(
    spec: RunSpec,
    run: RunDir,
    *,
    loop: Trains | None = None,
    name: str | None = None,
    parent_run_id: str | None = None,
    report: OnEvaluation | None = None,
    progress: OnProgress | None = None,
    grid: Mapping[str, tuple[Any, ...]] | None = None,
) -> RunResult:
    """Train `spec` in `run`, going on where it was left; returns its result or raises what ended it.

    A finished run is not done again. The run is FINISHED, FAILED or KILLED in MLflow accordingly.
    """
    with run.locked():
        mirror.attach(run, spec)
        if run.state().get("status") == "finished":
            return _finished(spec, run, parent_run_id, report)
        with stop.on_signals(run.path), run_log.kept(run.path):
            check_launcher(spec)
            stop.check_signals()
            tracked = _begin(spec, run, name, parent_run_id)
            with _ending(run, tracked):
                if spec.placement.launcher == "ray":
                    result = train_on_ray(spec, run, grid)
                else:
                    shipped = _after_shipping(tracked, report)
                    result = (loop or make_loop(spec)).run(run.path, report=shipped, progress=progress, grid=grid)
            complete(run, tracked, result)
        return result


def _begin(spec: RunSpec, run: RunDir, name: str | None, parent_run_id: str | None) -> Tracked:
    """Open the run in MLflow and note in run.json that it is being trained; TrackingError where MLflow is unfit."""
    state = run.state()
    try:
        tracked = tracking.track_run(spec, run.path, name=name, run_id=state.get("run_id"), parent_run_id=parent_run_id)
    except TrackingError as error:
        _note(run, status="failed", error=str(error))
        raise
    run.update_state(
        status="running",
        run_id=tracked.run_id or state.get("run_id"),
        name=name or state.get("name"),
        error=None,
        pid=os.getpid(),
        shipped=False,
        **{ended.KEY: None, ended.RESULT: None},
        **origin_changes(state),
    )
    if state.get("together"):
        tracked.set_tags({"trained_together": ",".join(f"{number:04d}" for number in state["together"])})
    if state.get("lineage"):
        tracked.set_tags({key: value for key, value in state["lineage"].items() if value is not None})
    if tracked.url:
        name = "token.tk" if spec.placement.layout == "qc" else "tracking_url.txt"
        write_atomic(run.path / name, lambda file: file.write(f"{tracked.url}\n".encode()))
    return tracked


@contextmanager
def _ending(run: RunDir, tracked: Tracked) -> Generator[None]:
    """Note in run.json and in MLflow how a training ended that did not finish."""
    try:
        yield
    except Stopped as error:
        run.update_state(status="interrupted")
        run_log.note(run.path, f"interrupted: {error}")
        _close(run, tracked, "KILLED")
        raise
    except Exception as error:
        message = str(error) if isinstance(error, UnderstudyError) else f"{type(error).__name__}: {error}"
        _note(run, status="failed", error=message)
        run_log.note_error(run.path, error)
        tracked.set_tags({"error": message})
        _close(run, tracked, "FAILED")
        raise
    except KeyboardInterrupt:  # ends at once: MLflow gets the rest when the run goes on, or by `understudy sync`
        _note(run, status="interrupted")
        raise
    except BaseException:
        _close(run, tracked, "KILLED")
        raise


def _close(run: RunDir, tracked: Tracked, status: tracking.Status) -> None:
    note_dataset(run, tracked)
    sent = tracked.close(status)
    _note(run, **sent_state(run, tracked, sent))


def sent_state(run: RunDir, tracked: Tracked, sent: bool) -> dict[str, Any]:
    """Return what run.json says of a closed run in MLflow."""
    run_id = tracked.run_id or run.state().get("run_id")
    return {"shipped": sent, "run_id": run_id, TRACKING_ERROR: tracked.fault}


def _note(run: RunDir, **changes: Any) -> None:
    """Write how a run ended. A full disk is no error here: it is what ended the run, and is being reported."""
    try:
        run.update_state(**changes)
    except StorageError as error:
        logger.warning("%s", error)


def complete(run: RunDir, tracked: Tracked, result: RunResult) -> None:
    """Mark the run finished, upload its directory, close the MLflow run, drop the rolling checkpoints.

    An online run keeps them beside its replay buffer, where `keep_buffer` says so: it may be given more steps.
    """
    results = {"step": result.step, "metrics": result.metrics, "best_parameters": result.parameters}
    run.update_state(status="finished", **{ACCEPT: False}, **ended.as_ended(run, **results))
    spec = run.spec()
    if not (spec.config.acts_online and spec.hooks.keep_buffer):
        shutil.rmtree(run.resume, ignore_errors=True)
    _ship(run, tracked)


def _ship(run: RunDir, tracked: Tracked) -> None:
    """Upload the directory and close the MLflow run; where MLflow is away, a later sync or resume does it."""
    note_dataset(run, tracked)
    tracked.log_folder(run.path)
    note_finished(run, tracked)
    sent = tracked.close("FINISHED")
    run.update_state(**sent_state(run, tracked, sent))
    mirror.finish(run)


def _finished(spec: RunSpec, run: RunDir, parent_run_id: str | None, report: OnEvaluation | None) -> RunResult:
    """Return what a finished run gave, shipping first what MLflow has not got yet; UserError where files changed."""
    ended.check_ended(run)
    state = run.state()
    if state.get(ACCEPT):
        run.update_state(**{ACCEPT: False})
    if not state.get("shipped", True):
        _ship(run, tracking.track_run(spec, run.path, run_id=state.get("run_id"), parent_run_id=parent_run_id))
    result = RunResult(run.path, "finished", state["step"], state["metrics"], state["best_parameters"])
    if report:
        report(result.step, result.metrics)
    return result


def _after_shipping(tracked: Tracked, report: OnEvaluation | None) -> OnEvaluation | None:
    """Ship what was measured before reporting it: the report may be the last thing this process does."""
    if report is None:
        return None

    def ship_then_report(step: int, metrics: Mapping[str, float]) -> None:
        if tracked.answers:  # a store that has gone away costs the training no second
            tracked.flush(timeout=5.0)
        report(step, metrics)

    return ship_then_report
