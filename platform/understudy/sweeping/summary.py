"""The sweep's summary.csv: one row a configuration."""

from __future__ import annotations

import csv
import io
from pathlib import Path

from optuna.trial import FrozenTrial

from understudy.files import write_atomic
from understudy.sweeping.spec import SweepSpec


def write_summary(path: Path, spec: SweepSpec, trials: list[FrozenTrial]) -> None:
    """Write one row a trial: parameters, state, steps and every metric."""
    metrics = sorted({key for trial in trials for key in trial.user_attrs.get("metrics", {})})
    header = ["trial", "state", *spec.dimensions, *(f"best_{key}" for key in spec.grid), *metrics, "error"]
    text = io.StringIO()
    writer = csv.DictWriter(text, header, lineterminator="\n")
    writer.writeheader()
    for trial in trials:
        chosen = trial.user_attrs.get("best_parameters", {})
        writer.writerow(
            {
                "trial": trial.number,
                "state": trial.state.name.lower(),
                **trial.params,
                **{f"best_{key}": value for key, value in chosen.items()},
                **trial.user_attrs.get("metrics", {}),
                "error": trial.user_attrs.get("error", ""),
            }
        )
    write_atomic(path, lambda file: file.write(text.getvalue().encode()))
