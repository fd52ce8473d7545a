"""`understudy models`: the registered models."""

from __future__ import annotations

import time

import typer

from understudy.cli.output import show_mapping, show_table
from understudy.cli.runs import SAVE_DIR, TRACKING_URI, tracking_address

models = typer.Typer(help="Registered models: list, show.", no_args_is_help=True)


def add_to(app: typer.Typer) -> None:
    """Register the command group."""
    app.add_typer(models, name="models")


@models.command("list")
def list_(tracking_uri: str = TRACKING_URI, save_dir: str = SAVE_DIR) -> None:
    """List the registered models and their aliases."""
    from understudy.models import list_models

    rows = []
    for model in list_models(tracking_address(tracking_uri, save_dir)):
        aliases = ", ".join(f"{alias} -> {version}" for alias, version in model["aliases"].items())
        updated = time.strftime("%Y-%m-%d %H:%M", time.localtime(model["updated"]))
        rows.append((model["name"], model["newest"], aliases, updated))
    show_table(("name", "newest version", "aliases", "updated"), rows)


@models.command()
def show(name: str, tracking_uri: str = TRACKING_URI, save_dir: str = SAVE_DIR) -> None:
    """Show one registered model's versions."""
    from understudy.models import show_model

    show_mapping(show_model(tracking_address(tracking_uri, save_dir), name))
