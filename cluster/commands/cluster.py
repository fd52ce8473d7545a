"""`understudy cluster`: profiles, the files they become, heads started here."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import typer

from understudy.cli.output import OVERRIDES, console, examples, show_mapping, show_table
from understudy.cluster.commands.opening import open_profile, print_lines
from understudy.errors import UserError
from understudy.registry import commands

clusters = typer.Typer(help="Clusters: list, show, render, up, status, down.", no_args_is_help=True)

PROFILE = typer.Argument(..., help="a profile's name, a YAML file, or http://HOST:8265")
CHANGES: dict[str, Any] = {**OVERRIDES, "help_option_names": ["--help"]}


@commands.register("cluster")
def add_to(app: typer.Typer) -> None:
    """Register the command group."""
    app.add_typer(clusters, name="cluster")


@clusters.command("list")
def list_() -> None:
    """List the profiles: the shipped ones, and yours in $UNDERSTUDY_HOME/clusters."""
    from understudy.cluster.profile import list_profiles, load_profile

    rows = []
    for name, path in sorted(list_profiles().items()):
        try:
            profile = load_profile(name)
            rows.append((name, profile.kind, profile.description))
        except UserError as error:
            rows.append((name, "-", f"{path}: {error}"))
    show_table(("profile", "kind", "what it is"), rows)


@clusters.command(context_settings=CHANGES)
def show(context: typer.Context, profile: str = PROFILE) -> None:
    """Show a profile with every key; key=value words (workers.gpu.max=8) change it."""
    from understudy.cluster.profile import load_profile

    show_mapping(load_profile(profile, context.args).model_dump(mode="json"))


@clusters.command(
    context_settings=CHANGES,
    epilog=examples(
        "understudy cluster render kuberay image=registry/understudy:1 storage.claim=shared -o manifests",
        "understudy cluster render slurm storage.path=/home/me/understudy workers.cpu.count=4",
    ),
)
def render(
    context: typer.Context,
    profile: str = PROFILE,
    out: Path | None = typer.Option(None, "--out", "-o", help="folder to write the files to; default: print them"),
) -> None:
    """Write the files that a cluster is made from; key=value words change the profile."""
    from understudy.files import storage_errors, write_atomic

    files = open_profile(profile, context.args)[1].render()
    if not files:
        raise UserError(f"{profile}: there is nothing to make: the head is there already")
    for name, text in files.items():
        if out is None:
            print(f"# ---- {name}\n{text}", end="")
            continue
        path = out / name
        with storage_errors(path):
            write_atomic(path, lambda file, text=text: file.write(text.encode()))
            path.chmod(0o755 if text.startswith("#!") else 0o644)
        console.print(str(path), soft_wrap=True)


@clusters.command(context_settings=CHANGES)
def up(context: typer.Context, profile: str = PROFILE) -> None:
    """Bring a cluster up and wait until it takes jobs."""
    print_lines(open_profile(profile, context.args)[1].up())


@clusters.command(context_settings=CHANGES)
def status(context: typer.Context, profile: str = PROFILE) -> None:
    """Show what a cluster is doing."""
    print_lines(open_profile(profile, context.args)[1].status())


@clusters.command(context_settings=CHANGES)
def down(context: typer.Context, profile: str = PROFILE) -> None:
    """Take a cluster down: what `up` started, and nothing else."""
    print_lines(open_profile(profile, context.args)[1].down())
