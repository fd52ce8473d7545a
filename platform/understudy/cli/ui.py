"""`understudy ui`: MLflow's pages."""

from __future__ import annotations

import os

import typer

from understudy.cli.output import console
from understudy.cli.runs import SAVE_DIR, TRACKING_URI, existing_address


def add_to(app: typer.Typer) -> None:
    """Register the command."""
    app.command(short_help="Serve MLflow's pages for the embedded store.")(ui)


def ui(
    port: int = typer.Option(5000, "--port", help="port on 127.0.0.1"),
    tracking_uri: str = TRACKING_URI,
    save_dir: str = SAVE_DIR,
) -> None:
    """Serve MLflow's pages for the embedded store, on 127.0.0.1 only."""
    from understudy.secrecy import without_secrets
    from understudy.tracking import check_port, list_runs, prepare, ui_command
    from understudy.tracking.addresses import FOR_TRAINING

    check_port(port)
    address = existing_address(tracking_uri, save_dir)
    command, environment = ui_command(address, port)
    prepare(address)
    found = list_runs(address, limit=1)
    page = ""
    if found and "#" in found[0]["url"]:
        page = f"#{found[0]['url'].partition('#')[2].partition('/runs/')[0]}/runs?{FOR_TRAINING}"
    console.print(
        f"MLflow on http://127.0.0.1:{port}/{page} (stop with Ctrl-C); store {without_secrets(address)}", soft_wrap=True
    )
    os.execvpe(command[0], command, {**os.environ, **environment})
