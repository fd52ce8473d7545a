"""Let Ray Tune run a sweep's work: the trials that the study proposes, or given packs of further seeds."""

from __future__ import annotations

import contextlib
import logging
import os
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, Protocol

from optuna.trial import TrialState

from understudy.runs.directory import RunDir
from understudy.runs.on_ray import resources
from understudy.runs.ray_processes import do_watched, lost
from understudy.runs.ray_start import start_ray
from understudy.runs.stop import on_signals
from understudy.sweeping.directory import SweepDir
from understudy.sweeping.study import Study
from understudy.sweeping.sweep_spec import SweepSpec
from understudy.sweeping.table import SweepTable
from understudy.sweeping.together import trials_together
from understudy.sweeping.trial import run_trial

logger = logging.getLogger("understudy")
RETRIES = 2
"""Times that a trial is started again after its process died."""
ShowTable = Callable[[SweepTable], Any]


class _Tune(Protocol):
    """What is used of Tune where its own functions have types in part only."""

    def with_resources(self, trainable: Callable[[dict[str, Any]], None], resources: dict[str, float], /) -> Any:
        """Return the function with what each trial asks Ray for."""
        ...


def _tune() -> _Tune:
    from ray import tune

    return tune


def start_tune() -> None:
    """Start or reach Ray, for Tune; UserError when that fails."""
    # Tune would log, sync and snapshot everything once more; the study and the run directories are our memory.
    os.environ["TUNE_DISABLE_AUTO_CALLBACK_LOGGERS"] = "1"
    os.environ["TUNE_GLOBAL_CHECKPOINT_S"] = "3600"
    os.environ["RAY_CHDIR_TO_TRIAL_DIR"] = "0"
    os.environ["RAY_AIR_NEW_OUTPUT"] = "0"
    os.environ["TUNE_DISABLE_SIGINT_HANDLER"] = "1"  # ours has the trials write checkpoints
    start_ray()


def trials_left(study: Study) -> int:
    """Return how many trials are still to be begun, or to be gone on with."""
    held = len(study.trials(TrialState.RUNNING, TrialState.WAITING))
    return study.spec.options.num_trials - len(study.trials()) + held


def run_trials(
    sweep: SweepDir, spec: SweepSpec, study: Study, parent_run_id: str | None, show: ShowTable | None
) -> None:
    """Run the trials that are not finished yet."""
    left = trials_left(study)
    if left <= 0:
        return
    from ray.tune.schedulers import FIFOScheduler

    from understudy.sweeping.search import StudyAsha, StudySearch

    base, options = spec.base, spec.options
    grace = options.grace_steps or base.hooks.eval_interval or base.total_steps
    scheduler = (
        StudyAsha(study, sweep.path, base.total_steps, grace, options.reduction_factor, options.asha_slack)
        if options.scheduler == "asha"
        else FIFOScheduler()
    )
    together = trials_together(spec)
    if together > 1:
        logger.info("%d trials at a time are trained together, as one pack", together)
    sweep.update_state(trials_together=together)
    began, before = time.monotonic(), float(sweep.state().get("driven_seconds", 0.0))
    table = show(SweepTable(sweep.path, spec, study)) if show else contextlib.nullcontext()
    try:
        _fit(sweep, spec, StudySearch(study, sweep.path, together), scheduler, left, parent_run_id, table)
    finally:
        sweep.update_state(driven_seconds=before + time.monotonic() - began)


def run_packs(sweep: SweepDir, spec: SweepSpec, packs: Sequence[Mapping[str, Any]], parent_run_id: str | None) -> None:
    """Train packs of further seeds ({number, parameters, seeds, name}); those that are done stay as they are."""
    if not packs:
        return
    from ray.tune.schedulers import FIFOScheduler

    from understudy.sweeping.search import Packs

    start_tune()
    _fit(sweep, spec, Packs(packs), FIFOScheduler(), len(packs), parent_run_id, contextlib.nullcontext())


def _fit(
    sweep: SweepDir,
    spec: SweepSpec,
    search: Any,
    scheduler: Any,
    number: int,
    parent_run_id: str | None,
    table: AbstractContextManager[Any],
) -> None:
    from ray import tune

    from understudy.sweeping.search import SayCrashes

    config = {
        "sweep": spec.model_dump(mode="json"),
        "folder": str(sweep.path.absolute()),
        "parent_run_id": parent_run_id,
    }
    trainable = _tune().with_resources(_with(config), resources(spec.base.placement))
    tuner = tune.Tuner(
        trainable,
        tune_config=tune.TuneConfig(
            search_alg=search,
            scheduler=scheduler,
            num_samples=number,
            max_concurrent_trials=spec.options.max_concurrent,
            reuse_actors=True,
        ),
        run_config=tune.RunConfig(
            name="tune",
            storage_path=str((sweep.path / ".ray").absolute()),
            verbose=0,
            callbacks=[SayCrashes(sweep.path)],
            # A trial whose process dies is started again, and goes on from its own checkpoint.
            failure_config=tune.FailureConfig(max_failures=RETRIES),
        ),
    )
    with table, on_signals(sweep.path, ended=lambda: _none_is_training(sweep) or lost(sweep.path) is not None):
        do_watched(tuner.fit, sweep.path)


def _none_is_training(sweep: SweepDir) -> bool:
    """Return whether every trial that was begun has ended or written its last checkpoint."""
    folders = (sweep.path / "trials").glob("*")
    return all(RunDir(folder).state().get("status") != "running" for folder in folders)


def _with(config: dict[str, Any]) -> Callable[[dict[str, Any]], None]:
    def trial(proposal: dict[str, Any]) -> None:
        run_trial({**config, **proposal})

    return trial
