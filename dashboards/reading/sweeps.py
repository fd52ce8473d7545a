"""One sweep as pages show it, from its files alone: the study's database is not opened, so nothing can be changed.

A trial is what its run directory says. Further packs of seeds stand beside the first one and are merged with it.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import pyarrow as pa

from understudy.dashboards.reading.files import Files, signature
from understudy.dashboards.reading.runs import (
    SHOWN_POINTS,
    RunView,
    evaluation_curve,
    last_metrics,
    numbers,
    quiet_for,
    read_run,
    speed_of,
    step_of,
    whole,
)
from understudy.errors import UnderstudyError
from understudy.runs.episodes import FILE, metrics_of, objective_column, read_episodes, rows_where, values_of
from understudy.runs.results import RATES, lower_is_better, objective_name
from understudy.sweeping.objective import AUTO, Goal, Objective, read_goal

ENDED = ("finished", "stopped", "failed")


@dataclass(frozen=True)
class TrialView:
    """One configuration."""

    number: int
    run: RunView
    """Its first pack of seeds."""
    packs: tuple[RunView, ...]
    parameters: dict[str, Any]
    chosen: dict[str, Any]
    """The evaluation-time parameters that do best."""
    status: str
    metrics: dict[str, float]
    """Over all its seeds; of one that is not complete, the last evaluation so far."""
    seeds: tuple[int, ...]
    step: int
    speed: float
    quiet: float
    """Seconds for which it has written nothing, where it should have."""
    error: str = ""

    @property
    def complete(self) -> bool:
        return self.status == "complete"


@dataclass(frozen=True)
class SweepView:
    """A sweep's folder."""

    path: Path
    record: Mapping[str, Any]
    """sweep.json"""
    state: Mapping[str, Any]
    best: Mapping[str, Any]
    """best.json; empty before there is one."""
    report: Mapping[str, Any]
    race: Mapping[str, Any]
    trials: tuple[TrialView, ...]
    problems: tuple[str, ...] = ()
    goal: Goal = field(default_factory=lambda: Goal((Objective(AUTO, False),)))

    @property
    def keys(self) -> Mapping[str, Any]:
        """The base run's keys."""
        return mapping(self.record.get("run"))

    @property
    def options(self) -> Mapping[str, Any]:
        return mapping(self.record.get("options"))

    @property
    def dimensions(self) -> Mapping[str, Any]:
        return mapping(self.record.get("dimensions"))

    @property
    def grid(self) -> Mapping[str, Any]:
        return mapping(self.record.get("grid"))

    @property
    def running(self) -> bool:
        """Whether anything may change yet."""
        return self.state.get("status") == "running"

    @property
    def status(self) -> str:
        found = str(self.state.get("status", "waiting"))
        return "complete" if found == "finished" else found

    @cached_property
    def objective(self) -> str:
        """The metric that trials are ranked by."""
        known = next((trial.metrics for trial in self.trials if trial.metrics), {})
        return self.goal.first.named(known)

    @property
    def rate(self) -> bool:
        return self.objective in RATES

    @property
    def seeds(self) -> list[int]:
        found = self.keys.get("seeds")
        return [whole(seed) for seed in found] if isinstance(found, list) else [whole(self.keys.get("seed"))]

    @cached_property
    def ranked(self) -> list[TrialView]:
        """The trials, the best first: complete ones by the goal, then the others by how they did so far."""
        return sorted(self.trials, key=self._rank, reverse=True)

    def _rank(self, trial: TrialView) -> tuple[bool, bool, float, float, int]:
        keeps, score, returns = self.goal.key(trial.metrics)
        return trial.complete, keeps and trial.complete, score, returns, -trial.number

    @cached_property
    def leader(self) -> TrialView | None:
        """The chosen trial; before it is chosen, the best that is complete."""
        chosen = self.best.get("trial")
        named = next((trial for trial in self.trials if trial.number == chosen), None)
        return named or next((trial for trial in self.ranked if trial.complete), None)


def read_sweep(files: Files, folder: Path) -> SweepView:
    """Return a sweep; what of it cannot be read is said in its problems."""
    loaded = {name: files.json(folder / f"{name}.json") for name in ("sweep", "run", "best", "report", "race")}
    problems = [item.problem for item in loaded.values() if item.problem]
    record = loaded["sweep"].data
    dimensions, grid = mapping(record.get("dimensions")), mapping(record.get("grid"))
    if not isinstance(record.get("run"), Mapping) and not loaded["sweep"].problem:
        problems.append("sweep.json says nothing of its runs")
    first, further = _folders(folder / "trials")
    summary = _summary(folder / "summary.csv")
    trials = [_kept(files, number, path, further.get(number, []), dimensions, grid, summary) for number, path in first]
    known = next((trial.metrics for trial in trials if trial.metrics), {})
    goal = _goal(mapping(record.get("options")), known, problems)
    return SweepView(
        folder, record, loaded["run"].data, loaded["best"].data, loaded["report"].data, loaded["race"].data,
        tuple(trials), tuple(problems), goal,
    )  # fmt: skip


def version_of(files: Files, sweep: SweepView) -> str:
    """Return a text that changes when anything that the page shows may have changed."""
    names = ("run.json", "best.json", "report.json", "race.json", "summary.csv")
    seen: list[Any] = [signature(sweep.path / name) for name in names]
    for trial in sweep.trials:
        if trial.status != "complete":
            seen += [signature(trial.run.path / name) for name in ("run.json", "timing.csv", "eval.csv")]
    return f"{hash(tuple(seen)) & 0xFFFFFFFFFFFF:x}-{len(sweep.trials)}"


def curve_of(
    files: Files, sweep: SweepView, trial: TrialView, most: int = SHOWN_POINTS
) -> dict[str, list[float | None]]:
    """Return a trial's objective at each evaluation, over all its seeds, with the interval."""
    name = sweep.objective
    if len(trial.packs) == 1:
        return evaluation_curve(files, trial.run, name, most)
    rows = _episodes(trial.packs)
    steps, found = values_of(rows, "step"), {"step": [], "mean": [], "low": [], "high": []}
    for step in steps:
        try:
            metrics = _best_setting(rows_where(rows, step=step), name)
        except UnderstudyError:  # its seeds have not all been evaluated at this step
            continue
        if name in metrics:
            found["step"].append(step)
            found["mean"].append(metrics[name])
            found["low"].append(metrics.get(f"{name}_low", metrics[name]))
            found["high"].append(metrics.get(f"{name}_high", metrics[name]))
    return found


def _kept(files: Files, number: int, path: Path, further: list[Path], *about: Any) -> TrialView:
    """Return a trial; one that has ended, and has all its seeds in one pack, is read again only when it changes."""
    if further or files.json(path / "run.json").data.get("status") not in ENDED:
        return _trial(files, number, path, further, *about)
    state = (signature(path / "run.json"), signature(path / "flags.json"), about[2].get(number))
    return files.kept(path, state, lambda: _trial(files, number, path, further, *about))


def _trial(
    files: Files,
    number: int,
    path: Path,
    further: list[Path],
    dimensions: Mapping[str, Any],
    grid: Mapping[str, Any],
    summary: Mapping[int, Mapping[str, str]],
) -> TrialView:
    packs = tuple(read_run(files, folder) for folder in (path, *further))
    run = packs[0]
    done = [pack for pack in packs if pack.status == "complete"]
    metrics = last_metrics(files, run)
    row = summary.get(number, {})
    if row.get("state") == "complete":
        metrics = numbers({key: _value(text) for key, text in row.items()}) or metrics
    elif len(done) > 1:
        metrics = _merged(done, metrics)
    chosen = mapping(run.state.get("best_parameters"))
    chosen = {key: _value(row[f"best_{key}"]) for key in grid if row.get(f"best_{key}")} or dict(chosen)
    running = [pack for pack in packs if pack.status == "running"]
    seeds = tuple(sorted({seed for pack in done or packs for seed in pack.seeds}))
    return TrialView(
        number,
        run,
        packs,
        {key: run.keys.get(key) for key in dimensions},
        {key: chosen[key] for key in grid if key in chosen},
        running[0].status if running else run.status,
        metrics,
        seeds,
        max(whole(run.state.get("step")) if pack.status == "complete" else step_of(files, pack) for pack in packs),
        speed_of(files, run) if running else 0.0,
        max(quiet_for(pack) for pack in packs),
        next((pack.error for pack in packs if pack.error), row.get("error", "")),
    )


def _merged(packs: list[RunView], metrics: dict[str, float]) -> dict[str, float]:
    rows = _episodes(packs)
    last = rows_where(rows, step=max(values_of(rows, "step"), default=0))
    try:
        return {**metrics, **_best_setting(last, objective_name(metrics) or "return")} if last.num_rows else metrics
    except UnderstudyError:
        return metrics


def _best_setting(rows: pa.Table, name: str) -> dict[str, float]:
    """Return the summary of the evaluation-time setting that does best by a metric."""
    found = [metrics_of(rows_where(rows, setting=text)) for text in values_of(rows, "setting")]
    sign = -1 if lower_is_better(name) else 1
    return max(found, key=lambda item: sign * item.get(name, float("-inf") * sign), default={})


def _episodes(packs: list[RunView] | tuple[RunView, ...]) -> pa.Table:
    tables = [read_episodes(pack.path / FILE) for pack in packs]
    kept = [table for table in tables if table.num_rows]
    known = {objective_column(table) for table in kept}
    return pa.concat_tables(kept if len(known) == 1 else tables[:1])


def _folders(trials: Path) -> tuple[list[tuple[int, Path]], dict[int, list[Path]]]:
    """Return the trials' first packs by number, and the further ones of each."""
    first: list[tuple[int, Path]] = []
    further: dict[int, list[Path]] = {}
    try:
        folders = sorted(path for path in trials.iterdir() if path.is_dir())
    except OSError:
        return [], {}
    for path in folders:
        number, _, seeds = path.name.partition("_")
        if not number.isdecimal():
            continue
        if not seeds:
            first.append((int(number), path))
        elif seeds.startswith("sd"):
            further.setdefault(int(number), []).append(path)
    return first, further


def _summary(path: Path) -> dict[int, dict[str, str]]:
    try:
        with open(path, encoding="utf-8", errors="replace", newline="") as file:
            return {
                int(row["trial"]): dict(row) for row in csv.DictReader(file) if (row.get("trial") or "").isdecimal()
            }
    except (OSError, csv.Error):
        return {}


def _value(text: str | None) -> Any:
    try:
        return json.loads(text or "null")
    except ValueError:
        return text


def _goal(options: Mapping[str, Any], metrics: Mapping[str, float], problems: list[str]) -> Goal:
    names, direction = options.get("objective", [AUTO]), options.get("direction", [AUTO])
    try:
        goal = read_goal(tuple(names), tuple(direction), tuple(options.get("constraints", ())))
    except (UnderstudyError, TypeError) as error:
        problems.append(str(error))
        goal = Goal((Objective(AUTO, False),))
    first = goal.first
    if first.name == AUTO and list(direction) == [AUTO]:
        first = Objective(AUTO, lower_is_better(objective_name(metrics) or ""))
    return Goal((first, *goal.objectives[1:]), goal.constraints)


def mapping(value: Any) -> Mapping[str, Any]:
    """Return a mapping as it is, and an empty one for anything else."""
    return value if isinstance(value, Mapping) else {}
