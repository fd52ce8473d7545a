"""`understudy reproduce`: run a published protocol from the published files, and print ours beside the published."""

from __future__ import annotations

import typer

from understudy.cli.compare import CONFIG_DIR, run_matrix
from understudy.cli.output import OVERRIDES, show_table
from understudy.errors import UserError


def add_to(app: typer.Typer) -> None:
    """Register the command."""
    app.command(context_settings=OVERRIDES, short_help="Run a published protocol; print ours beside the published.")(
        reproduce
    )


def reproduce(
    context: typer.Context,
    study: str = typer.Argument("", help="which published results; none: list them", show_default=False),
    tasks: str = typer.Option("", "--tasks", help="some of its tasks, with commas; none: all", show_default=False),
    cfg: bool = typer.Option(False, "--cfg", help="check every run, print them as commands, and stop"),
    config_dir: str | None = CONFIG_DIR,
) -> None:
    """Run a published protocol on the published data, over seeds, and print its numbers beside the published ones.

    Datasets are those that `understudy data download NAME` brings. KEY=VALUE words change the protocol, and the table
    says so: `understudy reproduce qc --tasks lift training_steps=20000 online_steps=0` is a short trial of it.
    `understudy resume` goes on with what was interrupted, and prints the table at the end.
    """
    from understudy.matrix.published import cells_of_study, studies, study_of

    if not study:
        if tasks or cfg or config_dir:
            raise UserError(f"which published results? There is: {', '.join(studies())}")
        rows = [(name, item.about["what"], ", ".join(g.name for g in item.groups)) for name, item in studies().items()]
        show_table(("name", "what", "--tasks"), rows)
        return
    names = [name.strip() for name in tasks.split(",") if name.strip()]
    cells = cells_of_study(study_of(study), names, context.args, config_dir)
    run_matrix(cells, "compare", config_dir, cfg=cfg, published=study)
