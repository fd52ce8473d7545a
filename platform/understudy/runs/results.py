"""What a run gives back. Plain data, so that it crosses processes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class RunResult:
    """How one run ended. `metrics` are means over seeds of the last evaluation (and its interval's ends)."""

    path: Path
    status: str
    step: int
    metrics: dict[str, float] = field(default_factory=dict[str, float])
    parameters: dict[str, Any] = field(default_factory=dict[str, Any])
    """The evaluation-time parameters that `metrics` were reached with, when a grid of them was tried."""


OBJECTIVES = (
    "success",
    "normalized_return",
    "return",
    "validation/accuracy",
    "validation/mse",
    "validation/actor_loss",
)
"""What configurations are ranked by: the first of these that an evaluation gave; those of held-out episodes last."""

RATES = ("success", "validation/accuracy")
"""Those of them that lie between 0 and 1."""
LOWER = ("loss", "mse", "latency", "length", "error")
"""Endings of the names of metrics where less is better."""


def objective_name(metrics: Mapping[str, float]) -> str | None:
    """Return the metric that runs are ranked by, or None before the first evaluation."""
    return next((key for key in OBJECTIVES if key in metrics), None)


def lower_is_better(name: str) -> bool:
    """Return whether less of a metric is better, by its name."""
    return name.endswith(LOWER)


def rank_key(metrics: Mapping[str, float]) -> tuple[float, float]:
    """Return what configurations are ranked by, higher is better: the objective, ties broken by the return."""
    name = objective_name(metrics)
    first = float("-inf") if name is None else metrics[name] * (-1 if lower_is_better(name) else 1)
    return first, metrics.get("return", float("-inf"))


def objective_text(metrics: Mapping[str, float], objective: str | None = None) -> str:
    """Return the objective with its interval, like `0.93 [0.81, 0.98]`."""
    name = objective or objective_name(metrics)
    if name is None or name not in metrics:
        return "-"
    text = figure(metrics[name], name)
    if f"{name}_low" in metrics:
        text += f" [{figure(metrics[f'{name}_low'], name)}, {figure(metrics[f'{name}_high'], name)}]"
    return text


def figure(value: float, name: str) -> str:
    """Return a metric's value: rates and larger numbers with two decimals, small ones with three digits."""
    return f"{value:.2f}" if name in RATES or abs(value) >= 1 else f"{value:.3g}"


OnEvaluation = Callable[[int, Mapping[str, float]], None]
"""Called after each evaluation, once what it reports is durable: (step, metrics)."""

OnProgress = Callable[[int, int, Mapping[str, float]], None]
"""Called about twice a second: (step, last step, newest metrics)."""
