"""Numbers as people read them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from understudy.runs.results import objective_name


def describe(metrics: Mapping[str, float]) -> str:
    """Return the objective with its interval, like `0.93 [0.81, 0.98]`."""
    name = objective_name(metrics)
    if name is None:
        return "-"
    text = f"{metrics[name]:.2f}"
    if f"{name}_low" in metrics:
        text += f" [{metrics[f'{name}_low']:.2f}, {metrics[f'{name}_high']:.2f}]"
    return text


def number(value: Any) -> str:
    """Return a parameter in few characters."""
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def clock(seconds: float) -> str:
    """Return seconds as m:ss or h:mm:ss."""
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
