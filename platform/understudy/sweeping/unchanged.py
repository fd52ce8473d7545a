"""Check that the files of a sweep's ended trials, and of its best policy, have not changed.

A resumed sweep computes little of these anew, so damage would stay unnoticed. Each file is read once, and no
checkpoint is opened.
"""

from __future__ import annotations

from pathlib import Path

from optuna.trial import FrozenTrial, TrialState

from understudy.errors import UserError
from understudy.files import typed
from understudy.runs.directory import RunDir
from understudy.runs.ended import KEY, changed_since, check_ended, note_of
from understudy.sweeping.best import RECORD, read_best
from understudy.sweeping.directory import SweepDir
from understudy.sweeping.outcomes import finished
from understudy.sweeping.study import Study
from understudy.sweeping.sweep_spec import SweepSpec
from understudy.sweeping.trial import trial_folder

OWN = ("sweep.json",)
"""Files of the sweep whose checksums are kept when it has finished."""


def check_unchanged(sweep: SweepDir, spec: SweepSpec, study: Study) -> None:
    """Raise UserError, which says what to do, where files of a finished sweep or of ended trials have changed."""
    state = sweep.state()
    names = changed_since(sweep.path, state.get(KEY) or {}) if state.get("status") == "finished" else []
    if names:
        raise UserError(f"{sweep.path}: {', '.join(names)} is not what the sweep ended with: put its copy back")
    for trial in study.trials():
        if trial.state.is_finished():
            _check_ended_as(trial, RunDir(trial_folder(sweep.path, trial.number)), spec.base.total_steps)
    check_kept(sweep.path)


def _check_ended_as(trial: FrozenTrial, run: RunDir, steps: int) -> None:
    """Raise UserError where a trial's folder and the study disagree on whether, and at which step, it ended."""
    if not run.path.is_dir():
        return  # it was deleted as a whole: the study has its result
    gone = [name for name in ("flags.json", "run.json") if not (run.path / name).is_file()]
    if gone and trial.state != TrialState.FAIL:  # a process may have died before it wrote them
        raise UserError(f"{run.path}: {' and '.join(gone)} of this trial, which has ended, are gone: put the copy back")
    if trial.state == TrialState.COMPLETE and not finished(run, steps):
        state = run.state()
        raise UserError(
            f"{run.path}: its run.json says {state.get('status')} at step {state.get('step')}, and the study that it"
            f" finished: put its copy back, or `understudy resume {typed(run.path)}` finishes it"
        )


def check_kept(folder: Path) -> None:
    """Raise UserError where a file of an ended trial, or of the best policy's results, has changed."""
    for flags in sorted((folder / "trials").glob("*/flags.json")):
        check_ended(RunDir(flags.parent))
    check_best(folder)


def check_best(folder: Path) -> None:
    """Raise UserError where a file of the best policy's results is not what it was."""
    best = read_best(folder)
    names = changed_since(folder, best.files) if best is not None else []
    if names:
        raise UserError(
            f"{folder}: {', '.join(names)} {'is' if len(names) == 1 else 'are'} not what the best policy was evaluated"
            f" with: put the copy back, or delete {' and '.join((*names, RECORD))}, and resume evaluates it again"
        )


def note_own(sweep: SweepDir) -> dict[str, object]:
    """Return the checksums of the sweep's own files, for its run.json."""
    return {KEY: note_of(sweep.path, OWN)}
