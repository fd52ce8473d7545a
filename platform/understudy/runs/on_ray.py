"""Train on Ray Train workers. With `ray_start` the only place of `runs` that knows ray."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from understudy import errors
from understudy.errors import UnderstudyError, UserError
from understudy.runs import ray_processes, run_log
from understudy.runs.directory import RunDir
from understudy.runs.loop import make_loop
from understudy.runs.ray_start import cluster_resources, start_ray
from understudy.runs.results import RunResult
from understudy.spec.keys import build_run
from understudy.spec.placement import Placement
from understudy.spec.run import RunSpec

WORKER_RETRIES = 2
"""Times that the workers of a run are started again after one of them died."""


def check_launcher(spec: RunSpec) -> None:
    """Start or reach Ray where the spec wants it; UserError when its cluster cannot hold the workers."""
    if spec.placement.launcher != "ray":
        return
    start_ray()
    workers = spec.placement.num_workers
    for name, amount in resources(spec.placement).items():
        held = cluster_resources().get(name, 0)
        if amount * workers > held:
            raise UserError(f"num_workers={workers} x {amount:g} {name} is more than this Ray holds: {held:g} {name}")


def resources(place: Placement) -> dict[str, float]:
    """Return what one worker asks Ray for."""
    return {"CPU": place.cpus, **({"GPU": place.gpus} if place.gpus else {})}


def train_on_ray(spec: RunSpec, run: RunDir, grid: Mapping[str, tuple[Any, ...]] | None) -> RunResult:
    """Train with Ray Train's TorchTrainer; its workers share the run directory's file system."""
    from ray.train import FailureConfig, RunConfig, ScalingConfig, TrainingFailedError
    from ray.train.torch import TorchTrainer

    storage = run.path / ".ray"
    trainer = TorchTrainer(
        _ray_worker,
        train_loop_config={"spec": spec.flat(), "path": str(run.path.absolute()), "grid": dict(grid or {})},
        scaling_config=ScalingConfig(
            num_workers=spec.placement.num_workers,
            use_gpu=spec.placement.gpus > 0,
            resources_per_worker=resources(spec.placement),
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
        ray_processes.do_watched(trainer.fit, run.path)
    except TrainingFailedError as error:
        reason = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
        raise UnderstudyError(f"Ray Train gave up after {WORKER_RETRIES} restarts: {reason[:300]}") from error
    finally:
        shutil.rmtree(storage, ignore_errors=True)
    outcome: dict[str, Any] = run.state()["outcome"]
    if "error" in outcome:
        raise getattr(errors, outcome["kind"], UnderstudyError)(outcome["error"])
    return RunResult(Path(outcome.pop("path")), **outcome)


def _ray_worker(config: dict[str, Any]) -> None:
    """Run the loop as one data-parallel worker; rank 0 leaves how it ended in run.json."""
    import ray.train

    context = ray.train.get_context()
    rank, world = context.get_world_rank(), context.get_world_size()
    try:
        with run_log.kept(Path(config["path"])) if rank == 0 else contextlib.nullcontext():
            loop = make_loop(build_run(config["spec"]))
            result = loop.run(Path(config["path"]), grid=config["grid"], rank=rank, world=world)
        outcome = {**asdict(result), "path": str(result.path)}
    except UnderstudyError as error:
        outcome = {"error": str(error), "kind": type(error).__name__}
    if rank == 0:
        RunDir(config["path"]).update_state(outcome=outcome)


def check_gpus(gpus: float) -> None:
    """Raise UserError when trials want GPUs that a Ray of our own could not have: they would wait for ever."""
    import torch

    here = torch.cuda.device_count()
    if gpus > here and not os.environ.get("RAY_ADDRESS"):
        raise UserError(
            f"gpus={gpus:g} for each trial: this machine has {here}; set RAY_ADDRESS to a cluster that has more"
        )
