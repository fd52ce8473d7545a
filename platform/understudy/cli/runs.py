"""`understudy runs`: what MLflow holds, and the episodes of a run directory."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from understudy.cli.output import show_mapping, show_table
from understudy.errors import UserError

if TYPE_CHECKING:
    import pyarrow as pa

    from understudy.statistics import ConfidenceInterval

EVALUATION = ("trial", "stage", "step", "setting")
"""What tells one evaluation from another in a table of episodes."""
COUNTED = ("seeds", "episodes", "of", "mean [95 %]")
runs = typer.Typer(help="Runs in MLflow: list, show; the episodes of a run.", no_args_is_help=True)
TRACKING_URI = typer.Option("", "--tracking_uri", help="default $MLFLOW_TRACKING_URI, else SQLite in save_dir")
SAVE_DIR = typer.Option("", "--save_dir", help="root of the run directories; default runs/fbc/")
OUTCOMES = (
    *(f"{kind}/{name}" for name in ("success", "normalized_return", "return") for kind in ("eval", "best")),
    *(f"eval/validation/{name}" for name in ("accuracy", "mse", "actor_loss")),
    "train/actor_loss",
)
"""Metrics that say how a run came out, the first that it has being shown (sweeps of earlier versions have best/)."""


def add_to(app: typer.Typer) -> None:
    """Register the command group."""
    app.add_typer(runs, name="runs")


def tracking_address(tracking_uri: str, save_dir: str) -> str:
    """Return the store that a run with these keys would be tracked in."""
    from understudy.spec.keys import validate
    from understudy.spec.placement import Placement

    given = {"tracking_uri": tracking_uri, **({"save_dir": save_dir} if save_dir else {})}
    return validate(Placement, given).tracking()


def existing_address(tracking_uri: str, save_dir: str) -> str:
    """Return the same, or raise UserError when it is a SQLite store that nothing has been tracked in."""
    from understudy.tracking.addresses import sqlite_path

    address = tracking_address(tracking_uri, save_dir)
    if address == "none":
        raise UserError("tracking_uri=none keeps nothing to look at: give --tracking_uri, or --save_dir")
    path = sqlite_path(address)
    if path is not None and not path.is_file():  # asking MLflow would make an empty one
        others = sorted({str(file.parent) for depth in ("*", "*/*") for file in Path().glob(f"{depth}/{path.name}")})
        hint = f": here are runs in {', '.join(others[:5])} (--save_dir)" if others else ""
        raise UserError(
            f"nothing is tracked in {path} yet{hint or ': give --save_dir, or --tracking_uri, of the runs'}"
        )
    return address


def under_parents(found: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the runs, newest first, each child below its parent where that is among them."""
    ids = {run["run_id"] for run in found}
    ordered: list[dict[str, Any]] = []
    for run in found:
        if run["parent_run_id"] not in ids:
            ordered += [run, *(child for child in found if child["parent_run_id"] == run["run_id"])]
    return ordered


def clock_time(seconds: float) -> str:
    """Return unix seconds as local date and time."""
    return time.strftime("%Y-%m-%d %H:%M", time.localtime(seconds))


@runs.command("list")
def list_(
    project: str | None = typer.Option(None, "--project", help="one experiment's runs only"),
    limit: int = typer.Option(30, "--limit", help="how many, newest first"),
    tracking_uri: str = TRACKING_URI,
    save_dir: str = SAVE_DIR,
) -> None:
    """List the newest runs with their outcome."""
    from understudy.tracking import list_runs

    found = list_runs(existing_address(tracking_uri, save_dir), project, limit)
    rows: list[tuple[Any, ...]] = []
    for run in under_parents(found):
        key = next((name for name in OUTCOMES if name in run["metrics"]), None)
        outcome = f"{key.partition('/')[2]} {_with_interval(run['metrics'], key)}" if key else "-"
        started = clock_time(run["start"])
        name = run["name"].removeprefix(f"{run['tags'].get('algo', '')} ")  # which has a column of its own
        name = f"  {name}" if run["parent_run_id"] else name
        about = (run["tags"].get(name, "") for name in ("algo", "env_name", "seeds"))
        state = run["tags"].get("state", run["status"].lower())
        rows.append((run["run_id"][:8], name, state, started, *about, outcome))
    show_table(("id", "name", "status", "started", "algo", "env_name", "seeds", "outcome [95 %]"), rows)


def _with_interval(metrics: Mapping[str, float], key: str) -> str:
    """Return a metric with its interval where it has one."""
    value = f"{metrics[key]:.3f}"
    if f"{key}_low" not in metrics:
        return value
    return f"{value} [{metrics[f'{key}_low']:.3f}, {metrics[f'{key}_high']:.3f}]"


@runs.command()
def episodes(
    run: str = typer.Argument(..., help="run or sweep: its folder, its folder's name, or its MLflow run id"),
    step: int = typer.Option(-1, "--step", help="one evaluation only, and each of its episodes"),
    failures: bool = typer.Option(False, "--failures", help="with --step: only episodes without success"),
) -> None:
    """List a run's evaluations as its table of episodes has them, or each episode of one."""
    from understudy.runs.episodes import load_episodes

    table = load_episodes(run)
    if not table.num_rows:
        raise UserError(f"{run} has no episodes: none was played yet, or a version before episodes.arrow made it")
    if failures and step < 0:
        raise UserError("--failures lists episodes of one evaluation: give --step")
    if step < 0:
        headings, rows = evaluation_rows(table)
    else:
        headings, rows = episode_rows(table, step, failures)
    show_table(headings, rows)
    if step < 0 and (by_text := text_rows(table)):
        show_table((*EVALUATION, "text", *COUNTED), by_text)


def evaluation_rows(table: pa.Table) -> tuple[tuple[str, ...], list[tuple[Any, ...]]]:
    """Return a row for each evaluation: trial, stage, step, setting, seeds, episodes, the interval of its episodes."""
    return (*EVALUATION, *COUNTED), [row for _, row in _intervals(table, EVALUATION)]


def text_rows(table: pa.Table) -> list[tuple[Any, ...]]:
    """Return a row for each task text of each evaluation that told several; none where none did."""
    found = _intervals(table, (*EVALUATION, "text"))
    texts = Counter(tuple(group[key] for key in EVALUATION) for group, _ in found)
    return [row for group, row in found if texts[tuple(group[key] for key in EVALUATION)] > 1]


def _intervals(table: pa.Table, keys: Sequence[str]) -> list[tuple[dict[str, Any], tuple[Any, ...]]]:
    """Return (group, row) for each group of episodes with the same keys; a row has them and the interval."""
    from understudy.runs.episodes import interval_of, objective_column, rows_where

    rows: list[tuple[dict[str, Any], tuple[Any, ...]]] = []
    groups = table.group_by(list(keys)).aggregate([]).sort_by([(key, "ascending") for key in keys])
    for group in groups.to_pylist():
        chosen = rows_where(table, **group)
        found, column = interval_of(chosen), objective_column(chosen)
        counted = (found.n_seeds, found.n_episodes, column, figures(found))
        rows.append((group, (*(dash(group[key]) for key in keys), *counted)))
    return rows


def episode_rows(table: pa.Table, step: int, failures: bool) -> tuple[tuple[str, ...], list[tuple[Any, ...]]]:
    """Return a row for each episode of the evaluations at a step; UserError for a step without any."""
    from understudy.runs.episodes import rows_where, values_of

    rows = rows_where(table, step=step).to_pylist()
    if not rows:
        raise UserError(f"--step {step}: there are evaluations at {', '.join(map(str, values_of(table, 'step')))}")
    if failures:
        rows = [row for row in rows if row["success"] is not None and row["success"] < 1]
    names = ("trial", "stage", "seed", "setting", "episode", "reset_seed", "success", "return", "length", "last_frame")
    return names, [tuple(dash(row[name]) for name in names) for row in rows]


def figures(interval: ConfidenceInterval) -> str:
    """Return a mean with its interval, without the counts."""
    return str(interval).split(" (")[0]


def dash(value: Any) -> str:
    """Return a cell; an empty one as a dash."""
    return "-" if value in (None, "") else f"{value:.6g}" if isinstance(value, float) else str(value)


@runs.command()
def show(
    run: str = typer.Argument(..., help="run id, the beginning of one, or a run's name"),
    tracking_uri: str = TRACKING_URI,
    save_dir: str = SAVE_DIR,
) -> None:
    """Show one run: parameters, newest metrics, artifacts, child runs."""
    from understudy.tracking import run_details

    details = run_details(existing_address(tracking_uri, save_dir), run)
    details["start"] = clock_time(details["start"])
    details["children"] = [
        f"{child['run_id'][:8]} {child['name']} {child['status'].lower()}" for child in details["children"]
    ]
    show_mapping(details)
