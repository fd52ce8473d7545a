"""Train on Ray Train workers, and start or reach Ray. The one module of `runs` that knows ray."""

from __future__ import annotations

import logging
import os
import shutil
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from understudy import errors
from understudy.errors import UnderstudyError, UserError
from understudy.runs.directory import RunDir
from understudy.runs.loop import make_loop
from understudy.runs.results import RunResult
from understudy.spec.keys import build_run
from understudy.spec.run import RunSpec

WORKER_RETRIES = 2
"""Times that the workers of a run are started again after one of them died."""


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


def train_on_ray(spec: RunSpec, run: RunDir, grid: Mapping[str, tuple[Any, ...]] | None) -> RunResult:
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
        _in_thread(trainer.fit)  # in the main one it would put its own handler of Ctrl-C in the place of ours
    except TrainingFailedError as error:
        reason = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
        raise UnderstudyError(f"Ray Train gave up after {WORKER_RETRIES} restarts: {reason[:300]}") from error
    finally:
        shutil.rmtree(storage, ignore_errors=True)
    outcome = run.state()["outcome"]
    if "error" in outcome:
        raise getattr(errors, outcome["kind"], UnderstudyError)(outcome["error"])
    return RunResult(**{**outcome, "path": Path(outcome["path"])})


def _in_thread(work: Callable[[], Any]) -> None:
    """Do `work` in another thread, raising what it raises; signals interrupt the wait, which ends the process."""
    raised: list[BaseException] = []

    def do() -> None:
        try:
            work()
        except BaseException as error:  # noqa: BLE001  (raised in the thread that waits)
            raised.append(error)

    thread = threading.Thread(target=do, name="understudy-ray-train", daemon=True)
    thread.start()
    thread.join()
    if raised:
        raise raised[0]


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
