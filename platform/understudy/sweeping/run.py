"""Drive a sweep from its folder: trials, the best one's evaluation, registration. Each stage is skipped once done.

<save_dir>/<project>/<run_group>/<env_name>/sweep_<time>/
    sweep.json   the spec           study.db     Optuna's study (study.json: where else it is)
    run.json     status, MLflow id  trials/0000/ ...   run directories
    summary.csv  one row a trial    best/        the best policy and its video
    report.html  all of it as one page, which its run in MLflow has too
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from optuna.trial import FrozenTrial, TrialState

from understudy import tracking
from understudy.errors import Stopped, StoreAway, UnderstudyError, UserError
from understudy.files import typed
from understudy.runs.directory import TRACKING_ERROR, RunDir
from understudy.runs.find import find
from understudy.runs.launch import sent_state
from understudy.runs.loop import check_new, make_loop
from understudy.runs.mirror import copy_sweep
from understudy.runs.on_ray import check_gpus
from understudy.runs.stop import Notice, on_signals
from understudy.spec.keys import with_changes
from understudy.spec.run import RunSpec
from understudy.spec.space import largest
from understudy.sweeping.best import BestPolicy, evaluate_best, register_best
from understudy.sweeping.directory import SweepDir
from understudy.sweeping.noting import attach_reports, close_stopped, note_sweep, send_best, track_sweep
from understudy.sweeping.race import race, ranking
from understudy.sweeping.report import write_report
from understudy.sweeping.study import Study, check_storage, crashed, state_name
from understudy.sweeping.summary import write_summary
from understudy.sweeping.sweep_spec import SweepSpec, check_point, default_point
from understudy.sweeping.table import SweepTable
from understudy.sweeping.together import trials_together
from understudy.sweeping.trial import trial_spec
from understudy.sweeping.tuning import run_trials, start_tune, trials_left
from understudy.sweeping.unchanged import check_unchanged, note_own
from understudy.tracking import Tracked

log = logging.getLogger("understudy")


@dataclass(frozen=True)
class SweepResult:
    """What a sweep made."""

    folder: Path
    trials: int
    counts: dict[str, int]
    crashed: list[int]
    """Trials whose process died, and that no other has tried once more."""
    best: BestPolicy
    url: str | None
    untracked: str | None = None
    """Why MLflow lacks some of it or the best policy is not registered; None also where MLflow is only away."""
    report: list[str] = field(default_factory=list[str])
    """Further findings, a line each: the Pareto front, what the seeds cost, how well held-out measures rank."""


@dataclass(frozen=True)
class _Done:
    """Results of the stages."""

    trials: list[FrozenTrial]
    policy: BestPolicy
    report: list[str]
    fault: str | None
    """Why the best policy is not registered, if that is wanted and MLflow is not only away."""


def longest(spec: SweepSpec) -> RunSpec:
    """Return the run of the longest swept chunk."""
    swept = spec.dimensions.get("horizon_length")
    return with_changes(spec.base, horizon_length=largest(swept)) if swept else spec.base


def check_trials(spec: SweepSpec) -> None:
    """Check the trials' data, files and network, without a simulator; raise what is wrong."""
    check_new(longest(spec))
    trials_together(spec)


def check_sweep(spec: SweepSpec) -> None:
    """Open data and environment at the longest swept chunk, so that no trial fails on what can be checked
    beforehand."""
    base = spec.base
    check_trials(spec)
    make_loop(longest(spec))
    check_gpus(base.placement.gpus)
    tracking.prepare(base.placement.tracking())
    check_storage(spec)
    start_tune()


def check_study(folder: Path, spec: SweepSpec, study: Study) -> None:
    """Raise UserError where the study knows nothing of a trial that was trained, or has other parameters of it."""
    known = {trial.number: trial.params for trial in study.trials()}
    for flags in sorted((folder / "trials").glob("*/flags.json")):
        if not flags.parent.name.isdecimal():
            continue  # a further pack of a trial
        number, trained = int(flags.parent.name), RunDir(flags.parent).spec().flat()
        wanted = trial_spec(spec, known[number]).flat() if number in known else {}
        others = [key for key in known.get(number, {}) if trained.get(key) != wanted.get(key)]
        if number in known and not others:
            continue
        what = ", ".join(f"{key}={trained.get(key)}, not {wanted.get(key)}" for key in others)
        raise UserError(
            f"{folder}: its study is not the one that its trials were trained by: trial {number} is"
            f" {f'trained with {what}' if others else 'not in it'}; put the study's copy back (study.db or database)"
        )


def run_sweep(sweep: SweepDir, *, show: Callable[[SweepTable], Any] | None = None) -> SweepResult:
    """Do what is left of a sweep and return its result; `show` gets the live table and returns a context manager.

    SIGTERM and Ctrl-C end it in good order at any stage: a Stopped, which names the sweep, and nothing is registered.
    """
    spec = sweep.spec()
    with sweep.held(), on_signals(sweep.path):
        state = sweep.state()
        study = Study(sweep.path, spec)
        check_study(sweep.path, spec, study)
        check_unchanged(sweep, spec, study)
        if trials_left(study) > 0:
            start_tune()
        tracked = track_sweep(spec, sweep.path, state.get("run_id"), state.get("parent_run_id"))
        sweep.update_state(
            status="running", run_id=tracked.run_id or state.get("run_id"), pid=os.getpid(), shipped=False
        )
        try:
            done = _do(sweep, spec, study, tracked, show)
        except BaseException as error:
            failed = isinstance(error, UnderstudyError) and not isinstance(error, Stopped)
            sweep.update_state(status="failed" if failed else "interrupted")
            sweep.update_state(shipped=tracked.close("FAILED" if failed else "KILLED"))
            raise
        attach_reports(sweep, tracked)
        sent = tracked.close("FINISHED") and registered(spec, done.policy)
        sweep.update_state(status="finished", **note_own(sweep), **sent_state(RunDir(sweep.path), tracked, sent))
        try:
            copy_sweep(sweep.path, spec.base, Notice(sweep.path).check)
        except Stopped:
            sweep.update_state(status="interrupted")
            raise
    names = [state_name(trial) for trial in done.trials]
    counts = {state.name.lower(): names.count(state.name.lower()) for state in TrialState}
    fault = tracked.fault or done.fault or _fault_of_trials(sweep)
    return SweepResult(
        sweep.path, len(names), counts, crashed(done.trials), done.policy, tracked.url, fault, done.report
    )


def _do(
    sweep: SweepDir, spec: SweepSpec, study: Study, tracked: Tracked, show: Callable[[SweepTable], Any] | None
) -> _Done:
    """Do the stages that are left, within on_signals; the sweep's notice raises Stopped between or within them."""
    notice, fault = Notice(sweep.path), None
    notice.check()  # while Ray was started
    begin(study, sweep.path)
    run_trials(sweep, spec, study, tracked.run_id, show)
    study.flush()
    notice.check()
    close_stopped(sweep, study, tracked.run_id)
    outcomes = race(sweep, spec, study, tracked.run_id)
    notice.check()
    trials, ranked = study.trials(), ranking(spec, outcomes)
    write_summary(sweep.path / "summary.csv", spec, trials, outcomes)
    if not ranked:
        reasons = {str(trial.user_attrs.get("error", "")) for trial in trials} - {""}
        raise UnderstudyError(f"no trial of {sweep.path} finished: {'; '.join(sorted(reasons)) or 'all were stopped'}")
    policy = evaluate_best(sweep, spec, ranked, tracked.run_id)
    report = write_report(sweep.path, spec, ranked)
    note_sweep(sweep, spec, trials, outcomes, policy, report)
    send_best(sweep, spec, policy, tracked)
    notice.check()
    try:
        policy = register_best(sweep.path, spec, policy, tracked, poll=notice.poll)
    except StoreAway as error:
        log.warning("%s; `understudy sync %s` registers the best policy once it is back", error, typed(sweep.path))
    except UserError as error:  # the work is done: it must not look as if it were not
        fault = f"its best policy is not registered: {error}"
    return _Done(trials, policy, report, fault)


def begin(study: Study, folder: Path) -> None:
    """Enqueue, once, the trials that the options put first: given points, the default, those of earlier sweeps."""
    spec, options = study.spec, study.spec.options
    if study.trials() or not spec.ordered:
        return
    if options.warm_start:
        earlier = SweepDir.existing(find(options.warm_start))
        number = study.learn_from(Study(earlier.path, earlier.spec()).trials(), earlier.path.name)
        log.info("%d trials of %s are known to the sampler", number, earlier.path.name)
    if options.sampler == "grid":  # it holds every configuration
        return
    points = [check_point(spec, point) for point in options.points]
    default = default_point(spec) if options.with_default else None
    if default is not None and default not in points:
        points.append(default)
    for point in points[: options.num_trials]:
        study.enqueue(point, given=True)


def _fault_of_trials(sweep: SweepDir) -> str | None:
    """Return why MLflow lacks some of a trial; None where it lacks nothing, or is away."""
    for folder in sorted((sweep.path / "trials").glob("*")):
        fault = RunDir(folder).state().get(TRACKING_ERROR)
        if fault:
            return f"trial {folder.name}: {fault}"
    return None


def registered(spec: SweepSpec, policy: BestPolicy) -> bool:
    """Return whether the best policy is in the model registry, where it is wanted there."""
    return policy.model is not None or spec.model_name is None or spec.base.placement.tracking() == tracking.OFF
