"""`understudy models`: the registered models."""

from __future__ import annotations

import typer

from understudy.cli.output import console, show_mapping, show_table
from understudy.cli.runs import SAVE_DIR, TRACKING_URI, clock_time, existing_address

models = typer.Typer(help="Registered models: list, show.", no_args_is_help=True)


def add_to(app: typer.Typer) -> None:
    """Register the command group."""
    app.add_typer(models, name="models")


@models.command("list")
def list_(tracking_uri: str = TRACKING_URI, save_dir: str = SAVE_DIR) -> None:
    """List the registered models and their aliases."""
    from understudy.models import list_models

    rows = []
    for model in list_models(existing_address(tracking_uri, save_dir)):
        aliases = ", ".join(f"{alias} -> {version}" for alias, version in model["aliases"].items())
        rows.append((model["name"], model["newest"], aliases, clock_time(model["updated"])))
    if not rows:
        console.print("no registered models: `understudy sweep` registers its best policy", soft_wrap=True)
        return
    show_table(("name", "newest version", "aliases", "updated"), rows)


@models.command()
def show(
    name: str = typer.Argument(..., help="the model's name, as `understudy models list` shows it"),
    tracking_uri: str = TRACKING_URI,
    save_dir: str = SAVE_DIR,
) -> None:
    """Show one registered model's versions."""
    from understudy.models import show_model

    model = show_model(existing_address(tracking_uri, save_dir), name)
    versions = [{**version, "created": clock_time(version["created"])} for version in model["versions"]]
    show_mapping({**model, "updated": clock_time(model["updated"]), "versions": versions})
