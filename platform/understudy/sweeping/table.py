"""The live table of a sweep: trials, seeds, steps/s, the best so far with its interval, time left."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path

from optuna.trial import FrozenTrial, TrialState
from rich.console import Group, RenderableType
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from understudy.runs.directory import read_csv
from understudy.runs.results import objective_name, rank_key
from understudy.sweeping.format import clock, describe, number
from understudy.sweeping.spec import SweepSpec
from understudy.sweeping.study import Study
from understudy.sweeping.trial import trial_folder

STATES = {
    TrialState.RUNNING: "running",
    TrialState.COMPLETE: "done",
    TrialState.PRUNED: "stopped",
    TrialState.FAIL: "failed",
    TrialState.WAITING: "waiting",
}


class SweepTable:
    """Draws what the study and the trials' own csv files say; it keeps nothing that is not there."""

    def __init__(self, folder: Path, spec: SweepSpec, study: Study) -> None:
        self.folder, self.spec, self.study = folder, spec, study
        self.base = spec.base
        self.started = time.monotonic()
        self.done_before: int | None = None

    def __rich__(self) -> RenderableType:
        trials = self.study.trials()
        best = best_trial(trials)
        table = Table(box=None, pad_edge=False, header_style="bold")
        for heading in (
            "trial",
            "state",
            *self.spec.dimensions,
            *self.spec.grid,
            "step",
            "steps/s",
            self._objective(best),
        ):
            table.add_column(heading, justify="left" if heading in ("trial", "state") else "right")
        for trial in trials:
            progress = read_progress(trial_folder(self.folder, trial.number))
            table.add_row(*self._row(trial, progress), style="bold green" if trial is best else "")
        done, total = self._steps(trials)
        bar = Table.grid()
        bar.add_row(ProgressBar(total=total, completed=done, width=60))
        return Group(table, bar, Text(self.line()))

    def _row(self, trial: FrozenTrial, progress: Mapping[str, float]) -> list[str]:
        metrics = trial.user_attrs.get("metrics", {})
        chosen = trial.user_attrs.get("best_parameters", {})
        values = trial.intermediate_values
        step = self.base.training_steps if trial.state == TrialState.COMPLETE else int(progress["step"])
        if metrics:
            outcome = describe(metrics)
        elif trial.state == TrialState.FAIL:
            outcome = trial.user_attrs.get("error", "")[:60]
        else:
            outcome = f"{values[max(values)]:.2f}" if values else "-"
        return [
            str(trial.number),
            STATES[trial.state],
            *(number(trial.params.get(key, "-")) for key in self.spec.dimensions),
            *(number(chosen[key]) if key in chosen else "-" for key in self.spec.grid),
            f"{step}/{self.base.training_steps}",
            f"{progress['steps_per_sec']:.0f}" if progress["steps_per_sec"] else "-",
            outcome,
        ]

    def _objective(self, best: FrozenTrial | None) -> str:
        metrics = best.user_attrs["metrics"] if best else {}
        name = objective_name(metrics) or "objective"
        return f"{name} [95 %]"

    def line(self) -> str:
        """Return where the sweep stands in one or two lines: trials, time, the best so far with its interval."""
        trials = self.study.trials()
        done, total = self._steps(trials)
        if self.done_before is None:
            self.done_before = done
        elapsed = time.monotonic() - self.started
        gained = done - self.done_before
        left = f"about {clock((total - done) * elapsed / gained)} left" if gained > 0 else "time left unknown yet"
        ended = sum(trial.state.is_finished() for trial in trials)
        seeds, episodes = len(self.base.all_seeds), self.base.eval_episodes
        text = (
            f"{ended}/{self.spec.options.num_trials} trials x {seeds} seeds x {episodes} episodes,"
            f" {clock(elapsed)} gone, {left}"
        )
        best = best_trial(trials)
        if best is not None:
            text += f"\nbest so far: trial {best.number}, {describe(best.user_attrs['metrics'])}"
        return text

    def _steps(self, trials: list[FrozenTrial]) -> tuple[int, int]:
        """Return (steps done, steps in all); a stopped trial's remaining steps need no doing, so they count as done."""
        each = self.base.training_steps
        done = sum(
            each if trial.state.is_finished() else int(read_progress(trial_folder(self.folder, trial.number))["step"])
            for trial in trials
        )
        return done, self.spec.options.num_trials * each


def best_trial(trials: list[FrozenTrial]) -> FrozenTrial | None:
    """Return the best finished trial by success (ties: by return, then the earlier one), or None."""
    done = [trial for trial in trials if trial.state == TrialState.COMPLETE]
    return max(done, key=lambda trial: (rank_key(trial.user_attrs["metrics"]), -trial.number), default=None)


def read_progress(folder: Path) -> dict[str, float]:
    """Return the last step and speed that a trial has written."""
    path = folder / "timing.csv"
    rows = read_csv(path) if path.is_file() else []
    last = rows[-1] if rows else {}
    return {"step": last.get("step", 0.0), "steps_per_sec": last.get("steps_per_sec", 0.0)}
