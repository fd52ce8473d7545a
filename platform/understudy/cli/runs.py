"""`understudy runs`: what MLflow holds."""

from __future__ import annotations

import time
from typing import Any

import typer

from understudy.cli.output import show_mapping, show_table
from understudy.errors import UserError

runs = typer.Typer(help="Runs in MLflow: list, show.", no_args_is_help=True)
TRACKING_URI = typer.Option("", "--tracking_uri", help="default $MLFLOW_TRACKING_URI, else SQLite in save_dir")
SAVE_DIR = typer.Option("", "--save_dir", help="root of the run directories; default runs/fbc/")
OUTCOMES = (
    *(f"{kind}/{name}" for name in ("success", "normalized_return", "return") for kind in ("best", "eval")),
    "train/actor_loss",
)
"""Metrics that say how a run came out, the first that it has being shown."""


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
        raise UserError(f"nothing is tracked in {path} yet: give --save_dir, or --tracking_uri, of the runs")
    return address


def under_parents(found: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the runs, newest first, each child below its parent where that is among them."""
    ids = {run["run_id"] for run in found}
    ordered = []
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
    rows = []
    for run in under_parents(found):
        key = next((name for name in OUTCOMES if name in run["metrics"]), None)
        outcome = f"{key.split('/')[1]} {run['metrics'][key]:.3f}" if key else "-"
        started = clock_time(run["start"])
        name = f"  {run['name']}" if run["parent_run_id"] else run["name"]
        rows.append((run["run_id"][:8], name, run["status"].lower(), started, run["tags"].get("env_name", ""), outcome))
    show_table(("id", "name", "status", "started", "env_name", "outcome"), rows)


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
