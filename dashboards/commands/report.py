"""`understudy report`: a sweep's page as one file, or its table and figure for a paper."""

from __future__ import annotations

from pathlib import Path

import typer

from understudy.cli.output import HELP_WIDTH, console
from understudy.registry import commands


@commands.register("report")
def add_to(app: typer.Typer) -> None:
    """Register the command."""
    app.command(short_help="Write a sweep's report: one file, or a table for a paper.", context_settings=HELP_WIDTH)(
        report
    )


def report(
    sweep: str = typer.Argument(..., help="sweep: its folder, its folder's name, or its MLflow run id"),
    out: str = typer.Option("", "-o", "--out", help="file to write; default: report.html (.csv, .tex, ...) here"),
    format_: str = typer.Option("", "--format", help="html, csv, latex, md or png; default: as the file's name ends"),
    attach: bool = typer.Option(True, "--attach/--no-attach", help="add the html to the sweep's run in MLflow"),
    save_dir: str = typer.Option("", "--save_dir", help="root of the run directories; default runs/fbc/"),
) -> None:
    """Write a sweep's page as one file that works with no server and no network, or its table, or its figure."""
    from understudy.dashboards.report import ENDINGS, FORMATS, write_report
    from understudy.errors import UserError, did_you_mean
    from understudy.files import user_path
    from understudy.runs.find import find

    by_ending = {ENDINGS.get(name, f".{name}"): name for name in FORMATS}
    chosen = format_ or by_ending.get(Path(out).suffix.lower(), "html" if not out else "")
    if chosen not in FORMATS:
        raise UserError(f"--format {format_ or Path(out).suffix}: no such format{did_you_mean(chosen, FORMATS)}")
    folder = find(sweep, user_path(save_dir) if save_dir else None)
    if not (folder / "sweep.json").is_file():
        raise UserError(f"{folder} is no sweep: `understudy dashboard {folder}` shows runs")
    file = user_path(out) if out else Path(f"report{ENDINGS.get(chosen, f'.{chosen}')}")
    write_report(folder, file, chosen)
    console.print(f"{file}: {file.stat().st_size / 1e6:.2f} MB", soft_wrap=True)
    if chosen == "html" and attach:
        console.print(_attached(folder, file), soft_wrap=True)


def _attached(sweep: Path, file: Path) -> str:
    """Add the file to the sweep's run in MLflow and say so, or why not: the file is there in any case."""
    from understudy.errors import UnderstudyError
    from understudy.files import read_object
    from understudy.sweeping.directory import SweepDir
    from understudy.tracking.addresses import OFF, sqlite_path
    from understudy.tracking.artifacts import log_artifacts

    run_id = str(SweepDir(sweep).state().get("run_id") or "")
    try:
        from understudy.spec.keys import validate
        from understudy.spec.placement import Placement

        keys = read_object(sweep / "sweep.json").get("run") or {}
        given = {key: keys[key] for key in ("tracking_uri", "save_dir") if keys.get(key)}
        where = validate(Placement, given).tracking()
        local = sqlite_path(where) if where != OFF else None
        if where == OFF or not run_id:
            return "not attached: the sweep is not tracked in MLflow"
        if local is not None and not local.is_file():
            return f"not attached: there is no {local} here"
        log_artifacts(where, run_id, file.resolve())
    except UnderstudyError as error:
        return f"not attached to MLflow: {error}"
    return f"attached to the sweep's run in MLflow ({run_id[:8]})"
