"""What a sweep wants: one objective or several, each with its direction, and constraints; read from a trial's metrics.

Inside, higher is better: a score is the metric's value, negated where less of it is wanted.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from understudy.errors import SpecError, did_you_mean
from understudy.runs.results import RATES, lower_is_better, objective_name

AUTO, LATENCY = "auto", "latency"
Direction = Literal["auto", "maximize", "minimize"]
PLAYED = ("success", "normalized_return", "return", "length")
"""What rollouts give."""
HELD_OUT = "validation/"
WORDS = {
    "validation/log_prob": "validation/log_probs",
    "validation/loss": "validation/actor_loss",
    "score": "normalized_return",
}


@dataclass(frozen=True)
class Objective:
    """One metric and its direction; `auto` is the first of those that runs are ranked by."""

    name: str
    minimized: bool

    def named(self, metrics: Mapping[str, float]) -> str:
        """Return the metric's name in these metrics."""
        return (objective_name(metrics) or AUTO) if self.name == AUTO else self.name

    def value(self, metrics: Mapping[str, float]) -> float | None:
        """Return the metric, None where there is none yet."""
        return metrics.get(self.named(metrics))

    def score(self, metrics: Mapping[str, float]) -> float:
        """Return the metric so that higher is better; -inf where there is none or it is no number."""
        value = self.value(metrics)
        return -math.inf if value is None or math.isnan(value) else self.signed(value)

    def signed(self, value: float) -> float:
        """Return a value as a score, and a score as a value."""
        return -value if self.minimized else value

    def is_rate(self, metrics: Mapping[str, float]) -> bool:
        """Return whether the objective is a rate, between 0 and 1."""
        return self.named(metrics) in RATES


@dataclass(frozen=True)
class Constraint:
    """A bound of a metric, as `latency<=20`."""

    name: str
    at_most: bool
    bound: float

    def excess(self, metrics: Mapping[str, float]) -> float:
        """Return by how much the bound is broken; 0 or less where it is kept, infinity where nothing is known."""
        value = metrics.get(self.name, math.nan)
        if math.isnan(value):
            return math.inf
        return value - self.bound if self.at_most else self.bound - value

    def __str__(self) -> str:
        return f"{self.name}{'<=' if self.at_most else '>='}{self.bound:g}"


@dataclass(frozen=True)
class Goal:
    """All that a sweep wants of a configuration."""

    objectives: tuple[Objective, ...]
    constraints: tuple[Constraint, ...] = ()

    @property
    def first(self) -> Objective:
        """The first objective: trials are ranked by it, and the registered policy is chosen by it."""
        return self.objectives[0]

    @property
    def names(self) -> list[str]:
        """Every metric that is asked for by name."""
        return [item.name for item in (*self.objectives, *self.constraints) if item.name != AUTO]

    def scores(self, metrics: Mapping[str, float]) -> tuple[float, ...]:
        """Return each objective's score."""
        return tuple(objective.score(metrics) for objective in self.objectives)

    def keeps(self, metrics: Mapping[str, float]) -> bool:
        """Return whether every constraint is kept."""
        return all(constraint.excess(metrics) <= 0 for constraint in self.constraints)

    def key(self, metrics: Mapping[str, float]) -> tuple[bool, float, float]:
        """Return what configurations are ranked by: constraints kept, the first objective, ties by the return."""
        return self.keeps(metrics), self.first.score(metrics), metrics.get("return", -math.inf)

    def check(self, metrics: Mapping[str, float]) -> None:
        """Raise SpecError for a metric that the run does not measure."""
        for name in self.names:
            if name not in metrics and name != LATENCY:
                raise SpecError(f"objective={name}: this run does not measure it{did_you_mean(name, metrics)}")


def read_goal(names: Sequence[str], direction: Sequence[Direction], constraints: Sequence[str]) -> Goal:
    """Return the goal that the keys describe; SpecError in one line for what is none."""
    plain = [_checked(WORDS.get(name, name)) for name in names]
    if len(set(plain)) != len(plain) or (AUTO in plain and len(plain) > 1):
        raise SpecError(f"objective={','.join(names)}: several objectives are named, each once")
    if len(direction) not in (1, len(plain)):
        raise SpecError(f"direction={','.join(direction)}: give one for each objective, or one for all")
    ways = list(direction) * len(plain) if len(direction) == 1 else list(direction)
    objectives = [
        Objective(name, lower_is_better(name) if way == AUTO else way == "minimize")
        for name, way in zip(plain, ways, strict=True)
    ]
    return Goal(tuple(objectives), tuple(_constraint(text) for text in constraints))


def _checked(name: str) -> str:
    known = (AUTO, *PLAYED, LATENCY)
    if name not in known and not name.startswith(HELD_OUT):
        raise SpecError(f"objective={name}: no such objective{did_you_mean(name, known)}; or {HELD_OUT}NAME")
    return name


def _constraint(text: str) -> Constraint:
    match = re.fullmatch(r"\s*([\w/.]+)\s*(<=|>=)\s*([-+.\deE]+)\s*", text)
    try:
        assert match is not None
        return Constraint(_checked(WORDS.get(match[1], match[1])), match[2] == "<=", float(match[3]))
    except (AssertionError, ValueError):
        raise SpecError(f"constraints={text!r}: write them like latency<=20 or success>=0.5") from None


def pareto_front(scores: Sequence[Sequence[float]]) -> list[int]:
    """Return the indices of the Pareto front: no other point is at least as good in everything and better in
    something."""

    def beats(one: Sequence[float], other: Sequence[float]) -> bool:
        return all(a >= b for a, b in zip(one, other, strict=True)) and tuple(one) != tuple(other)

    return [place for place, item in enumerate(scores) if not any(beats(other, item) for other in scores)]
