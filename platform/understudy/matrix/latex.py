"""A comparison as a LaTeX table (booktabs): a row a task, a column a method, the best and what equals it in bold."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from understudy.files import write_atomic
from understudy.matrix.comparison import Result
from understudy.runs.results import lower_is_better
from understudy.sweeping.format import figure

SPECIAL = {sign: f"\\{sign}" for sign in "&%$#_{}"} | {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
}


def write_latex(path: Path, results: Sequence[Result], found: Mapping[str, Any], said: str) -> None:
    """Write the table of results; `found` is their comparison, `said` the caption."""
    methods = list(dict.fromkeys(item.method for item in results))
    tasks = list(dict.fromkeys((item.task, item.objective) for item in results))
    rows = [_row(task, objective, methods, results, found) for task, objective in tasks]
    lines = [
        "% needs \\usepackage{booktabs}",
        r"\begin{table}",
        r"  \centering",
        rf"  \begin{{tabular}}{{ll{'c' * len(methods)}}}",
        r"    \toprule",
        f"    task & measure & {' & '.join(map(escaped, methods))} \\\\",
        r"    \midrule",
        *(f"    {' & '.join(row)} \\\\" for row in rows),
        r"    \bottomrule",
        r"  \end{tabular}",
        rf"  \caption{{{escaped(said)} Bold: the best of a task, and what cannot be told from it.}}",
        r"\end{table}",
    ]
    write_atomic(path, lambda file: file.write(("\n".join(lines) + "\n").encode()))


def _row(
    task: str, objective: str, methods: Sequence[str], results: Sequence[Result], found: Mapping[str, Any]
) -> list[str]:
    here = {item.method: item for item in results if (item.task, item.objective) == (task, objective)}
    sign = -1 if lower_is_better(objective) else 1
    best = max(here, key=lambda method: sign * here[method].metrics[objective])
    told = {
        frozenset((pair["first"], pair["second"]))
        for pair in found["pairs"]
        if pair["task"] == task and pair["distinguishable"]
    }
    compared = {frozenset((pair["first"], pair["second"])) for pair in found["pairs"] if pair["task"] == task}
    alike = {method for method in here if method == best or frozenset((method, best)) in compared - told}
    cells = [_cell(here[method], objective, method in alike) if method in here else "--" for method in methods]
    return [escaped(task), escaped(objective), *cells]


def _cell(item: Result, objective: str, bold: bool) -> str:
    """Return a value with its interval, as `0.93 [0.81, 0.98]` in mathematics."""
    value = figure(item.metrics[objective], objective)
    value = rf"\mathbf{{{value}}}" if bold else value
    if f"{objective}_low" in item.metrics:
        low, high = (figure(item.metrics[f"{objective}_{end}"], objective) for end in ("low", "high"))
        value += rf"\;[{low}, {high}]"
    return f"${value}$"


def escaped(text: str) -> str:
    """Return text as LaTeX prints it."""
    return "".join(SPECIAL.get(sign, sign) for sign in text)
