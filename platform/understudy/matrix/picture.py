"""The picture of a pipeline's comparison."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from understudy.matrix.chart import bars, new_figure, save
from understudy.matrix.comparison import Result
from understudy.matrix.outcomes import EXPERT, RANDOM, SCORE

COLOURS = {RANDOM: "#9e9e9e", EXPERT: "#4d4d4d", "sac": "#0072b2", "ipmd": "#d55e00", "bc": "#009e73"}


def draw(path: Path, results: Sequence[Result], facts: Mapping[str, Any]) -> None:
    """Write bars of the returns, and of the normalised scores where there are some, with their intervals."""
    scored = [item for item in results if SCORE in item.metrics]
    figure = new_figure(10.5 if scored else 6.5, 4.8)
    axes = figure.subplots(1, 2 if scored else 1, squeeze=False)[0]
    bars(axes[0], results, "return", [np.asarray(item.scores).mean(axis=1) for item in results], COLOURS, 0)
    axes[0].set_ylabel("return of an episode (sum of rewards)")
    axes[0].axhline(0, color="black", linewidth=0.8)
    if scored:
        _normalised(axes[1], results, scored)
    episodes = np.asarray(results[0].scores).shape[1]
    seeds = max(len(np.asarray(item.scores)) for item in results)
    title = f"{results[0].task}: learners from demonstrations, expert and chance"
    figure.suptitle(title, fontsize=13 if scored else 11)
    said = (
        f"Bars: mean over {seeds} seeds x {episodes} episodes, the same episodes for all (random, expert: one policy).",
        "Whiskers: 95 % interval over seeds and start states. Dots: the seeds.",
        f"Expert: sac seed {facts['seed']}, which gave {facts['num_transitions']} transitions.",
    )
    figure.supxlabel("\n".join(said), fontsize=8)
    save(figure, path)


def _normalised(axes: Any, results: Sequence[Result], scored: Sequence[Result]) -> None:
    """Draw scores on which random actions have 0 and the expert 1."""
    means = {item.method: float(np.asarray(item.scores).mean()) for item in results}
    span = means[EXPERT] - means[RANDOM]
    dots = [(np.asarray(item.scores).mean(axis=1) - means[RANDOM]) / span for item in scored]
    bars(axes, scored, SCORE, dots, COLOURS, 2)
    for level, name in ((0.0, RANDOM), (1.0, EXPERT)):
        axes.axhline(level, color=COLOURS[name], linewidth=1.2, linestyle="--" if level else "-")
        axes.annotate(name, (1.005, level), xycoords=("axes fraction", "data"), va="center", fontsize=9)
    axes.set_ylabel("normalised score\n(R - R_random) / (R_expert - R_random)")
