"""Numbers as people read them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from understudy.runs.results import RATES, objective_name


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


def number(value: Any) -> str:
    """Return a parameter in few characters."""
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def settings_of(parameters: Mapping[str, Any]) -> str:
    """Return parameters as `lr=0.001 horizon_length=5`."""
    return " ".join(f"{key}={number(value)}" for key, value in parameters.items())


def clock(seconds: float) -> str:
    """Return seconds as m:ss or h:mm:ss."""
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
