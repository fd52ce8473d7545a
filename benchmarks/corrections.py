"""How often runs with somebody in the loop were corrected and how often they succeeded, over their steps.

    python benchmarks/corrections.py RUN [RUN...] [--every 1000] [--picture FILE.png]

Reads env.csv and eval.csv of runs of hilserl, all their seeds: the share of the training steps that somebody else
chose, the success of training episodes, of those that nobody corrected, and of evaluations with its 95 % interval over
seeds. The picture shows one run's columns, or the corrections and evaluations of several.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import NamedTuple

import numpy as np

from understudy.runs.directory import RunDir, read_csv

COLUMNS = ("steps", "corrected steps", "training success", "uncorrected", "evaluation")
NAN = float("nan")


class Row(NamedTuple):
    """A row of COLUMNS, and the ends of the evaluation's interval; NaN where there was no such episode."""

    steps: float
    corrected: float
    success: float
    alone: float
    evaluation: float
    low: float
    high: float


def _share(rows: list[dict[str, float]], name: str) -> float:
    return float(np.mean([row[name] for row in rows])) if rows else NAN


def table(run: RunDir, every: int) -> list[Row]:
    """Return a row for each `every` steps, and one for the end of a run that ends between two."""
    spec = run.spec()
    folders = [run.member(seed, spec.all_seeds) for seed in spec.all_seeds]
    episodes = [row for folder in folders for row in read_csv(folder / "env.csv")]
    evaluated = {int(row["step"]): row for row in read_csv(run.path / "eval.csv")}
    last = int(max([*evaluated, *(row["step"] for row in episodes)]))
    found: list[Row] = []
    for end in [*range(every, last, every), last]:
        begin = found[-1].steps if found else 0
        part = [row for row in episodes if begin < row["step"] <= end]
        steps = sum(row["length"] for row in part)
        corrected = sum(row["intervention_rate"] * row["length"] for row in part) / steps if steps else NAN
        alone = [row for row in part if not row["interventions"]]
        evaluation = [evaluated.get(end, {}).get(name, NAN) for name in ("success", "success_low", "success_high")]
        found.append(Row(end, corrected, _share(part, "success"), _share(alone, "success"), *evaluation))
    return found


def label(run: RunDir) -> str:
    """Return what tells runs of one comparison apart."""
    flat = run.spec().flat()
    return f"takeover={flat['takeover']}" + (", encoder_weights" if flat.get("encoder_weights") else "")


def draw(tables: dict[str, list[Row]], file: Path) -> None:
    """Draw the columns of one run over steps, or corrections and evaluations of several."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 3.2), layout="constrained")
    axes = figure.add_subplot(xlabel="environment steps of a seed", ylabel="share", ylim=(-0.02, 1.02))
    for number, (name, rows) in enumerate(tables.items()):
        values = np.array(rows)
        alone, colour = len(tables) == 1, f"C{number}"
        drawn = [(1, "r-" if alone else f"{colour}:"), (4, "ko-" if alone else f"{colour}o-")]
        for place, style in [*drawn, *([(2, "k:"), (3, "b-")] if alone else [])]:
            there = np.isfinite(values[:, place])
            said = COLUMNS[place] if alone else f"{COLUMNS[place]}, {name}"
            axes.plot(values[there, 0], values[there, place], style, label=said)
        steps, low, high = values[np.isfinite(values[:, 5])][:, [0, 5, 6]].T
        axes.fill_between(steps, low, high, color="k" if alone else colour, alpha=0.12, linewidth=0)
    axes.legend(frameon=False, fontsize=8)
    figure.savefig(file, dpi=120)


def main() -> None:
    """Print a table of each run, and draw them."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("runs", type=Path, nargs="+", metavar="RUN", help="a run's folder")
    options.add_argument("--every", type=int, default=1000, help="steps of a row")
    options.add_argument("--picture", type=Path, help="PNG to draw")
    given = options.parse_args()
    tables: dict[str, list[Row]] = {}
    for path in given.runs:
        run = RunDir.existing(path)
        name = label(run)
        rows = tables[name if name not in tables else f"{name} ({path.name})"] = table(run, given.every)
        print(f"{name}: {path}\n" + " | ".join(COLUMNS))
        for row in rows:
            shares = ["-" if np.isnan(share) else f"{share:.2f}" for share in row[1:]]
            interval = "" if np.isnan(row.low) else f" [{shares[4]}, {shares[5]}]"
            print(" | ".join([f"{row.steps:,.0f}", *shares[:4]]) + interval)
    if given.picture:
        draw(tables, given.picture)


if __name__ == "__main__":
    main()
