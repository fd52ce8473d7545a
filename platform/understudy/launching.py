"""Run one configuration, tracked: in this process, or on Ray Train workers. The same loop either way.

Everything a run does to the outside (MLflow run, artifacts, status) happens here, once, in the launching process;
the loop only writes the run directory. So `launcher=inline` and `launcher=ray` track alike.
"""

from __future__ import annotations

import logging
import os
import shutil
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from understudy import errors, mirroring, stopping, tracking
from understudy.errors import Preempted, StorageError, TrackingError, UnderstudyError, UserError
from understudy.files import write_atomic
from understudy.registry import algorithms, loops
from understudy.results import Loop, Progress, Report, RunResult
from understudy.run_dir import RunDir
from understudy.spec import RunSpec, build_run
from understudy.tracking import Tracked

logger = logging.getLogger("understudy")
_ENDS: dict[str, tracking.Status] = {"finished": "FINISHED", "stopped": "FINISHED", "failed": "FAILED"}
"""How a run with a status in run.json ended, for MLflow; any other was killed."""


WORKER_RETRIES = 2
"""Times that the workers of a run are started again after one of them died."""


@dataclass(frozen=True)
class Shipped:
    """What a sync sent: metric values, files, and the status that the MLflow run has now."""

    values: int
    files: int
    status: str


def make_loop(spec: RunSpec) -> Loop:
    """Return the spec's training loop; every problem with data, environment, storage or device is raised here."""
    mirroring.check(spec.checkpoint_storage)
    return loops.get(algorithms.get(spec.algo).loop)(spec)


def launch(
    spec: RunSpec,
    run: RunDir,
    *,
    loop: Loop | None = None,
    name: str | None = None,
    parent_run_id: str | None = None,
    report: Report | None = None,
    progress: Progress | None = None,
    grid: Mapping[str, tuple[Any, ...]] | None = None,
) -> RunResult:
    """Train `spec` in `run`, going on where it was left; returns its result or raises what ended it.

    A finished run is not done again. The run is FINISHED, FAILED or KILLED in MLflow accordingly.
    """
    with run.locked():
        mirroring.attach(run, spec)
        state = run.state()
        if state.get("status") == "finished":
            return _finished(spec, run, parent_run_id, report)
        tracked = tracking.track_run(spec, run.path, name=name, run_id=state.get("run_id"), parent_run_id=parent_run_id)
        run.update_state(
            status="running",
            run_id=tracked.run_id or state.get("run_id"),
            name=name or state.get("name"),
            error=None,
            pid=os.getpid(),
            shipped=False,
        )
        if state.get("lineage"):
            tracked.set_tags({key: value for key, value in state["lineage"].items() if value is not None})
        if tracked.url:
            write_atomic(run.path / "tracking_url.txt", lambda file: file.write(f"{tracked.url}\n".encode()))
        try:
            check_launcher(spec)  # Ray's own handler of SIGTERM must be there before ours
            with stopping.on_sigterm(run.path):
                if spec.launcher == "ray":
                    result = _on_ray(spec, run, grid)
                else:
                    result = (loop or make_loop(spec)).run(
                        run.path, report=_after_shipping(tracked, report), progress=progress, grid=grid
                    )
        except Preempted:
            run.update_state(status="interrupted")
            _close(run, tracked, "KILLED")
            raise
        except Exception as error:
            message = str(error) if isinstance(error, UnderstudyError) else f"{type(error).__name__}: {error}"
            _note(run, status="failed", error=message)
            tracked.set_tags({"error": message})
            _close(run, tracked, "FAILED")
            raise
        except BaseException:
            _close(run, tracked, "KILLED")
            raise
        complete(run, tracked, result)
        return result


def _close(run: RunDir, tracked: Tracked, status: tracking.Status) -> None:
    sent = tracked.close(status)
    _note(run, shipped=sent, run_id=tracked.run_id or run.state().get("run_id"))


def _note(run: RunDir, **changes: Any) -> None:
    """Write how a run ended; a disk that is too full for that is what ended it, and is being said already."""
    try:
        run.update_state(**changes)
    except StorageError as error:
        logger.warning("%s", error)


def complete(run: RunDir, tracked: Tracked, result: RunResult) -> None:
    """Mark the run finished, upload its directory, close the MLflow run, drop the rolling checkpoints."""
    run.update_state(status="finished", step=result.step, metrics=result.metrics, best_parameters=result.parameters)
    shutil.rmtree(run.resume, ignore_errors=True)
    _ship(run, tracked)


def _ship(run: RunDir, tracked: Tracked) -> None:
    """Upload the directory and close the MLflow run; where MLflow is away, a later sync or resume does it."""
    tracked.log_folder(run.path)
    sent = tracked.close("FINISHED")
    run.update_state(shipped=sent, run_id=tracked.run_id or run.state().get("run_id"))
    mirroring.finish(run)


def _finished(spec: RunSpec, run: RunDir, parent_run_id: str | None, report: Report | None) -> RunResult:
    """Return what a finished run gave, shipping first what MLflow has not got yet."""
    state = run.state()
    if not state.get("shipped", True):
        _ship(run, tracking.track_run(spec, run.path, run_id=state.get("run_id"), parent_run_id=parent_run_id))
    result = RunResult(run.path, "finished", state["step"], state["metrics"], state["best_parameters"])
    if report:
        report(result.step, result.metrics)
    return result


def sync(run: RunDir, parent_run_id: str | None = None) -> Shipped | None:
    """Send what MLflow has not got of a run that is not being trained; None when it has all of it.

    Raises UserError when a process holds the run (it ships its own), TrackingError when MLflow is away.
    """
    with run.locked():
        state, spec = run.state(), run.spec()
        status = state.get("status", "running")
        if spec.tracking() == tracking.OFF or state.get("shipped", status == "finished"):
            return None
        tracked = tracking.track_run(
            spec, run.path, name=state.get("name"), run_id=state.get("run_id"), parent_run_id=parent_run_id
        )
        if state.get("error"):
            tracked.set_tags({"error": state["error"]})
        files = tracked.log_folder(run.path) if status in ("finished", "stopped") else 0
        ended: tracking.Status = _ENDS.get(status, "KILLED")
        sent = tracked.close(ended)
        run.update_state(shipped=sent, run_id=tracked.run_id or state.get("run_id"))
        if not sent:
            raise TrackingError(f"MLflow went away while {run.path} was sent: `understudy sync` again sends the rest")
        return Shipped(tracked.sent, files, ended)


def _after_shipping(tracked: Tracked, report: Report | None) -> Report | None:
    """Ship what was measured before reporting it: the report may be the last thing this process does."""
    if report is None:
        return None

    def ship_then_report(step: int, metrics: Mapping[str, float]) -> None:
        if not tracked.away:  # a store that has gone away costs the training no second
            tracked.flush(timeout=5.0)
        report(step, metrics)

    return ship_then_report


def start_ray(cpus: int | None = None) -> None:
    """Connect to $RAY_ADDRESS, or start a Ray of our own on this machine, quietly; nothing when already connected."""
    import ray

    if ray.is_initialized():
        return
    os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.2")
    os.environ.setdefault("RAY_DEDUP_LOGS", "0")
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    if os.environ.get("RAY_ADDRESS"):
        ray.init(log_to_driver=False, logging_level=logging.ERROR)
    else:
        # "local": without an address Ray would join whatever cluster was last started on this machine, or wait for it.
        ray.init("local", num_cpus=cpus, include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)


def ray_round_trip() -> float:
    """Start a Ray of one CPU, run one task on it, stop it; return the seconds it took."""
    import ray

    started = time.monotonic()
    start_ray(cpus=1)
    try:
        ray.get(ray.remote(lambda: os.getpid()).remote(), timeout=120)
    finally:
        ray.shutdown()
    return time.monotonic() - started


def check_launcher(spec: RunSpec) -> None:
    """Start or reach Ray where the spec wants it; UserError when its cluster cannot hold the workers."""
    if spec.launcher != "ray":
        return
    start_ray()
    import ray

    for name, amount in _resources(spec).items():
        held = ray.cluster_resources().get(name, 0)
        if amount * spec.num_workers > held:
            raise UserError(
                f"num_workers={spec.num_workers} x {amount:g} {name} is more than this Ray holds: {held:g} {name}"
            )


def _resources(spec: RunSpec) -> dict[str, float]:
    """Return what one worker asks Ray for."""
    return {"CPU": spec.cpus, **({"GPU": spec.gpus} if spec.gpus else {})}


def _on_ray(spec: RunSpec, run: RunDir, grid: Mapping[str, tuple[Any, ...]] | None) -> RunResult:
    """Train with Ray Train's TorchTrainer; its workers share the run directory's file system."""
    from ray.train import FailureConfig, RunConfig, ScalingConfig, TrainingFailedError
    from ray.train.torch import TorchTrainer

    storage = run.path / ".ray"
    trainer = TorchTrainer(
        _ray_worker,
        train_loop_config={"spec": spec.flat(), "path": str(run.path.absolute()), "grid": dict(grid or {})},
        scaling_config=ScalingConfig(
            num_workers=spec.num_workers, use_gpu=spec.gpus > 0, resources_per_worker=_resources(spec)
        ),
        run_config=RunConfig(
            name="train",
            storage_path=str(storage.absolute()),
            # When a worker's process or node dies, all are started again and go on from the newest checkpoint.
            failure_config=FailureConfig(max_failures=WORKER_RETRIES),
        ),
    )
    try:
        run.update_state(outcome=None)
        trainer.fit()
    except TrainingFailedError as error:
        reason = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
        raise UnderstudyError(f"Ray Train gave up after {WORKER_RETRIES} restarts: {reason[:300]}") from error
    finally:
        shutil.rmtree(storage, ignore_errors=True)
    outcome = run.state()["outcome"]
    if "error" in outcome:
        raise getattr(errors, outcome["kind"], UnderstudyError)(outcome["error"])
    return RunResult(**{**outcome, "path": Path(outcome["path"])})


def _ray_worker(config: dict[str, Any]) -> None:
    """Run the loop as one data-parallel worker; rank 0 leaves how it ended in run.json."""
    import ray.train

    context = ray.train.get_context()
    rank, world = context.get_world_rank(), context.get_world_size()
    try:
        loop = make_loop(build_run(config["spec"]))
        result = loop.run(Path(config["path"]), grid=config["grid"], rank=rank, world=world)
        outcome = {**asdict(result), "path": str(result.path)}
    except UnderstudyError as error:
        outcome = {"error": str(error), "kind": type(error).__name__}
    if rank == 0:
        RunDir(config["path"]).update_state(outcome=outcome)
