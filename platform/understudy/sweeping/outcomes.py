"""The outcome of a trial, from its episodes: its packs of seeds merged, at its best evaluation-time setting.

A trial is one configuration. Its first pack of seeds is the run directory trials/0006; further ones, of seeds that
were added later, stand beside it as trials/0006_sd001-sd002 and count as if they had been there from the start.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from understudy.files import read_object
from understudy.registry import algorithms
from understudy.runs.directory import RunDir, read_csv
from understudy.runs.episodes import (
    FILE,
    SCHEMA,
    interval_of,
    metrics_of,
    objective_column,
    read_episodes,
    rows_where,
    scores,
    setting_text,
    values_of,
)
from understudy.spec.run import RunSpec
from understudy.statistics import return_interval
from understudy.sweeping.objective import AUTO, LATENCY, PLAYED, Objective
from understudy.sweeping.sweep_spec import SweepSpec
from understudy.sweeping.trial import LATENCIES, trial_folder, trial_spec


@dataclass(frozen=True)
class TrialOutcome:
    """One configuration's result over all the seeds that it was trained with."""

    number: int
    parameters: dict[str, Any]
    """The values that were trained with."""
    chosen: dict[str, Any]
    """The evaluation-time parameters that do best."""
    metrics: dict[str, float]
    seeds: tuple[int, ...]
    episodes: pa.Table = field(default_factory=SCHEMA.empty_table, repr=False)
    """The rows of the last evaluation at the chosen setting."""
    validated: dict[str, list[float]] = field(default_factory=dict[str, list[float]])
    """Each seed's measures of held-out episodes."""
    settings: tuple[TrialOutcome, ...] = field(default=(), repr=False)
    """The same at each of the grid's evaluation-time settings, the chosen one among them."""

    def matrix(self, objective: Objective) -> np.ndarray | None:
        """Return the objective's scores (higher is better) [K, E], or [K, 1] where a seed has one value; else None."""
        name = objective.named(self.metrics)
        if name in self.validated:
            return np.array([[objective.signed(value)] for value in self.validated[name]])
        return matrix_of(self.episodes, objective)


def matrix_of(rows: pa.Table, objective: Objective) -> np.ndarray | None:
    """Return the objective's scores [K, E] of one setting's rows of one step; None where no row has it."""
    if not rows.num_rows:
        return None
    name = objective_column(rows) if objective.name == AUTO else objective.name
    if name not in PLAYED or rows[name].null_count:
        return None
    return scores(rows, name) * (-1 if objective.minimized else 1)


def packs_of(sweep: Path, number: int) -> list[RunDir]:
    """Return the run directories of a trial's packs, the first one first."""
    first = trial_folder(sweep, number)
    return [RunDir(path) for path in (first, *sorted(first.parent.glob(f"{first.name}_sd*"))) if path.is_dir()]


def pack_name(stem: str, seeds: Sequence[int]) -> str:
    """Return the folder of a pack of these seeds beside a trial's first, like `0006_sd001-sd002`."""
    ends = f"sd{seeds[0]:03d}" if len(seeds) == 1 else f"sd{seeds[0]:03d}-sd{seeds[-1]:03d}"
    return f"{stem}_{ends}"


def finished(run: RunDir, steps: int) -> bool:
    """Return whether a pack was trained to so many steps."""
    return run.flags.is_file() and run.state().get("status") == "finished" and run.state().get("step", 0) >= steps


def combinations(spec: SweepSpec, run_spec: RunSpec) -> dict[str, dict[str, Any]]:
    """Return every combination of the grid's evaluation-time parameters, by its text in the column `setting`."""
    config = run_spec.config
    own = {key: getattr(config, key) for key in algorithms.get(run_spec.algo).evaluation_parameters}
    every = itertools.product(*spec.grid.values())
    chosen = [dict(zip(spec.grid, values, strict=True)) for values in every]
    return {setting_text({**own, **parameters}): parameters for parameters in chosen}


def outcome_of(
    sweep: Path, spec: SweepSpec, number: int, parameters: dict[str, Any], seeds: Sequence[int] | None = None
) -> TrialOutcome | None:
    """Return what a trial came to over `seeds` (default all that it has); None where its first pack is not done.

    Trials of earlier versions, which kept no episodes, have what their run.json says.
    """
    steps = spec.base.total_steps
    packs = [pack for pack in packs_of(sweep, number) if finished(pack, steps)]
    if not packs or packs[0].path != trial_folder(sweep, number):
        return None
    held = tuple(seed for pack in packs for seed in pack.spec().all_seeds)
    chosen = tuple(seed for seed in held if seeds is None or seed in seeds)
    state = packs[0].state()
    rows = pa.concat_tables([rows_where(read_episodes(pack.path / FILE), step=steps) for pack in packs])
    rows = rows.filter(pa.array([seed in chosen for seed in rows["seed"].to_pylist()], pa.bool_()))
    validated = held_out(packs, chosen, steps)
    if not rows.num_rows:
        own = {key: value for key, value in state["metrics"].items() if not key.startswith("validation/")}
        metrics = {**own, **with_spread(spec, validated)}
        return TrialOutcome(number, parameters, state["best_parameters"], metrics, chosen, validated=validated)
    run_spec, latencies = trial_spec(spec, parameters), read_latencies(packs[0].path)
    known = combinations(spec, run_spec)
    other = {key: value for key, value in state["metrics"].items() if key in ("steps_per_sec",)}
    found: list[TrialOutcome] = []
    for text in values_of(rows, "setting"):
        at = rows_where(rows, setting=text)
        own = {LATENCY: latencies[text]} if text in latencies else {}
        metrics = {**other, **measured(spec, at), **with_spread(spec, validated), **own}
        found.append(TrialOutcome(number, parameters, known.get(text, {}), metrics, chosen, at, validated))
    in_grid = [item for item in found if item.chosen] if spec.grid else found
    best = max(in_grid or found, key=lambda item: spec.goal.key(item.metrics))
    return replace(best, settings=tuple(in_grid or found))


def measured(spec: SweepSpec, rows: pa.Table) -> dict[str, float]:
    """Return the summary of one setting's rows, with the interval of what the sweep asks for."""
    metrics = metrics_of(rows)
    for name in spec.goal.names:
        if name in PLAYED and name != objective_column(rows) and not rows[name].null_count:
            metrics |= interval_of(rows, name).as_metrics(name)
    return metrics


def held_out(packs: Sequence[RunDir], seeds: Sequence[int], steps: int) -> dict[str, list[float]]:
    """Return each seed's measures of held-out episodes at the last step, by their names."""
    found: dict[str, list[float]] = {}
    for pack in packs:
        own = pack.spec().all_seeds
        for seed in own:
            path = pack.member(seed, own) / "eval.csv"
            rows = read_csv(path) if seed in seeds and path.is_file() else []
            for row in (row for row in rows if row["step"] == steps):
                for key, value in row.items():
                    if key.startswith("validation/"):
                        found.setdefault(key, []).append(value)
    return found


def with_spread(spec: SweepSpec, values: dict[str, list[float]]) -> dict[str, float]:
    """Return the means over seeds, and the interval over seeds of what the sweep asks for."""
    metrics = {key: float(np.mean(each)) for key, each in values.items()}
    name = spec.goal.first.named(metrics) if metrics else ""
    if name in values and spec.base.evaluation.eval_episodes == 0:
        metrics |= return_interval([[value] for value in values[name]]).as_metrics(name)
    return metrics


def read_latencies(folder: Path) -> dict[str, float]:
    """Return milliseconds a decision by setting, where they were measured."""
    path = folder / LATENCIES
    return read_object(path) if path.is_file() else {}
