"""The numbers behind a sweep's page, as JSON: trials, curves, importance, Pareto front, what was confirmed."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from understudy.dashboards.reading.files import Files
from understudy.dashboards.reading.importance import importance
from understudy.dashboards.reading.sweeps import SweepView, TrialView, curve_of, mapping
from understudy.sweeping.format import number
from understudy.sweeping.words import difference_of, shown_name

POINTS = 100
"""Points of a curve that is one of many."""
SHOWN_CURVES = 20
"""Trials whose curves come with the page; the others' when they are asked for."""


def data_of(files: Files, sweep: SweepView, curves: int = SHOWN_CURVES) -> dict[str, Any]:
    """Return what the charts of a sweep draw."""
    leader, axes = sweep.leader, axes_of(sweep)
    return {
        "objective": sweep.objective,
        "rate": sweep.rate,
        "minimized": sweep.goal.first.minimized,
        "total": max((trial.run.total for trial in sweep.trials), default=0),
        "best": leader.number if leader else None,
        "axes": axes,
        "trials": [_row(sweep, trial, axes) for trial in sweep.trials],
        "curves": {trial.number: _curve(files, sweep, trial) for trial in chosen_curves(sweep)[:curves]},
        "importance": [asdict(item) for item in importance_of(sweep)],
        "candidates": candidates(sweep),
        "pareto": pareto(sweep),
    }


def axes_of(sweep: SweepView) -> list[dict[str, Any]]:
    """Return the swept keys: name, whether logarithmic, its values where it is a list without numbers."""
    axes: list[dict[str, Any]] = []
    for key, given in sweep.dimensions.items():
        item = mapping(given)
        choices = item.get("values") if isinstance(item.get("values"), list) else None
        axes.append(_axis(key, bool(item.get("log")), choices))
    axes += [_axis(key, False, list(values)) for key, values in sweep.grid.items() if isinstance(values, list | tuple)]
    return axes


def _axis(key: str, log: bool, choices: Sequence[Any] | None) -> dict[str, Any]:
    plain = choices is None or all(_numeric(value) for value in choices)
    named = [number(value) for value in choices or []]
    if not plain:
        return {"key": key, "log": False, "choices": named}
    rising = [float(value) for value in choices or []]
    wide = len(rising) > 2 and min(rising) > 0 and max(rising) / min(rising) >= 16
    return {"key": key, "log": log or wide, "choices": None, "ticks": rising or None}


def _numeric(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _row(sweep: SweepView, trial: TrialView, axes: list[dict[str, Any]]) -> dict[str, Any]:
    name, metrics = sweep.objective, trial.metrics
    values = {**trial.parameters, **trial.chosen}
    cells = [values.get(axis["key"]) for axis in axes]
    return {
        "n": trial.number,
        "s": trial.status,
        "v": [_digits(cell) if _numeric(cell) else None if cell is None else number(cell) for cell in cells],
        "y": _digits(metrics.get(name)),
        "lo": _digits(metrics.get(f"{name}_low")),
        "hi": _digits(metrics.get(f"{name}_high")),
    }


def _curve(files: Files, sweep: SweepView, trial: TrialView) -> dict[str, list[float | None]]:
    """Return a trial's curve: the chosen one's with its band, any other's in fewer points and without."""
    if sweep.leader is not None and trial.number == sweep.leader.number:
        return curve_of(files, sweep, trial)
    found = curve_of(files, sweep, trial, POINTS)
    return {"step": found["step"], "mean": found["mean"]}


def chosen_curves(sweep: SweepView) -> list[TrialView]:
    """Return the trials in the order in which their curves matter: those at work, then the best first."""
    running = [trial for trial in sweep.trials if trial.status == "running"]
    return [*running, *(trial for trial in sweep.ranked if trial.status != "running")]


def importance_of(sweep: SweepView) -> list[Any]:
    """Return how much each swept key explains, over complete trials."""
    done = [trial for trial in sweep.trials if trial.complete and sweep.objective in trial.metrics]
    scores = [trial.metrics[sweep.objective] for trial in done]
    values = {key: [trial.parameters.get(key) for trial in done] for key in sweep.dimensions}
    return importance(values, scores)


def candidates(sweep: SweepView) -> list[dict[str, Any]]:
    """Return what was confirmed, the best first, with each one's difference from it; [] before that."""
    best, objective = sweep.best, sweep.goal.first
    if not best:
        return []
    metrics = mapping(best.get("metrics"))
    name = objective.named({key: 0.0 for key in metrics})
    named = f"trial {best.get('trial')}" + (" (the default)" if best.get("is_default") else "")
    rows = [{"name": named, "trial": best.get("trial"), "best": True, **_ends(metrics, name)}]
    for item in best.get("compared") or []:
        try:
            below, shown = difference_of(item, objective), shown_name(item)
        except (KeyError, TypeError, ValueError):  # of an earlier version, or damaged
            continue
        told = bool(item.get("distinguishable"))
        own = {"trial": item.get("trial"), "best": False, **_ends(mapping(item.get("metrics")), name)}
        rows.append({"name": shown, **own, "difference": below, "told": told})
    return rows


def _ends(metrics: Mapping[str, Any], name: str) -> dict[str, Any]:
    names = {"mean": name, "low": f"{name}_low", "high": f"{name}_high"}
    return {key: _digits(metrics.get(column)) for key, column in names.items()}


def pareto(sweep: SweepView) -> dict[str, Any] | None:
    """Return two objectives of every complete trial, and which are on the front; None for one objective."""
    if len(sweep.goal.objectives) < 2:
        return None
    one, two = sweep.goal.objectives[:2]
    front = [item for item in sweep.report.get("pareto_front") or [] if isinstance(item, Mapping)]
    points = [
        {"n": trial.number, "x": _digits(two.value(trial.metrics)), "y": _digits(one.value(trial.metrics))}
        for trial in sweep.trials
        if trial.complete
    ]
    ends = [{"n": row.get("trial"), "x": _digits(row.get(two.name)), "y": _digits(row.get(one.name))} for row in front]
    return {"x": two.name, "y": one.name, "points": points, "front": ends}


def _digits(value: Any) -> float | None:
    return float(f"{value:.6g}") if _numeric(value) else None
