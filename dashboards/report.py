"""A sweep's report: its page as one file that needs no server and no network, and its table for a paper."""

from __future__ import annotations

import csv
import io
import shlex
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from understudy.dashboards.pages.sweep import values_of
from understudy.dashboards.reading.files import Files
from understudy.dashboards.reading.sweeps import SweepView, TrialView, mapping, read_sweep
from understudy.dashboards.rendering import clean, render
from understudy.errors import UnderstudyError, UserError
from understudy.files import write_atomic
from understudy.matrix.latex import escaped
from understudy.sweeping.format import figure, number, objective_text

FORMATS = ("html", "csv", "latex", "md", "png")
ENDINGS = {"latex": ".tex"}
CURVES = 100
"""Trials whose curves are in the file."""


def write_report(folder: Path, out: Path, format_: str, *, ended: bool = False) -> None:
    """Write a sweep's report; UserError where the folder has no trials to report.

    `ended`: by the sweep itself, as the last thing that it does.
    """
    files = Files()
    sweep = read_sweep(files, folder)
    if ended:
        sweep = replace(sweep, state={**sweep.state, "status": "finished"})
    if not sweep.trials:
        raise UserError(f"{folder}: no trial has begun, so there is nothing to report")
    if format_ == "png":
        from understudy.dashboards.report_figure import draw

        draw(files, sweep, out, caption(sweep))
        return
    text = {"html": _page, "csv": _csv, "latex": _latex, "md": _markdown}[format_](files, sweep)
    write_atomic(out, lambda file: file.write(text.encode("utf-8", "backslashreplace")))


def _page(files: Files, sweep: SweepView) -> str:
    values = values_of(files, sweep, sweep.path.name, curves=CURVES)
    written = time.strftime("%Y-%m-%d %H:%M")
    return render("report.html", **values, written=written, made_by=command_of(sweep))


def headings(sweep: SweepView) -> list[str]:
    """Return the columns of the table."""
    return ["trial", "state", *sweep.dimensions, *sweep.grid, "seeds", "episodes", sweep.objective, "low", "high"]


def cells(sweep: SweepView, trial: TrialView) -> list[Any]:
    """Return a trial's row; what is not known is ""."""
    name, metrics = sweep.objective, trial.metrics
    values = {**trial.parameters, **trial.chosen}
    episodes = metrics.get(f"{name}_episodes")
    return [
        trial.number,
        trial.status,
        *(values.get(key, "") for key in (*sweep.dimensions, *sweep.grid)),
        len(trial.seeds),
        "" if episodes is None else int(episodes),
        *(metrics.get(key, "") for key in (name, f"{name}_low", f"{name}_high")),
    ]


def _csv(files: Files, sweep: SweepView) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    made_by = command_of(sweep)
    writer.writerow([*headings(sweep), "made_by"])
    writer.writerows([*cells(sweep, trial), made_by] for trial in sweep.ranked)
    return text.getvalue()


def _short(sweep: SweepView, trial: TrialView) -> list[str]:
    """Return a trial's row for readers, the score with its interval in one cell."""
    row = cells(sweep, trial)
    return [*(number(cell) if cell != "" else "-" for cell in row[:-3]), objective_text(trial.metrics, sweep.objective)]


def _markdown(files: Files, sweep: SweepView) -> str:
    head = [*headings(sweep)[:-3], f"{sweep.objective} [95 %]"]
    alike = alike_of(sweep)
    lines = [f"| {' | '.join(head)} |", f"|{' --- |' * len(head)}"]
    for trial in sweep.ranked:
        row = [str(clean(cell)).replace("|", "\\|") for cell in _short(sweep, trial)]
        row[0] = f"**{row[0]}**" if trial.number in alike else row[0]
        lines.append(f"| {' | '.join(row)} |")
    return "\n".join([*lines, "", caption(sweep), ""])


def _latex(files: Files, sweep: SweepView) -> str:
    head = [*headings(sweep)[:-3], sweep.objective]
    alike = alike_of(sweep)
    rows: list[str] = []
    for trial in sweep.ranked:
        row = [escaped(str(clean(cell))) for cell in _short(sweep, trial)]
        row[-1] = rf"\textbf{{{row[-1]}}}" if trial.number in alike else row[-1]
        rows.append(f"    {' & '.join(row)} \\\\")
    lines = [
        "% needs \\usepackage{booktabs}",
        r"\begin{table}",
        r"  \centering",
        rf"  \begin{{tabular}}{{{'r' + 'l' + 'r' * (len(head) - 3) + 'c'}}}",
        r"    \toprule",
        f"    {' & '.join(map(escaped, head))} \\\\",
        r"    \midrule",
        *rows,
        r"    \bottomrule",
        r"  \end{tabular}",
        rf"  \caption{{{escaped(caption(sweep))}}}",
        r"\end{table}",
    ]
    return "\n".join(lines) + "\n"


def alike_of(sweep: SweepView) -> set[int]:
    """Return the chosen trial and those that its confirmation does not tell from it."""
    compared = [mapping(item) for item in sweep.best.get("compared") or []]
    chosen = [
        sweep.best.get("trial"),
        *(item.get("trial") for item in compared if item.get("distinguishable") is False),
    ]
    return {number for number in chosen if isinstance(number, int)}


def caption(sweep: SweepView) -> str:
    """Return what the table shows: the sweep, its intervals, what was confirmed, and the command that made it."""
    keys, best = sweep.keys, sweep.best
    said = [
        f"{keys.get('algo', '')} on {keys.get('env_name', '')}, {len(sweep.trials)} configurations, ranked by the"
        " episodes of the search; intervals of 95 % over seeds and start states, crossed."
    ]
    metrics = {key: value for key, value in mapping(best.get("metrics")).items() if isinstance(value, int | float)}
    if metrics:
        name = sweep.goal.first.named(metrics)
        episodes = sweep.options.get("final_episodes")
        fresh = (
            f", {len(best.get('seeds') or sweep.seeds)} seeds x {episodes} fresh episodes" if best.get("fresh") else ""
        )
        acted = f", acting at temperature {metrics['temperature']:g}" if "temperature" in metrics else ""
        said.append(
            f"Trial {best.get('trial')} was chosen, and confirmed at {objective_text(metrics, name)}{fresh}{acted}."
        )
        said.append("Bold: the chosen trial, and those that its confirmation does not tell from it.")
        if isinstance(best.get("ranked"), int | float):
            said.append(f"It was ranked at {figure(best['ranked'], name)}.")
    return " ".join([*said, f"Made by: {command_of(sweep)}"])


def command_of(sweep: SweepView) -> str:
    """Return the command that makes this sweep, from what it was given: keys that differ from the defaults."""
    keys, defaults = dict(sweep.keys), _defaults(sweep.keys)
    swept = {*sweep.dimensions, *sweep.grid}
    seeds = keys.get("seeds")
    words = [f"{key}={keys[key]}" for key in ("algo", "env_name") if key in keys]
    words += [f"seeds={_typed(seeds)}"] if isinstance(seeds, list) else [f"seed={keys.get('seed', 0)}"]
    hidden = {"algo", "env_name", "seed", "seeds", "launcher", "save_dir", "data_dir", "tracking_uri", *swept}
    words += [
        f"{key}={_typed(value)}"
        for key, value in keys.items()
        if key not in hidden and key in defaults and value != defaults[key] and value is not None
    ]
    words += [f"{key}={_swept(mapping(item))}" for key, item in sweep.dimensions.items()]
    words += [f"{key}={','.join(_typed(value) for value in values)}" for key, values in sweep.grid.items()]
    words += [f"{key}={_typed(value)}" for key, value in _given_options(sweep.options).items()]
    return clean(" ".join(["understudy sweep", *map(shlex.quote, words)]))


def _defaults(keys: Mapping[str, Any]) -> Mapping[str, Any]:
    from understudy.spec.keys import build_run

    try:
        return build_run({key: keys[key] for key in ("algo", "env_name") if key in keys}).flat()
    except (UnderstudyError, KeyError):  # of a method that is not here
        return {key: keys[key] for key in keys if key not in ("training_steps", "eval_episodes")}


def _given_options(options: Mapping[str, Any]) -> dict[str, Any]:
    from understudy.sweeping.options import SweepOptions

    plain = SweepOptions.model_validate({}).model_dump(mode="json")
    return {key: value for key, value in options.items() if key == "num_trials" or plain.get(key, value) != value}


def _swept(item: Mapping[str, Any]) -> str:
    if item.get("kind") == "interval":
        whole = bool(item.get("integer"))
        ends = ",".join(str(int(end)) if whole else f"{end:g}" for end in (item.get("low", 0), item.get("high", 0)))
        return f"interval({ends})"
    return ",".join(_typed(value) for value in item.get("values") or [])


def _typed(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list | tuple):
        return f"[{','.join(_typed(item) for item in value)}]"
    return "null" if value is None else f"{value:g}" if isinstance(value, float) else str(value)
