"""The sweep's summary.csv: one row a configuration."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping
from pathlib import Path

from optuna.trial import FrozenTrial

from understudy.files import write_atomic
from understudy.sweeping.outcomes import TrialOutcome
from understudy.sweeping.study import state_name
from understudy.sweeping.sweep_spec import SweepSpec


def write_summary(path: Path, spec: SweepSpec, trials: list[FrozenTrial], outcomes: Mapping[int, TrialOutcome]) -> None:
    """Write one row a trial: parameters, state and every metric, over all the seeds that it came to have."""
    found = {
        trial.number: outcomes[trial.number].metrics
        if trial.number in outcomes
        else trial.user_attrs.get("metrics", {})
        for trial in trials
    }
    metrics = sorted({key for own in found.values() for key in own})
    header = ["trial", "state", *spec.dimensions, *(f"best_{key}" for key in spec.grid), *metrics, "error"]
    text = io.StringIO()
    writer = csv.DictWriter(text, header, lineterminator="\n")
    writer.writeheader()
    for trial in trials:
        known = outcomes.get(trial.number)
        chosen = known.chosen if known else trial.user_attrs.get("best_parameters", {})
        writer.writerow(
            {
                "trial": trial.number,
                "state": state_name(trial),
                **trial.params,
                **{f"best_{key}": value for key, value in chosen.items()},
                **found[trial.number],
                "error": trial.user_attrs.get("error", ""),
            }
        )
    write_atomic(path, lambda file: file.write(text.getvalue().encode()))
