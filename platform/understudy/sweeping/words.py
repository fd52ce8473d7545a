"""What a sweep found, in words, from its files: used by the command line, the pages and the report.

Must not import optuna, ray or torch: pages are quick to open.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from understudy.sweeping.format import figure, settings_of
from understudy.sweeping.objective import HELD_OUT, Objective

DEFAULT = "the default"


def shown_name(item: Mapping[str, Any]) -> str:
    """Return a Confirmed's name, given as best.json has it, with what tells it from others of one trial.

    Like `trial 3 at flow_steps=5`, `trial 0 (the default)`, `the default (trial 0 at flow_steps=10)`.
    """
    name, trial, chosen = item["name"], item["trial"], item["chosen"]
    at = f" at {settings_of(chosen)}" if chosen else ""
    if name != DEFAULT:
        return f"{name}{at} ({DEFAULT})" if item["is_default"] else f"{name}{at}"
    return f"{name} ({settings_of({**item['parameters'], **chosen}) if trial is None else f'trial {trial}{at}'})"


def difference_of(item: Mapping[str, Any], objective: Objective) -> list[float] | None:
    """Return the best minus a Confirmed of best.json in the objective's own units, [mean, low, high].

    [mean] alone without any spread to tell more by; None where the two were not compared.
    """
    if item["below"] is None:
        return None
    known = [value for value in item["below"] if value is not None]
    mean, *ends = (objective.signed(value) if objective.minimized else value for value in known)
    # An interval of no width would say that the difference is known.
    return [mean] if not ends or min(ends) == max(ends) else [mean, min(ends), max(ends)]


def difference_text(item: Mapping[str, Any], objective: Objective, name: str) -> str:
    """Return the same with the verdict, like `-0.11 [-0.21, -0.01]: not distinguishable`; "" where there is none."""
    found = difference_of(item, objective)
    if found is None:
        return ""
    if len(found) == 1:
        return f"{figure(found[0], name)}, with no spread to tell more by"
    told = "" if item["distinguishable"] else ": not distinguishable"
    return f"{figure(found[0], name)} [{figure(found[1], name)}, {figure(found[2], name)}]{told}"


def race_lines(race: Mapping[str, Any] | None) -> list[str]:
    """Return what racing the seeds saved, from race.json."""
    if race is None:
        return []
    stages = " > ".join(f"{len(stage['trials'])} x {stage['seeds']} seeds" for stage in race["rounds"])
    share = race["seed_runs"] / max(1, race["all_seed_runs"])
    return [f"seeds raced ({race['rule']}): {stages}: {race['seed_runs']} seeds trained, {share:.2f} of all for all"]


def correlation_lines(correlations: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Return how well each held-out measure ranks configurations, from report.json."""
    return [
        f"{name} ranks configurations as {found['with']} does by Kendall's tau {found['tau']:.2f}"
        f" [{found['low']:.2f}, {found['high']:.2f}] ({found['configurations']:.0f} configurations)"
        for name, found in correlations.items()
        if name.startswith(HELD_OUT)
    ]
