"""How often a run with somebody in the loop was corrected and how often it succeeded, over its steps.

    python benchmarks/corrections.py RUN [--every 1000] [--picture FILE.png]

Reads env.csv and eval.csv of a run of hilserl, all its seeds: the share of the training steps that somebody else
chose, the success of training episodes, of those that nobody corrected, and of evaluations (their mean over seeds).
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

from understudy.runs.directory import RunDir, read_csv

COLUMNS = ("steps", "corrected steps", "training success", "uncorrected", "evaluation")


def _share(rows: list[dict[str, float]], name: str) -> float:
    return float(np.mean([row[name] for row in rows])) if rows else float("nan")


def table(run: RunDir, every: int) -> list[tuple[float, ...]]:
    """Return a row of COLUMNS for each `every` steps; NaN where there was no such episode or evaluation."""
    spec = run.spec()
    folders = [run.member(seed, spec.all_seeds) for seed in spec.all_seeds]
    episodes = [row for folder in folders for row in read_csv(folder / "env.csv")]
    evaluated = [row for folder in folders for row in read_csv(folder / "eval.csv")]
    found: list[tuple[float, ...]] = []
    for end in range(every, int(max(row["step"] for row in episodes)) + every, every):
        part = [row for row in episodes if end - every < row["step"] <= end]
        steps = sum(row["length"] for row in part)
        corrected = sum(row["intervention_rate"] * row["length"] for row in part) / max(steps, 1)
        alone = [row for row in part if not row["interventions"]]
        at_end = [row for row in evaluated if row["step"] == end]
        found.append((end, corrected, _share(part, "success"), _share(alone, "success"), _share(at_end, "success")))
    return found


def draw(rows: list[tuple[float, ...]], file: Path) -> None:
    """Draw the table's columns over steps."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 3.2), layout="constrained")
    axes = figure.add_subplot(xlabel="environment steps of a seed", ylabel="share", ylim=(-0.02, 1.02))
    values = np.array(rows)
    for place, (name, style) in enumerate(zip(COLUMNS[1:], ("r-", "k:", "b-", "ko-"), strict=True), start=1):
        there = np.isfinite(values[:, place])
        axes.plot(values[there, 0], values[there, place], style, label=name)
    axes.legend(frameon=False)
    figure.savefig(file, dpi=120)


def main() -> None:
    """Print the table, and draw it."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("run", type=Path, help="a run's folder")
    options.add_argument("--every", type=int, default=1000, help="steps of a row")
    options.add_argument("--picture", type=Path, help="PNG to draw")
    given = options.parse_args()
    rows = table(RunDir.existing(given.run), given.every)
    print(" | ".join(COLUMNS))
    for steps, *shares in rows:
        print(" | ".join([f"{steps:,.0f}", *("-" if np.isnan(share) else f"{share:.2f}" for share in shares)]))
    if given.picture:
        draw(rows, given.picture)


if __name__ == "__main__":
    main()
