"""Bars with intervals, and the picture of a matrix: a panel for each task. matplotlib is imported when it is drawn."""

from __future__ import annotations

import io
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from understudy.files import write_atomic
from understudy.matrix.comparison import Result
from understudy.runs.results import RATES

PALETTE = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#f0e442")
"""The colours of Okabe and Ito, which colour-blind readers tell apart."""
WIDE = 4
"""Panels in a row."""
INCHES_A_LETTER = 0.085
"""The mean width of a letter in a panel's title."""


def draw_matrix(path: Path, results: Sequence[Result], said: str) -> None:
    """Write a panel of bars for each task, a bar for each method; `said` stands below them."""
    tasks = list(dict.fromkeys((item.task, item.objective) for item in results))
    methods = list(dict.fromkeys(item.method for item in results))
    colours = {method: PALETTE[place % len(PALETTE)] for place, method in enumerate(methods)}
    columns = min(WIDE, len(tasks))
    rows = -(-len(tasks) // columns)
    widest = max(2.8, 0.9 * len(methods) + 1.0, 0.6 + INCHES_A_LETTER * max(len(task) for task, _ in tasks))
    width = max(5.0, columns * widest)
    figure = new_figure(width, 3.2 * rows + 0.7)
    panels = figure.subplots(rows, columns, squeeze=False).ravel()
    for panel, (task, objective) in zip(panels, tasks, strict=False):
        here = [item for item in results if (item.task, item.objective) == (task, objective)]
        dots = [np.empty(0) if item.scores is None else item.scores.mean(axis=1) for item in here]
        bars(panel, here, objective, dots, colours, 2 if objective in RATES else None)
        panel.set_title(task, fontsize=9)
        panel.set_ylabel(objective.replace("_", " "))
        if objective in RATES:
            panel.set_ylim(0, 1.12)
    for panel in panels[len(tasks) :]:
        panel.set_visible(False)
    lines = [textwrap.wrap(line, int(1.3 * width / INCHES_A_LETTER)) for line in said.split("\n")]
    figure.supxlabel("\n".join(line for each in lines for line in each), fontsize=8)
    save(figure, path)


def new_figure(width: float, height: float) -> Any:
    """Return a figure without a window, in inches."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure: Any = Figure(figsize=(width, height), layout="constrained", dpi=150)
    FigureCanvasAgg(figure)
    return figure


def save(figure: Any, path: Path) -> None:
    """Write a figure as a png; equal figures are equal files."""
    image = io.BytesIO()
    figure.savefig(image, format="png", metadata={"Software": None})
    write_atomic(path, lambda file: file.write(image.getvalue()))


def bars(
    axes: Any,
    results: Sequence[Result],
    name: str,
    dots: Sequence[np.ndarray],
    colours: Mapping[str, str],
    digits: int | None = None,
) -> None:
    """Draw a bar for each result with its interval, its number (so many `digits`), and its seeds' own means."""
    for place, (item, seeds) in enumerate(zip(results, dots, strict=True)):
        mean = item.metrics[name]
        low, high = (item.metrics.get(f"{name}_{end}", mean) for end in ("low", "high"))
        axes.bar(place, mean, width=0.7, color=colours.get(item.method, PALETTE[5]), alpha=0.85)
        axes.errorbar(place, mean, [[mean - low], [high - mean]], color="black", capsize=5, linewidth=1.4)
        if len(seeds) > 1:
            offsets = np.linspace(-0.18, 0.18, len(seeds))
            axes.scatter(place + offsets, seeds, s=14, color="white", edgecolors="black", linewidths=0.8, zorder=3)
        outer = min(low, *seeds, 0.0) if mean < 0 else max(high, *seeds)
        axes.annotate(
            f"{mean:.3g}" if digits is None else f"{mean:.{digits}f}", (place, outer), (0, -5 if mean < 0 else 5),
            textcoords="offset points", ha="center", va="top" if mean < 0 else "bottom", fontsize=9,
        )  # fmt: skip
    axes.set_xticks(range(len(results)), [_label(item) for item in results])
    axes.margins(y=0.12)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)


def _label(item: Result) -> str:
    count = 1 if item.scores is None else len(np.asarray(item.scores))
    return f"{item.method}\n{count} seeds" if count > 1 else item.method
