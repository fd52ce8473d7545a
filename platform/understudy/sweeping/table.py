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

from understudy.runs.directory import read_last_row
from understudy.sweeping.format import clock, number, objective_text
from understudy.sweeping.objective import AUTO, Goal, read_goal
from understudy.sweeping.racing import first_seeds
from understudy.sweeping.study import Study, failed
from understudy.sweeping.sweep_spec import SweepSpec
from understudy.sweeping.trial import trial_folder

STATES = {
    TrialState.RUNNING: "running",
    TrialState.COMPLETE: "done",
    TrialState.PRUNED: "stopped",
    TrialState.FAIL: "failed",
    TrialState.WAITING: "waiting",
}


ANY = read_goal((AUTO,), (AUTO,), ())
"""The goal of a sweep that names none."""


class SweepTable:
    """A table drawn from the study and the trials' own csv files, which are read once of trials that have ended."""

    limit: int | None = None
    """Most rows that are drawn: the trials that are running and the best of the others; None draws all."""

    def __init__(self, folder: Path, spec: SweepSpec, study: Study) -> None:
        self.folder, self.spec, self.study = folder, spec, study
        self.base, self.goal = spec.base, spec.goal
        self.started = time.monotonic()
        self.done_before: int | None = None
        self._ended: dict[int, dict[str, float]] = {}

    def __rich__(self) -> RenderableType:
        trials = self.study.trials()
        best = best_trial(trials, self.goal)
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
        shown = self._shown(trials)
        for trial in shown:
            table.add_row(*self._row(trial, self._progress(trial)), style="bold green" if trial is best else "")
        done, total = steps = self._steps(trials)
        bar = Table.grid()
        bar.add_row(ProgressBar(total=total, completed=done, width=60))
        rest = [Text(f"and {len(trials) - len(shown)} more that have ended")] if len(shown) < len(trials) else []
        return Group(table, *rest, bar, Text(self._line(trials, best, steps)))

    def _shown(self, trials: list[FrozenTrial]) -> list[FrozenTrial]:
        """Return the trials to draw, by number."""
        if self.limit is None or len(trials) <= self.limit:
            return trials
        running = [trial for trial in trials if not trial.state.is_finished()][: self.limit]
        ended = sorted((trial for trial in trials if trial.state.is_finished()), key=self._rank, reverse=True)
        return sorted([*running, *ended[: self.limit - len(running)]], key=lambda trial: trial.number)

    def _rank(self, trial: FrozenTrial) -> tuple[bool, bool, float, float]:
        """Return what trials are ordered by: finished before stopped ones, then the goal, then the return."""
        values, metrics = trial.intermediate_values, trial.user_attrs.get("metrics")
        last = self.goal.first.signed(values[max(values)]) if values else float("-inf")
        keeps, score, returns = self.goal.key(metrics) if metrics else (False, last, float("-inf"))
        return trial.state == TrialState.COMPLETE, keeps, score, returns

    def _progress(self, trial: FrozenTrial) -> dict[str, float]:
        """Return how far a trial is, read once when it has ended."""
        if trial.number in self._ended:
            return self._ended[trial.number]
        progress = read_progress(trial_folder(self.folder, trial.number))
        if trial.state.is_finished():
            self._ended[trial.number] = progress
        return progress

    def _row(self, trial: FrozenTrial, progress: Mapping[str, float]) -> list[str]:
        metrics = trial.user_attrs.get("metrics", {})
        chosen = trial.user_attrs.get("best_parameters", {})
        values = trial.intermediate_values
        step = self.base.total_steps if trial.state == TrialState.COMPLETE else int(progress["step"])
        if metrics:
            outcome = objective_text(metrics, self.goal.first.named(metrics))
        elif failed(trial):
            outcome = trial.user_attrs.get("error", "")[:60]
        else:
            outcome = f"{values[max(values)]:.2f}" if values else "-"
        return [
            str(trial.number),
            "failed" if failed(trial) else STATES[trial.state],
            *(number(trial.params.get(key, "-")) for key in self.spec.dimensions),
            *(number(chosen[key]) if key in chosen else "-" for key in self.spec.grid),
            f"{step}/{self.base.total_steps}",
            f"{progress['steps_per_sec']:.0f}" if progress["steps_per_sec"] else "-",
            outcome,
        ]

    def _objective(self, best: FrozenTrial | None) -> str:
        metrics: dict[str, float] = best.user_attrs["metrics"] if best else {}
        return f"{self.goal.first.named(metrics) if metrics else 'objective'} [95 %]"

    def line(self) -> str:
        """Return where the sweep stands in one or two lines: trials, time, the best so far with its interval.

        The time that is left is that of the steps done since this process began, and not there before the first.
        """
        trials = self.study.trials()
        return self._line(trials, best_trial(trials, self.goal), self._steps(trials))

    def _line(self, trials: list[FrozenTrial], best: FrozenTrial | None, steps: tuple[int, int]) -> str:
        done, total = steps
        if self.done_before is None:
            self.done_before = done
        elapsed = time.monotonic() - self.started
        gained = done - self.done_before
        left = f", about {clock((total - done) * elapsed / gained)} left" if gained > 0 else ""
        ended = sum(trial.state.is_finished() for trial in trials)
        seeds, episodes = len(first_seeds(self.spec)), self.base.evaluation.eval_episodes
        played = f"{episodes} episodes" if episodes else "held-out episodes"
        text = (
            f"{ended}/{self.spec.options.num_trials} trials x {seeds} seed{'s'[: seeds - 1]} x {played},"
            f" {clock(elapsed)} gone{left}"
        )
        if best is not None:
            metrics = best.user_attrs["metrics"]
            text += f"\nbest so far: trial {best.number}, {objective_text(metrics, self.goal.first.named(metrics))}"
        return text

    def _steps(self, trials: list[FrozenTrial]) -> tuple[int, int]:
        """Return (steps done, steps in all); a stopped trial's remaining steps need no doing, so they count as done."""
        each = self.base.total_steps
        done = sum(each if trial.state.is_finished() else int(self._progress(trial)["step"]) for trial in trials)
        return done, self.spec.options.num_trials * each


def best_trial(trials: list[FrozenTrial], goal: Goal = ANY) -> FrozenTrial | None:
    """Return the best finished trial by the goal (ties: by return, then the earlier one), or None."""
    done = [trial for trial in trials if trial.state == TrialState.COMPLETE]
    return max(done, key=lambda trial: (goal.key(trial.user_attrs["metrics"]), -trial.number), default=None)


def read_progress(folder: Path) -> dict[str, float]:
    """Return the last step and speed that a trial has written."""
    path = folder / "timing.csv"
    last = read_last_row(path) if path.is_file() else {}
    return {"step": last.get("step", 0.0), "steps_per_sec": last.get("steps_per_sec", 0.0)}
