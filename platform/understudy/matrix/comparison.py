"""Compare the cells of a matrix: on each task paired by start state, over tasks as rliable does."""

from __future__ import annotations

import csv
import io
import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa

from understudy.comparisons import (
    SIGNIFICANCE,
    Difference,
    holm,
    paired_difference,
    performance_profile,
    probability_of_improvement,
    profile_band,
    stratified_bootstrap,
    task_iqm,
)
from understudy.files import write_atomic, write_json
from understudy.matrix.cells import Cell, MatrixDir
from understudy.runs.directory import RunDir
from understudy.runs.episodes import (
    CONFIRMATION,
    FILE,
    interval_of,
    last_step,
    objective_column,
    read_episodes,
    rows_where,
    scores,
)
from understudy.runs.results import RATES
from understudy.sweeping.best import read_best
from understudy.sweeping.format import number, objective_text

RECORD, TABLE = "comparison.json", "comparison.csv"
RESAMPLES = 2000
THRESHOLDS = 101
"""Scores at which a performance profile is computed."""


@dataclass(frozen=True)
class Result:
    """One cell's result, on episodes that nothing was chosen by."""

    method: str
    task: str
    objective: str
    metrics: dict[str, float]
    parameters: dict[str, Any] = field(default_factory=dict[str, Any])
    """The best configuration, for a tuned cell."""
    scores: np.ndarray | None = None
    """[K, E]; None where no episodes were played."""
    among: str = ""
    """The method that this is one seed of: the two are not compared."""


def result_of(matrix: MatrixDir, cell: Cell) -> Result | None:
    """Return a cell's result: its run's last evaluation, or the confirmation of its sweep's best; None before that."""
    folder = matrix.folder(cell)
    if matrix.kind == "compare":
        run = RunDir(folder)
        if run.state().get("status") != "finished":
            return None
        return _result(cell, last_step(read_episodes(folder / FILE)), run.state()["metrics"], {})
    best = read_best(folder)
    if best is None:
        return None
    rows = rows_where(read_episodes(folder / FILE), stage=CONFIRMATION, trial=best.trial)
    return _result(cell, rows, best.metrics, best.parameters)


def _result(cell: Cell, rows: pa.Table, metrics: Mapping[str, float], parameters: dict[str, Any]) -> Result:
    if rows.num_rows:
        column = objective_column(rows)
        found = interval_of(rows, column).as_metrics(column)
        return Result(cell.method, cell.task, column, found, parameters, scores(rows, column))
    names = (key for key in metrics if f"{key}_seeds" in metrics)
    name = next(names, next((key for key in metrics if key.startswith("validation/")), "return"))
    own = {key: value for key, value in metrics.items() if key == name or key.startswith(f"{name}_")}
    return Result(cell.method, cell.task, name, own, parameters)


def compare(results: Sequence[Result]) -> dict[str, Any]:
    """Return all comparisons: each task's pairs of methods, and over tasks each method's IQM and pairs' chances."""
    tasks = list(dict.fromkeys(item.task for item in results))
    methods = list(dict.fromkeys(item.method for item in results))
    return {
        "cells": [
            {key: value for key, value in asdict(item).items() if key not in ("scores", "among")} for item in results
        ],
        "pairs": [pair for task in tasks for pair in _pairs([item for item in results if item.task == task])],
        "over_tasks": _over_tasks(results, tasks, methods),
    }


def _pairs(results: Sequence[Result]) -> list[dict[str, Any]]:
    """Return each pair of a task's methods: the difference on the same start states, and p after Holm's correction."""
    found: dict[str, Difference] = {}
    for one, other in itertools.combinations(results, 2):
        if one.scores is None or other.scores is None or one.objective != other.objective:
            continue
        if one.method == other.among or other.method == one.among:
            continue
        if one.scores.shape[1] == other.scores.shape[1] and max(one.scores.shape) > 1:
            found[f"{one.method}\n{other.method}"] = paired_difference(
                one.scores, other.scores, rate=one.objective in RATES
            )
    adjusted = holm({name: difference.p for name, difference in found.items()})
    return [
        {
            "task": results[0].task,
            "first": name.split("\n")[0],
            "second": name.split("\n")[1],
            "difference": difference.mean,
            "low": difference.ends and difference.ends[0],
            "high": difference.ends and difference.ends[1],
            "p": adjusted[name],
            "distinguishable": adjusted[name] < SIGNIFICANCE,
        }
        for name, difference in found.items()
    ]


def _over_tasks(results: Sequence[Result], tasks: Sequence[str], methods: Sequence[str]) -> dict[str, Any]:
    """Return rliable's measures of [runs, tasks]; {} for one task, or where cells have no common measure."""
    by_cell = {(item.method, item.task): item.scores for item in results}
    every = [by_cell.get((method, task)) for method in methods for task in tasks]
    whole = [scores_KE for scores_KE in every if scores_KE is not None]
    if len(tasks) < 2 or len(whole) < len(every) or len({item.objective for item in results}) > 1:
        return {}
    runs = min(len(scores_KE) for scores_KE in whole)
    arrays: dict[str, np.ndarray] = {}
    for method in methods:
        columns = [by_cell[method, task] for task in tasks]
        arrays[method] = np.stack([column[:runs].mean(axis=1) for column in columns if column is not None], axis=1)
    found: dict[str, Any] = {"runs": runs, "tasks": len(tasks), "iqm": {}, "improvement": []}
    for method, scores_KT in arrays.items():
        low, high = stratified_bootstrap(task_iqm, scores_KT, resamples=RESAMPLES)
        found["iqm"][method] = [task_iqm(scores_KT), low, high]
    found["profiles"] = _profiles(arrays)
    for one, other in itertools.combinations(methods, 2):
        chance = probability_of_improvement(arrays[one], arrays[other])
        ends = stratified_bootstrap(probability_of_improvement, arrays[one], arrays[other], resamples=RESAMPLES)
        found["improvement"].append({"first": one, "second": other, "p": chance, "low": ends[0], "high": ends[1]})
    return found


def _profiles(arrays: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """Return each method's performance profile: the share of its runs on all tasks that score above each threshold.

    With pointwise 95 % bands, runs resampled within each task (rliable's run-score distribution, 2,000 resamples).
    """
    every = np.concatenate([scores_KT.ravel() for scores_KT in arrays.values()])
    low, high = (0.0, 1.0) if every.min() >= 0 and every.max() <= 1 else (float(every.min()), float(every.max()))
    thresholds = np.linspace(low, high, THRESHOLDS)
    methods: dict[str, dict[str, list[float]]] = {}
    for name, scores_KT in arrays.items():
        share = performance_profile(scores_KT, thresholds)
        ends = profile_band(scores_KT, thresholds, resamples=RESAMPLES)
        methods[name] = {"share": share.tolist(), "low": ends[0].tolist(), "high": ends[1].tolist()}
    return {"thresholds": thresholds.tolist(), "methods": methods}


def write_comparison(matrix: MatrixDir, results: Sequence[Result]) -> dict[str, Any]:
    """Write comparison.json and comparison.csv (a row a cell) and return the comparison."""
    found = compare(results)
    write_json(matrix.path / RECORD, found)
    rows = [
        {"task": item.task, "method": item.method, "objective": item.objective, **_columns(item)} for item in results
    ]
    header = list(dict.fromkeys(key for row in rows for key in row))
    text = io.StringIO()
    writer = csv.DictWriter(text, header, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_atomic(matrix.path / TABLE, lambda file: file.write(text.getvalue().encode()))
    return found


def _columns(item: Result) -> dict[str, Any]:
    names = {item.objective: "value"} | {f"{item.objective}_{end}": end for end in ("low", "high", "seeds", "episodes")}
    names |= {key: key for key in item.metrics if key.startswith("expert_normalised")}
    return {name: item.metrics[key] for key, name in names.items() if key in item.metrics} | item.parameters


def table_rows(results: Sequence[Result]) -> tuple[list[str], list[list[str]]]:
    """Return headings and a row for each task, a column for each method."""
    methods = list(dict.fromkeys(item.method for item in results))
    tasks = list(dict.fromkeys((item.task, item.objective) for item in results))
    cells = {(item.task, item.method): objective_text(item.metrics, item.objective) for item in results}
    rows = [[task, objective, *(cells.get((task, method), "-") for method in methods)] for task, objective in tasks]
    return ["task", "measure [95 %]", *methods], rows


def lines_of(found: Mapping[str, Any]) -> Iterable[str]:
    """Yield the comparison in words."""
    for cell in found["cells"]:
        if cell["parameters"]:
            settings = " ".join(f"{key}={number(value)}" for key, value in cell["parameters"].items())
            yield f"{cell['task']}: {cell['method']} at its best: {settings}"
    for pair in found["pairs"]:
        told = f"p {pair['p']:.2g} after Holm" if pair["distinguishable"] else "not distinguishable"
        known = pair["low"] is not None
        ends = f"[{pair['low']:.2f}, {pair['high']:.2f}]" if known else "no interval, without any spread"
        ends = f"{pair['difference']:.2f} {ends}"
        yield f"{pair['task']}: {pair['first']} minus {pair['second']}: {ends}: {told}"
    yield from over_lines(found["over_tasks"])


def over_lines(over: Mapping[str, Any]) -> Iterable[str]:
    """Yield what holds over all tasks, in words; nothing where there is one task."""
    if over:
        iqm = ", ".join(f"{name} {own[0]:.2f} [{own[1]:.2f}, {own[2]:.2f}]" for name, own in over["iqm"].items())
        yield f"over {over['tasks']} tasks x {over['runs']} seeds, interquartile mean: {iqm}"
        for pair in over["improvement"]:
            ends = f"{pair['p']:.2f} [{pair['low']:.2f}, {pair['high']:.2f}]"
            yield f"chance that a seed of {pair['first']} does better than one of {pair['second']}: {ends}"
