"""The picture of a pipeline's comparison. matplotlib is imported when it is drawn, without a window."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from understudy.files import write_atomic
from understudy.matrix.comparison import Result
from understudy.matrix.outcomes import EXPERT, RANDOM, SCORE

COLOURS = {RANDOM: "#9e9e9e", EXPERT: "#4d4d4d", "sac": "#0072b2", "ipmd": "#d55e00", "bc": "#009e73"}
"""The colours of Okabe and Ito, which colour-blind readers tell apart."""


def draw(path: Path, results: Sequence[Result], facts: Mapping[str, Any]) -> None:
    """Write bars of the returns, and of the normalised scores where there are some, with their intervals."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    scored = [item for item in results if SCORE in item.metrics]
    figure: Any = Figure(figsize=(10.5 if scored else 6.5, 4.8), layout="constrained", dpi=150)
    FigureCanvasAgg(figure)
    axes = figure.subplots(1, 2 if scored else 1, squeeze=False)[0]
    _bars(axes[0], results, "return", [np.asarray(item.scores).mean(axis=1) for item in results])
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
    image = io.BytesIO()
    figure.savefig(image, format="png", metadata={"Software": None})
    write_atomic(path, lambda file: file.write(image.getvalue()))


def _normalised(axes: Any, results: Sequence[Result], scored: Sequence[Result]) -> None:
    """Draw scores on which random actions have 0 and the expert 1."""
    means = {item.method: float(np.asarray(item.scores).mean()) for item in results}
    span = means[EXPERT] - means[RANDOM]
    dots = [(np.asarray(item.scores).mean(axis=1) - means[RANDOM]) / span for item in scored]
    _bars(axes, scored, SCORE, dots)
    for level, name in ((0.0, RANDOM), (1.0, EXPERT)):
        axes.axhline(level, color=COLOURS[name], linewidth=1.2, linestyle="--" if level else "-")
        axes.annotate(name, (1.005, level), xycoords=("axes fraction", "data"), va="center", fontsize=9)
    axes.set_ylabel("normalised score\n(R - R_random) / (R_expert - R_random)")


def _bars(axes: Any, results: Sequence[Result], name: str, dots: Sequence[np.ndarray]) -> None:
    """Draw a bar for each result with its interval, its number, and its seeds' own means."""
    for place, (item, seeds) in enumerate(zip(results, dots, strict=True)):
        mean = item.metrics[name]
        low, high = (item.metrics.get(f"{name}_{end}", mean) for end in ("low", "high"))
        axes.bar(place, mean, width=0.7, color=COLOURS.get(item.method, "#56b4e9"), alpha=0.85)
        axes.errorbar(place, mean, [[mean - low], [high - mean]], color="black", capsize=5, linewidth=1.4)
        if len(seeds) > 1:
            offsets = np.linspace(-0.18, 0.18, len(seeds))
            axes.scatter(place + offsets, seeds, s=14, color="white", edgecolors="black", linewidths=0.8, zorder=3)
        outer = min(low, *seeds, 0.0) if mean < 0 else max(high, *seeds)
        digits = 2 if name == SCORE else 0
        axes.annotate(
            f"{mean:.{digits}f}", (place, outer), (0, -5 if mean < 0 else 5), textcoords="offset points",
            ha="center", va="top" if mean < 0 else "bottom", fontsize=9,
        )  # fmt: skip
    axes.set_xticks(range(len(results)), [_label(item) for item in results])
    axes.margins(y=0.12)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)


def _label(item: Result) -> str:
    count = len(np.asarray(item.scores))
    return f"{item.method}\n{count} seeds" if count > 1 else item.method
