"""What a sweep found beside its best: the Pareto front, what racing saved, how well held-out measures rank."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from understudy.comparisons import kendall
from understudy.files import read_object, write_json
from understudy.runs.results import figure, lower_is_better, objective_name, objective_text
from understudy.sweeping.best import BestPolicy
from understudy.sweeping.format import number
from understudy.sweeping.objective import pareto_front
from understudy.sweeping.outcomes import TrialOutcome
from understudy.sweeping.race import RECORD as RACE
from understudy.sweeping.sweep_spec import SweepSpec
from understudy.sweeping.words import correlation_lines, difference_text, race_lines, shown_name

REPORT = "report.json"
SHOWN = 8
"""Rows of a Pareto front that are printed; report.json has all."""


def write_report(sweep: Path, spec: SweepSpec, ranked: Sequence[TrialOutcome]) -> list[str]:
    """Write report.json and return its findings, a line each."""
    front, correlations = front_of(spec, ranked), rank_correlations(ranked)
    race = read_object(sweep / RACE) if (sweep / RACE).is_file() else None
    write_json(sweep / REPORT, {"pareto_front": front, "held_out": correlations, "race": race})
    return [
        *_front_lines(spec, front, sum(len(item.settings) or 1 for item in ranked)),
        *race_lines(race),
        *correlation_lines(correlations),
    ]


def front_of(spec: SweepSpec, ranked: Sequence[TrialOutcome]) -> list[dict[str, Any]]:
    """Return what no other beats, where there are several objectives, by the first of them: trials at each setting."""
    goal = spec.goal
    if len(goal.objectives) < 2:
        return []
    every = [item for trial in ranked for item in trial.settings or (trial,)]
    kept = [item for item in every if goal.keeps(item.metrics)]
    places = pareto_front([goal.scores(item.metrics) for item in kept])
    rows = [
        {
            "trial": kept[place].number,
            **{objective.name: objective.value(kept[place].metrics) for objective in goal.objectives},
            "parameters": {**kept[place].parameters, **kept[place].chosen},
            "metrics": kept[place].metrics,
        }
        for place in places
    ]
    return sorted(rows, key=lambda row: goal.first.score(row["metrics"]), reverse=True)


def rank_correlations(ranked: Sequence[TrialOutcome]) -> dict[str, dict[str, Any]]:
    """Return Kendall's tau of each measure of held-out episodes with what episodes in the simulator say.

    A measure of which less is better counts negated: 1 says that it ranks configurations as the simulator does.
    """
    rolled = [item for item in ranked if item.episodes.num_rows]
    if not rolled:
        return {}
    target = objective_name(rolled[0].metrics) or "return"
    names = sorted({key for item in rolled for key in item.validated})
    found: dict[str, dict[str, Any]] = {}
    for name in names:
        pairs = [(item.metrics[name], item.metrics[target]) for item in rolled if name in item.metrics]
        sign = -1 if lower_is_better(name) else 1
        result = kendall([sign * one for one, _ in pairs], [other for _, other in pairs])
        if result is not None:
            found[name] = {"with": target, **asdict(result)}
    return found


def _front_lines(spec: SweepSpec, front: Sequence[dict[str, Any]], of: int) -> list[str]:
    if not front:
        return []
    names = [objective.name for objective in spec.goal.objectives]
    lines = [f"Pareto front of {' and '.join(names)} ({len(front)} of {of}), as they were ranked, not confirmed:"]
    for row in front[:SHOWN]:
        values = "  ".join(f"{name} {objective_text(row['metrics'], name)}" for name in names)
        settings = " ".join(f"{key}={number(value)}" for key, value in row["parameters"].items())
        lines.append(f"  trial {row['trial']}  {values}  {settings}")
    return lines


def confirmation_lines(best: BestPolicy, spec: SweepSpec) -> list[str]:
    """Return what the best was ranked by and confirmed at, and which others it cannot be told from."""
    objective, metrics = spec.goal.first, best.metrics
    name, seeds = objective.named(metrics), len(best.seeds) or int(metrics.get("success_seeds", 1))
    ranked = "" if best.ranked is None else f"ranked {figure(best.ranked, name)}, "
    fresh, plural = "fresh" if spec.options.confirm_seeds else "its", "s" if seeds > 1 else ""
    if not best.fresh:
        where = f"{name} {objective_text(metrics, name)} over {seeds} seed{plural}"
        return [f"{where}, on the held-out episodes that it was chosen by (confirm_seeds trains fresh seeds)"]
    episodes = f" x {spec.options.final_episodes} episodes that no trial was ranked by"
    where = "" if spec.held_out_only else episodes
    others = [f"{key} {figure(metrics[key], key)}" for key in ("return", "length") if key in metrics and key != name]
    extra = f"; {', '.join(others)}" if others else ""
    lines = [
        f"{name}: {ranked}confirmed {objective_text(metrics, name)} over {fresh} {seeds} seed{plural}{where}{extra}"
    ]
    alike = [shown_name(item) for item in best.compared if item["distinguishable"] is False]
    if alike:
        lines.append(f"not distinguishable from {', '.join(alike)}")
    for item in best.compared:
        text = difference_text(item, objective, name)
        if text:
            lines.append(f"  best minus {shown_name(item)}, {objective_text(item['metrics'], name)}: {text}")
    return lines
