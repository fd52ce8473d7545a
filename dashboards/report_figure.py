"""A sweep's figure for a paper: learning curves, and what was confirmed. matplotlib is imported when it is drawn."""

from __future__ import annotations

import textwrap
from pathlib import Path
from typing import Any

import numpy as np

from understudy.dashboards.pages.sweep_data import candidates, chosen_curves
from understudy.dashboards.reading.files import Files
from understudy.dashboards.reading.sweeps import SweepView, curve_of
from understudy.matrix.chart import PALETTE, new_figure, save

BLUE, ORANGE, GREY = PALETTE[0], PALETTE[1], "#9aa0a6"
MOST_CURVES = 60


def draw(files: Files, sweep: SweepView, out: Path, said: str) -> None:
    """Write the figure as a png; `said` stands below it."""
    confirmed = [item for item in candidates(sweep) if item["mean"] is not None]
    figure = new_figure(10.0 if len(confirmed) > 1 else 6.0, 4.2)
    panels = figure.subplots(1, 2 if len(confirmed) > 1 else 1, squeeze=False)[0]
    _curves(files, sweep, panels[0])
    if len(confirmed) > 1:
        _forest(panels[1], confirmed, sweep.objective)
    for panel in panels:
        for side in ("top", "right"):
            panel.spines[side].set_visible(False)
    figure.supxlabel("\n".join(textwrap.wrap(said, 150 if len(confirmed) > 1 else 90)), fontsize=7)
    save(figure, out)


def _curves(files: Files, sweep: SweepView, axes: Any) -> None:
    leader = sweep.leader
    for trial in reversed(chosen_curves(sweep)[:MOST_CURVES]):
        curve = {key: np.array(values, float) for key, values in curve_of(files, sweep, trial).items()}
        if not len(curve["step"]):
            continue
        best = leader is not None and trial.number == leader.number
        axes.plot(
            curve["step"], curve["mean"], color=ORANGE if best else GREY, linewidth=2 if best else 0.9,
            zorder=3 if best else 2, label=f"trial {trial.number}" if best else None,
        )  # fmt: skip
        if best:
            axes.fill_between(curve["step"], curve["low"], curve["high"], color=ORANGE, alpha=0.15, linewidth=0)
    axes.set_xlabel("training steps")
    axes.set_ylabel(sweep.objective.replace("_", " "))
    if leader is not None:
        axes.legend(frameon=False, fontsize=9)
    if sweep.rate:
        axes.set_ylim(-0.02, 1.02)


def _forest(axes: Any, confirmed: list[dict[str, Any]], name: str) -> None:
    for place, item in enumerate(confirmed):
        colour = ORANGE if item["best"] else BLUE
        if item["low"] is not None and item["high"] is not None:
            axes.plot([item["low"], item["high"]], [-place, -place], color=colour, linewidth=2)
        axes.plot(item["mean"], -place, "o", color=colour, markersize=7)
    axes.axvline(confirmed[0]["mean"], color=GREY, linewidth=0.8, linestyle="--", zorder=1)
    axes.set_yticks([-place for place in range(len(confirmed))], [item["name"] for item in confirmed], fontsize=8)
    axes.set_xlabel(f"{name.replace('_', ' ')}, confirmed [95 %]")
