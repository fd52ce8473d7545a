"""Drive a sweep from its folder: trials, the best one's evaluation, registration. Each stage is skipped once done.

<save_dir>/<project>/<run_group>/<env_name>/sweep_<time>/
    sweep.json   the spec           study.db     Optuna's study (study.json: where else it is)
    run.json     status, MLflow id  trials/0000/ ...   run directories
    summary.csv  one row a trial    best/        the best policy and its video
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from optuna.trial import TrialState

from understudy import tracking
from understudy.errors import Stopped, StoreAway, TrackingError, UnderstudyError, UserError
from understudy.runs.directory import TRACKING_ERROR, RunDir
from understudy.runs.launch import sent_state
from understudy.runs.loop import check_new, make_loop
from understudy.runs.mirror import copy_sweep
from understudy.runs.on_ray import check_gpus, resources, start_ray
from understudy.runs.stop import on_signals, stopped_by
from understudy.spec.keys import with_changes
from understudy.spec.run import RunSpec
from understudy.spec.space import largest
from understudy.sweeping.best import BEST_CSV, BestPolicy, evaluate_best, register_best
from understudy.sweeping.directory import SweepDir
from understudy.sweeping.spec import SweepSpec
from understudy.sweeping.study import Study, check_storage
from understudy.sweeping.summary import write_summary
from understudy.sweeping.table import SweepTable, best_trial
from understudy.sweeping.trial import run_trial, trial_folder, trial_name
from understudy.tracking import Tracked

log = logging.getLogger("understudy")
RETRIES = 2
"""Times that a trial is started again after its process died."""


@dataclass(frozen=True)
class SweepResult:
    """What a sweep made."""

    folder: Path
    trials: int
    counts: dict[str, int]
    crashed: list[int]
    best: BestPolicy
    url: str | None
    untracked: str | None = None
    """Why MLflow has not got all of it, or the best policy is not registered; None also where MLflow is just away."""


def track_sweep(spec: SweepSpec, path: Path, run_id: str | None) -> Tracked:
    """Open the sweep's parent run in MLflow."""
    base = spec.base
    return tracking.track(
        base.placement.tracking(),
        path,
        experiment=base.placement.project,
        name=path.name,
        sources=[(path / BEST_CSV, "best/")],
        run_id=run_id,
        params={
            **spec.run,
            **spec.options.model_dump(),
            **{key: str(item) for key, item in spec.dimensions.items()},
            **spec.grid,
        },
        tags={"kind": "sweep", "algo": base.algo, "env_name": base.env_name, "run_group": base.placement.run_group},
    )


def longest(spec: SweepSpec) -> RunSpec:
    """Return the run of the longest swept chunk."""
    swept = spec.dimensions.get("horizon_length")
    return with_changes(spec.base, horizon_length=largest(swept)) if swept else spec.base


def check_trials(spec: SweepSpec) -> None:
    """Raise what the trials' data, files or network would be refused for, without a simulator."""
    check_new(longest(spec))


def check_sweep(spec: SweepSpec) -> None:
    """Open data and environment at the longest swept chunk, so that no trial fails on what could be known before."""
    base = spec.base
    check_trials(spec)
    make_loop(longest(spec))
    check_gpus(base.placement.gpus)
    tracking.prepare(base.placement.tracking())
    check_storage(spec)
    start_tune()


def start_tune() -> None:
    """Start or reach Ray, for Tune; UserError when that fails."""
    # Tune would log, sync and snapshot everything once more; the study and the run directories are our memory.
    os.environ["TUNE_DISABLE_AUTO_CALLBACK_LOGGERS"] = "1"
    os.environ["TUNE_GLOBAL_CHECKPOINT_S"] = "3600"
    os.environ["RAY_CHDIR_TO_TRIAL_DIR"] = "0"
    os.environ["RAY_AIR_NEW_OUTPUT"] = "0"
    os.environ["TUNE_DISABLE_SIGINT_HANDLER"] = "1"  # ours has the trials write checkpoints
    start_ray()


def run_sweep(sweep: SweepDir, *, show: Callable[[SweepTable], Any] | None = None) -> SweepResult:
    """Do what is left of a sweep and return its result; `show` gets the live table and returns a context manager."""
    spec = sweep.spec()
    with sweep.held():
        state = sweep.state()
        study = Study(sweep.path, spec)
        if _trials_left(study) > 0:
            start_tune()
        tracked = track_sweep(spec, sweep.path, state.get("run_id"))
        sweep.update_state(
            status="running", run_id=tracked.run_id or state.get("run_id"), pid=os.getpid(), shipped=False
        )
        fault = None
        try:
            _run_trials(sweep, spec, study, tracked.run_id, show)
            close_stopped(sweep, study, tracked.run_id)
            trials = study.trials()
            best = best_trial(trials)
            write_summary(sweep.path / "summary.csv", spec, trials)
            if best is None:
                reasons = {str(trial.user_attrs.get("error", "")) for trial in trials} - {""}
                raise UnderstudyError(
                    f"no trial of {sweep.path} finished: {'; '.join(sorted(reasons)) or 'all were stopped'}"
                )
            policy = evaluate_best(sweep.path, spec, best)
            send_best(sweep.path, policy, tracked)
            try:
                policy = register_best(sweep.path, spec, policy, tracked)
            except StoreAway as error:
                log.warning("%s; `understudy sync %s` registers the best policy once it is back", error, sweep.path)
            except UserError as error:  # the work is done: it must not look as if it were not
                fault = f"its best policy is not registered: {error}"
        except BaseException as error:
            failed = isinstance(error, UnderstudyError) and not isinstance(error, Stopped)
            sweep.update_state(status="failed" if failed else "interrupted")
            sweep.update_state(shipped=tracked.close("FAILED" if failed else "KILLED"))
            if isinstance(error, KeyboardInterrupt):  # in what comes after the trials
                raise stopped_by(signal.SIGINT.name, sweep.path) from None
            raise
        sent = tracked.close("FINISHED") and registered(spec, policy)
        sweep.update_state(status="finished", **sent_state(RunDir(sweep.path), tracked, sent))
        copy_sweep(sweep.path, spec.base)
    counts = {state.name.lower(): sum(trial.state == state for trial in trials) for state in TrialState}
    crashed = [trial.number for trial in trials if trial.user_attrs.get("crashed")]
    fault = tracked.fault or fault or _fault_of_trials(sweep)
    return SweepResult(sweep.path, len(trials), counts, crashed, policy, tracked.url, fault)


def _fault_of_trials(sweep: SweepDir) -> str | None:
    """Return why MLflow has not got all of some trial; None where it has, or is away."""
    for folder in sorted((sweep.path / "trials").glob("*")):
        fault = RunDir(folder).state().get(TRACKING_ERROR)
        if fault:
            return f"trial {folder.name}: {fault}"
    return None


def send_best(path: Path, policy: BestPolicy, tracked: Tracked) -> int:
    """Have the sweep's parent run name the best configuration and hold the sweep's files; returns how many."""
    tracked.set_tags({f"best.{key}": value for key, value in policy.parameters.items()} | {"best.trial": policy.trial})
    return tracked.log_files(*(path / name for name in ("sweep.json", "summary.csv", BEST_CSV, "best")))


def registered(spec: SweepSpec, policy: BestPolicy) -> bool:
    """Return whether the best policy is in the model registry, where it is wanted there."""
    return policy.model is not None or spec.model_name is None or spec.base.placement.tracking() == tracking.OFF


def _none_is_training(sweep: SweepDir) -> bool:
    """Return whether every trial that was begun has ended or written its last checkpoint."""
    folders = (sweep.path / "trials").glob("*")
    return all(RunDir(folder).state().get("status") != "running" for folder in folders)


def _trials_left(study: Study) -> int:
    """Return how many trials are still to be begun, or to be gone on with."""
    return (
        study.spec.options.num_trials - len(study.trials()) + len(study.trials(TrialState.RUNNING, TrialState.WAITING))
    )


def _run_trials(
    sweep: SweepDir,
    spec: SweepSpec,
    study: Study,
    parent_run_id: str | None,
    show: Callable[[SweepTable], Any] | None,
) -> None:
    """Let Ray Tune run the trials that are not finished yet."""
    left = _trials_left(study)
    if left <= 0:
        return
    from ray import tune
    from ray.tune.schedulers import FIFOScheduler

    from understudy.sweeping.search import SayCrashes, StudyAsha, StudySearch

    base, options = spec.base, spec.options
    grace = options.grace_steps or base.hooks.eval_interval or base.training_steps
    scheduler = (
        StudyAsha(study, base.training_steps, grace, options.reduction_factor, options.asha_slack)
        if options.scheduler == "asha"
        else FIFOScheduler()
    )
    config = {
        "sweep": spec.model_dump(mode="json"),
        "folder": str(sweep.path.absolute()),
        "parent_run_id": parent_run_id,
    }
    trainable = tune.with_resources(_with(config), resources(base.placement))
    tuner = tune.Tuner(
        trainable,
        tune_config=tune.TuneConfig(
            search_alg=StudySearch(study, sweep.path),
            scheduler=scheduler,
            num_samples=left,
            max_concurrent_trials=options.max_concurrent,
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
    table = show(SweepTable(sweep.path, spec, study)) if show else contextlib.nullcontext()
    with table, on_signals(sweep.path, ended=lambda: _none_is_training(sweep)):  # after Ray has set its own handler
        tuner.fit()


def _with(config: dict[str, Any]) -> Callable[[dict[str, Any]], None]:
    def trial(proposal: dict[str, Any]) -> None:
        run_trial({**config, **proposal})

    return trial


def close_stopped(sweep: SweepDir, study: Study, parent_run_id: str | None) -> None:
    """Close the runs of trials that ASHA stopped: their processes may have had no time to."""
    for trial in study.trials(TrialState.PRUNED):
        run = RunDir(trial_folder(sweep.path, trial.number))
        state = run.state()
        if state.get("status") == "stopped" or not run.flags.is_file():
            continue
        name = trial_name(trial.number, trial.params)
        try:
            tracked = tracking.track_run(
                run.spec(), run.path, name=name, run_id=state.get("run_id"), parent_run_id=parent_run_id
            )
        except TrackingError as error:
            run.update_state(status="stopped", shipped=False, **{TRACKING_ERROR: str(error)})
            continue
        tracked.set_tags({"stopped_by": "asha"})
        tracked.log_folder(run.path)
        run.update_state(status="stopped", **sent_state(run, tracked, tracked.close("FINISHED")))
