"""`understudy dashboard` and `understudy report`: pages about runs and sweeps."""

from __future__ import annotations

import typer

from understudy.cli.output import HELP_WIDTH, console
from understudy.registry import commands


@commands.register("dashboard")
def add_to(app: typer.Typer) -> None:
    """Register the command."""
    app.command(
        short_help="Show sweeps, runs, episodes, datasets and clusters in the browser.", context_settings=HELP_WIDTH
    )(dashboard)


def dashboard(
    what: str = typer.Argument(
        "", metavar="[SAVE_DIR | SWEEP | RUN | DATASET]", help="what to show; default: all of --save_dir"
    ),
    port: int | None = typer.Option(None, "--port", help="default: the first free one from 8765 on"),
    host: str = typer.Option("127.0.0.1", "--host", help="address to listen on; any other than this lets others read"),
    browser: bool = typer.Option(True, "--browser/--no-browser", help="open it in the browser"),
    save_dir: str = typer.Option("", "--save_dir", help="root of the run directories; default runs/fbc/"),
    tracking_uri: str = typer.Option("", "--tracking_uri", help="an MLflow store, where the files are elsewhere"),
    profile: str = typer.Option(
        "", "--profile", "-p", help="the cluster that /cluster shows first; default: what is up"
    ),
    data_dir: str = typer.Option("", "--data_dir", help="folder of episode stores; default $UNDERSTUDY_HOME/datasets"),
) -> None:
    """Show sweeps, runs, episodes, datasets and clusters in the browser, live. Nothing leaves this machine."""
    from understudy.dashboards.serving import free_port, heads_of, remote_site, serve, site_of
    from understudy.errors import UserError
    from understudy.files import user_path
    from understudy.spec.placement import Placement

    def say(line: str) -> None:
        console.print(line, soft_wrap=True)

    datasets = user_path(data_dir) if data_dir else None
    if tracking_uri:
        if what or save_dir:
            raise UserError(
                f"--tracking_uri shows a store's runs, {what or save_dir} those of a folder: give one of them"
            )
        with remote_site(tracking_uri, datasets) as site:
            site.heads = heads_of(profile)
            serve(site, host, free_port(host, port), browser, say)
        return
    root = user_path(save_dir or Placement.model_fields["save_dir"].default)
    site = site_of(what, root, datasets)
    site.heads = heads_of(profile)
    serve(site, host, free_port(host, port), browser, say)
