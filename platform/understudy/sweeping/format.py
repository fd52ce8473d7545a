"""Numbers as people read them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from understudy.runs.results import figure, objective_text

__all__ = ["clock", "figure", "markdown_table", "number", "objective_text", "settings_of"]


def number(value: Any) -> str:
    """Return a parameter in few characters."""
    return "none" if value is None else f"{value:.3g}" if isinstance(value, float) else str(value)


def settings_of(parameters: Mapping[str, Any]) -> str:
    """Return parameters as `lr=0.001 horizon_length=5`."""
    return " ".join(f"{key}={number(value)}" for key, value in parameters.items())


def clock(seconds: float) -> str:
    """Return seconds as m:ss or h:mm:ss."""
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def markdown_table(headings: Sequence[str], rows: Iterable[Sequence[Any]]) -> list[str]:
    """Return the lines of a table in Markdown, as MLflow's descriptions show them."""
    lines = [headings, ["---"] * len(headings), *rows]
    return [f"| {' | '.join(str(cell).replace('|', '/') for cell in line)} |" for line in lines]
