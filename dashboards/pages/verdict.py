"""A sweep's verdict in words: who won, by what, who cannot be told from it, what it cost."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from understudy.dashboards.reading.sweeps import SweepView, mapping
from understudy.sweeping.format import clock, figure, number, objective_text
from understudy.sweeping.words import correlation_lines, race_lines, shown_name


@dataclass(frozen=True)
class Verdict:
    """What stands at the head of a sweep's page."""

    title: str
    value: str = ""
    """The score, large."""
    interval: str = ""
    caption: str = ""
    """What the score is, and of which episodes."""
    parameters: tuple[tuple[str, str], ...] = ()
    sentences: tuple[str, ...] = ()
    trial: int | None = None
    facts: tuple[tuple[str, str], ...] = field(default=())
    """Cost: what was spent, by name."""


def verdict_of(sweep: SweepView) -> Verdict:
    """Return the verdict on a sweep, as far as it has come."""
    facts, leader = cost_of(sweep), sweep.leader
    if sweep.best.get("metrics"):
        return _confirmed(sweep, facts)
    if leader is None:
        waiting = "No trial has ended yet" if sweep.running or not sweep.trials else "No trial was trained to its end"
        reasons = dict.fromkeys(trial.error for trial in sweep.trials if trial.error)
        return Verdict(waiting, sentences=tuple(reasons), facts=facts)
    name = sweep.objective
    said = "Ranked by these episodes, and so too high: the best of many noisy numbers. The confirmation, on fresh ones,"
    said += " comes when all trials have ended." if sweep.running else " was not reached."
    return Verdict(
        f"Trial {leader.number} leads so far",
        figure(leader.metrics[name], name) if name in leader.metrics else "-",
        _interval(leader.metrics, name),
        f"{name.replace('_', ' ')} over {_count(len(leader.seeds), 'seed')}, as ranked",
        _settings({**leader.parameters, **leader.chosen}),
        (said,),
        leader.number,
        facts,
    )


def _confirmed(sweep: SweepView, facts: tuple[tuple[str, str], ...]) -> Verdict:
    best, objective = sweep.best, sweep.goal.first
    metrics = {key: float(value) for key, value in mapping(best["metrics"]).items() if isinstance(value, int | float)}
    name = objective.named(metrics)
    seeds, trial = len(best.get("seeds") or sweep.seeds), best.get("trial")
    fresh = "fresh " if sweep.options.get("confirm_seeds") else ""
    episodes = f" × {sweep.options.get('final_episodes')} episodes that no trial was ranked by"
    where = episodes if best.get("fresh", True) else ", on the held-out episodes that it was chosen by"
    return Verdict(
        _title(best),
        figure(metrics[name], name) if name in metrics else "-",
        _interval(metrics, name),
        f"{name.replace('_', ' ')}, confirmed over {_count(seeds, fresh + 'seed')}{where}",
        _settings(mapping(best.get("parameters"))),
        tuple(_sentences(sweep, best, name)),
        trial if isinstance(trial, int) else None,
        facts,
    )


def _title(best: Mapping[str, Any]) -> str:
    """Return who was chosen, and whether that can be told from what was confirmed beside it."""
    compared = [item for item in best.get("compared") or [] if isinstance(item, Mapping)]
    alike = sum(item.get("distinguishable") is False for item in compared)
    name = f"Trial {best.get('trial')}" + (", the default," if best.get("is_default") else "")
    if alike:
        others = "one other cannot" if alike == 1 else f"{alike} others cannot"
        return f"{name.rstrip(',')} was chosen; {others} be told from it"
    return f"{name} is the best" if any(item.get("distinguishable") for item in compared) else f"{name} was chosen"


def _sentences(sweep: SweepView, best: Mapping[str, Any], name: str) -> list[str]:
    compared = [item for item in best.get("compared") or [] if isinstance(item, Mapping)]
    try:
        alike = [shown_name(item) for item in compared if item.get("distinguishable") is False]
        told = [shown_name(item) for item in compared if item.get("distinguishable")]
    except (KeyError, TypeError):
        alike, told = [], []
    said: list[str] = []
    if alike:
        said.append(f"Not distinguishable from {_listed(alike)}.")
    if told:
        said.append(f"Distinguishable from {_listed(told)} (paired by start state, after Holm's correction).")
    if isinstance(best.get("ranked"), int | float) and best.get("fresh", True):
        said.append(f"Ranked at {figure(best['ranked'], name)}; the highest of many noisy numbers is too high.")
    if best.get("model"):
        alias = ", which @best points at" if best.get("is_best") else f"; @best stays: {best.get('why', '')}"
        said.append(f"Seed {best.get('seed')} is registered as {best['model']}{alias}.")
    return [*said, *findings(sweep)]


def findings(sweep: SweepView) -> list[str]:
    """Return what racing saved and how well held-out measures rank, as the command line says them."""
    try:
        lines = [*race_lines(sweep.race or None), *correlation_lines(mapping(sweep.report.get("held_out")))]
    except (KeyError, TypeError):  # of an earlier version, or damaged
        return []
    return [f"{line[0].upper()}{line[1:]}." for line in lines]


def cost_of(sweep: SweepView) -> tuple[tuple[str, str], ...]:
    """Return what a sweep has cost so far: trials, seeds, updates, time."""
    trials, asked = sweep.trials, sweep.options.get("num_trials")
    states = {state: sum(trial.status == state for trial in trials) for state in ("stopped", "failed", "running")}
    others = ", ".join(f"{count} {state}" for state, count in states.items() if count)
    done = f"{sum(trial.complete for trial in trials)} of {asked}" if sweep.running else f"{len(trials)}"
    updates = sum(trial.step * len({seed for pack in trial.packs for seed in pack.seeds}) for trial in trials)
    facts = [
        ("configurations", done + (f" ({others})" if others else "")),
        ("seeds trained", str(sum(len(pack.seeds) for trial in trials for pack in trial.packs))),
        ("seed updates", f"{updates:,}".replace(",", " ")),
    ]
    seconds = sweep.state.get("driven_seconds")
    if isinstance(seconds, int | float):
        facts.append(("time", clock(seconds)))
    return tuple(facts)


def _interval(metrics: Mapping[str, float], name: str) -> str:
    text = objective_text(metrics, name)
    return text[text.index("[") :] if "[" in text else ""


def _settings(parameters: Mapping[str, Any]) -> tuple[tuple[str, str], ...]:
    return tuple((key, number(value)) for key, value in parameters.items())


def _count(n: int, noun: str) -> str:
    return f"{n} {noun}{'s' * (n != 1)}"


def _listed(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
