"""What a resumed sweep passes over is what it was: files of trials that have ended, and of its best policy.

Nothing is computed from most of these again, so a damage would stay without a word. What is read is little: no
checkpoint is opened, and each file once.
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
"""Files of the sweep that are noted when it has finished."""


def check_unchanged(sweep: SweepDir, spec: SweepSpec, study: Study) -> None:
    """Raise UserError, in a line that says what to do, where files of what is done are not what they were."""
    state = sweep.state()
    names = changed_since(sweep.path, state.get(KEY) or {}) if state.get("status") == "finished" else []
    if names:
        raise UserError(f"{sweep.path}: {', '.join(names)} is not what the sweep ended with: put its copy back")
    for trial in study.trials():
        if trial.state.is_finished():
            _check_ended_as(trial, RunDir(trial_folder(sweep.path, trial.number)), spec.base.total_steps)
    check_kept(sweep.path)


def _check_ended_as(trial: FrozenTrial, run: RunDir, steps: int) -> None:
    """Raise UserError where a trial's folder does not say that it ended as the study does."""
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
    """Raise UserError where a file of an ended trial's, or of the best policy's results, is not what it was."""
    for flags in sorted((folder / "trials").glob("*/flags.json")):
        check_ended(RunDir(flags.parent))
    best = read_best(folder)
    names = changed_since(folder, best.files) if best is not None else []
    if names:
        raise UserError(
            f"{folder}: {', '.join(names)} {'is' if len(names) == 1 else 'are'} not what the best policy was evaluated"
            f" with: put the copy back, or delete {' and '.join((*names, RECORD))}, and resume evaluates it again"
        )


def note_own(sweep: SweepDir) -> dict[str, object]:
    """Return what a finished sweep's run.json says of its own files."""
    return {KEY: note_of(sweep.path, OWN)}
