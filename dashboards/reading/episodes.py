"""Episodes that policies were evaluated on, chosen and arranged for pages."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from understudy.errors import UnderstudyError
from understudy.runs.episodes import (
    CONFIRMATION,
    FILE,
    interval_of,
    objective_column,
    read_episodes,
    rows_where,
    values_of,
)
from understudy.sweeping.format import figure


@dataclass(frozen=True)
class Evaluation:
    """The episodes of one evaluation: one stage, step and setting, of one trial in a sweep's own table."""

    trial: int | None
    stage: str
    step: int
    setting: str
    rows: pa.Table

    @property
    def key(self) -> str:
        """What it is called in addresses."""
        return f"{'' if self.trial is None else self.trial}~{self.stage}~{self.step}~{self.setting}"

    @property
    def name(self) -> str:
        """What it is called on pages."""
        whose = "the default" if self.stage == CONFIRMATION else ""
        parts = [whose if self.trial is None else f"trial {self.trial}"] if whose or self.trial is not None else []
        return ", ".join([*parts, self.stage, f"step {self.step}", *([self.setting] if self.setting else [])])

    @property
    def column(self) -> str:
        """What its episodes are scored by."""
        return objective_column(self.rows)

    @property
    def text(self) -> str:
        """The mean with its interval; where seeds played other episodes than each other, how many there are."""
        try:
            found = interval_of(self.rows)
        except UnderstudyError:
            return f"{self.rows.num_rows} episodes so far"
        ends = "" if np.isnan(found.low) else f" [{figure(found.low, self.column)}, {figure(found.high, self.column)}]"
        return f"{figure(found.mean, self.column)}{ends}"


def evaluations(folder: Path) -> list[Evaluation]:
    """Return the evaluations in a folder's table of episodes, the newest first."""
    table = read_episodes(folder / FILE)
    keys = ["trial", "stage", "step", "setting"]
    groups = table.group_by(keys).aggregate([]).to_pylist()
    found = [Evaluation(**group, rows=rows_where(table, **group)) for group in groups]
    return sorted(found, key=lambda item: (-item.step, item.stage, item.trial or 0, item.setting))


def grid(rows: pa.Table, column: str) -> dict[str, Any]:
    """Return scores by seed and start state, [[score or None]], for the pictures of an evaluation."""
    seeds, states = values_of(rows, "seed"), values_of(rows, "reset_seed")
    known = {(row["seed"], row["reset_seed"]): row[column] for row in rows.to_pylist()}
    return {
        "rows": [f"seed {seed}" for seed in seeds],
        "columns": states,
        "values": [[known.get((seed, state)) for state in states] for seed in seeds],
        "rate": column == "success",
        "name": column,
    }


@dataclass(frozen=True)
class Wanted:
    """Which episodes are listed, and in which order."""

    show: str = "all"
    seed: int | None = None
    state: int | None = None
    shortest: int | None = None
    longest: int | None = None

    def takes(self, row: dict[str, Any]) -> bool:
        """Whether an episode is one of them."""
        least, most = self.shortest or 0, row["length"] if self.longest is None else self.longest
        ends = (self.seed in (None, row["seed"]), self.state in (None, row["reset_seed"]))
        return all(ends) and least <= row["length"] <= most


def chosen(rows: Sequence[dict[str, Any]], column: str, wanted: Wanted) -> list[dict[str, Any]]:
    """Return the episodes to list: failures first, the worst first; `wanted` leaves some out."""
    kept = [row for row in rows if wanted.takes(row)]
    if wanted.show == "failures":
        kept = [row for row in kept if failed(row)]
    elif wanted.show == "successes":
        kept = [row for row in kept if (row["success"] or 0) >= 1]
    if wanted.show in ("longest", "shortest"):
        return sorted(kept, key=lambda row: row["length"], reverse=wanted.show == "longest")
    return sorted(kept, key=lambda row: (not failed(row), row[column] if row[column] is not None else 0.0))


def failed(row: dict[str, Any]) -> bool:
    """Return whether an episode is known to have had no success."""
    return row["success"] is not None and row["success"] < 1
