"""Runs, trials and sweeps beside each other: on the start states that all of them played, paired."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from understudy.comparisons import SIGNIFICANCE, holm, paired_difference
from understudy.dashboards.reading.episodes import Evaluation, evaluations
from understudy.dashboards.reading.files import Files
from understudy.dashboards.reading.runs import RunView, read_run
from understudy.dashboards.reading.sweeps import SweepView, mapping, read_sweep
from understudy.errors import UnderstudyError
from understudy.runs.episodes import CONFIRMATION, interval_of, objective_column, scores, setting_text, values_of
from understudy.runs.results import lower_is_better


@dataclass(frozen=True)
class Side:
    """One of those that are compared: a run at its last evaluation, a sweep by what was confirmed of its best."""

    name: str
    path: Path
    kind: str
    keys: dict[str, Any] = field(default_factory=dict[str, Any])
    evaluation: Evaluation | None = None

    @property
    def states(self) -> set[int]:
        return set(values_of(self.evaluation.rows, "reset_seed")) if self.evaluation else set()


def side_of(files: Files, folder: Path, name: str) -> Side:
    """Return what a folder is compared by."""
    if (folder / "sweep.json").is_file():
        sweep = read_sweep(files, folder)
        return Side(name, folder, "sweep", _keys_of(sweep), _confirmation(sweep))
    run: RunView = read_run(files, folder)
    return Side(name, folder, "run", dict(run.keys), _last(folder))


def _keys_of(sweep: SweepView) -> dict[str, Any]:
    return {**sweep.keys, **mapping(sweep.best.get("parameters"))}


def _confirmation(sweep: SweepView) -> Evaluation | None:
    """Return the episodes that the best was confirmed by; of its settings the chosen one."""
    trial = sweep.best.get("trial")
    own = [item for item in evaluations(sweep.path) if item.stage == CONFIRMATION and item.trial == trial]
    chosen = {key: mapping(sweep.best.get("parameters")).get(key) for key in sweep.grid}
    wanted = set(filter(None, setting_text(chosen).split(", ")))
    return next((item for item in own if wanted <= set(item.setting.split(", "))), own[0] if own else None)


def _last(folder: Path) -> Evaluation | None:
    """Return a run's last evaluation, of several settings the one that does best."""
    every = evaluations(folder)
    last = [item for item in every if item.step == every[0].step and item.stage == every[0].stage]
    return max(last, key=lambda item: np.nan_to_num(_mean(item), nan=-np.inf), default=None)


def _mean(item: Evaluation) -> float:
    values = [value for value in item.rows[item.column].to_pylist() if value is not None]
    return float(np.mean(values)) if values else float("nan")


def common_states(sides: Sequence[Side]) -> list[int]:
    """Return the start states that all of them played."""
    played = [side.states for side in sides if side.evaluation]
    return sorted(set.intersection(*played)) if played else []


def column_of(sides: Sequence[Side]) -> str:
    """Return what all of them are scored by: success where all know it, else the normalised return or the return."""
    columns = [objective_column(side.evaluation.rows) for side in sides if side.evaluation]
    return columns[0] if len(set(columns)) == 1 else "return"


def on_states(side: Side, states: Sequence[int]) -> pa.Table | None:
    """Return a side's episodes on some states; None for a side without any."""
    if side.evaluation is None:
        return None
    wanted = set(states)
    keep = [seed in wanted for seed in side.evaluation.rows["reset_seed"].to_pylist()]
    rows = side.evaluation.rows.filter(pa.array(keep, pa.bool_()))
    return rows if rows.num_rows else None


def summaries(sides: Sequence[Side], states: Sequence[int], column: str) -> list[dict[str, Any]]:
    """Return each side's mean with its interval on the common states; None where there is none."""
    found: list[dict[str, Any]] = []
    for side in sides:
        rows = on_states(side, states)
        row: dict[str, Any] = {"name": side.name, "mean": None, "low": None, "high": None, "seeds": 0, "best": False}
        try:
            known = interval_of(rows, column) if rows is not None else None
        except UnderstudyError:  # its seeds played other states than each other
            known = None
        if known is not None:
            ends = (None, None) if np.isnan(known.low) else (known.low, known.high)
            row |= {"mean": known.mean, "low": ends[0], "high": ends[1], "seeds": known.n_seeds}
        found.append(row)
    return found


def differences(sides: Sequence[Side], states: Sequence[int], column: str) -> list[dict[str, Any]]:
    """Return each two sides' paired difference on the common states, p after Holm's correction for their number."""
    found: dict[str, dict[str, Any]] = {}
    matrices = [_matrix(side, states, column) for side in sides]
    for (i, one), (j, other) in itertools.combinations(enumerate(matrices), 2):
        if one is None or other is None:
            continue
        try:
            known = paired_difference(one, other, rate=column == "success")
        except UnderstudyError:  # one seed on one state: no spread
            continue
        ends = known.ends or (None, None)
        names = {"first": sides[i].name, "second": sides[j].name, "first_place": i, "second_place": j}
        found[f"{i}-{j}"] = {**names, "mean": known.mean, "low": ends[0], "high": ends[1], "p": known.p}
    adjusted = holm({key: row["p"] for key, row in found.items()})
    return [{**row, "p": adjusted[key], "told": adjusted[key] < SIGNIFICANCE} for key, row in found.items()]


def _matrix(side: Side, states: Sequence[int], column: str) -> np.ndarray | None:
    rows = on_states(side, states)
    try:
        return scores(rows, column) if rows is not None else None
    except UnderstudyError:
        return None


def grids(sides: Sequence[Side], states: Sequence[int], column: str) -> dict[str, Any]:
    """Return the scores of every side's seeds on the common states."""
    rows: list[str] = []
    values: list[list[float | None]] = []
    for side in sides:
        table = on_states(side, states)
        if table is None:
            continue
        known = {(row["seed"], row["reset_seed"]): row[column] for row in table.to_pylist()}
        for seed in values_of(table, "seed"):
            rows.append(f"{side.name}, seed {seed}")
            values.append([known.get((seed, state)) for state in states])
    return {"rows": rows, "columns": list(states), "values": values, "rate": column == "success", "name": column}


def best_of(rows: Sequence[dict[str, Any]], column: str) -> int | None:
    """Return the place of the best mean."""
    sign = -1 if lower_is_better(column) else 1
    known = [place for place, row in enumerate(rows) if row["mean"] is not None]
    return max(known, key=lambda place: sign * rows[place]["mean"], default=None)
