"""`understudy runs`: what MLflow holds."""

from __future__ import annotations

import time
import typer

from understudy.cli.output import show_mapping, show_table

runs = typer.Typer(help="Runs in MLflow: list, show.", no_args_is_help=True)
TRACKING_URI = typer.Option("", "--tracking_uri", help="default $MLFLOW_TRACKING_URI, else SQLite in save_dir")
SAVE_DIR = typer.Option("", "--save_dir", help="root of the run directories; default runs/fbc/")
OUTCOMES = ("best/success", "eval/success", "eval/normalized_return", "eval/return", "train/actor_loss")


def add_to(app: typer.Typer) -> None:
    """Register the command group."""
    app.add_typer(runs, name="runs")


def tracking_address(tracking_uri: str, save_dir: str) -> str:
    """Return the store that a run with these keys would be tracked in."""
    from understudy.spec import RunSpec

    given = {"tracking_uri": tracking_uri, **({"save_dir": save_dir} if save_dir else {})}
    return RunSpec.model_validate(given).tracking()


@runs.command("list")
def list_(
    project: str | None = typer.Option(None, "--project", help="one experiment's runs only"),
    limit: int = typer.Option(30, "--limit", help="how many, newest first"),
    tracking_uri: str = TRACKING_URI,
    save_dir: str = SAVE_DIR,
) -> None:
    """List the newest runs with their outcome."""
    from understudy.tracking import list_runs

    found = list_runs(tracking_address(tracking_uri, save_dir), project, limit)
    rows = []
    for run in found:
        key = next((name for name in OUTCOMES if name in run["metrics"]), None)
        outcome = f"{key.split('/')[1]} {run['metrics'][key]:.3f}" if key else "-"
        started = time.strftime("%Y-%m-%d %H:%M", time.localtime(run["start"]))
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

    show_mapping(run_details(tracking_address(tracking_uri, save_dir), run))

