"""`understudy sync`: send what MLflow has not got yet."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import typer

from understudy.cli.output import console, examples
from understudy.files import user_path


def add_to(app: typer.Typer) -> None:
    """Register the command."""
    app.command(
        short_help="Send what MLflow has not got of runs and sweeps.",
        epilog=examples("understudy sync", "understudy sync sweep_20260101_120000", "understudy sync runs/fbc"),
    )(sync)


def sync(
    places: list[str] | None = typer.Argument(
        None, help="runs, sweeps, or folders of them; default: all below runs/fbc/"
    ),
) -> None:
    """Send to MLflow what it has not got, once: after a server was away, or a process was killed.

    Runs that are being trained are left alone: they send their own.
    """
    from understudy.errors import TrackingError, UnderstudyError, UserError

    shipped, left = 0, 0
    try:
        for path in _found(places or []):
            try:
                for folder, sent in _sent(path):
                    shipped += 1
                    files = f", {sent.files} files" if sent.files else ""
                    line = f"{folder}: {sent.values} metric values{files}; {sent.status}"
                    console.print(line, soft_wrap=True, highlight=False, markup=False)
            except TrackingError:
                raise
            except UserError as error:  # in use, then it sends its own; or its files are damaged
                left += 1
                console.print(f"left alone: {error}", soft_wrap=True, highlight=False, markup=False)
    except TrackingError as error:
        raise UnderstudyError(str(error)) from None
    if not shipped:
        console.print("nothing to send: MLflow has all of it" if not left else "nothing to send of the others")


def _found(places: list[str]) -> list[Path]:
    """Return the runs and sweeps that are meant, each once; a sweep's trials go with it."""
    from understudy.runs.find import MARKERS, find, folders
    from understudy.spec.placement import Placement

    found: dict[Path, None] = {}
    for place in places or [str(Placement.model_fields["save_dir"].default)]:
        path = user_path(place)
        whole = path.is_dir() and not any((path / marker).is_file() for marker in MARKERS)
        for folder in folders(path) if whole else [find(place)] if places else []:
            found.setdefault(folder.absolute())
    sweeps = [folder for folder in found if (folder / "sweep.json").is_file()]
    return [folder for folder in sorted(found) if folder.parent.parent not in sweeps]


def _sent(path: Path) -> Iterator[tuple[Path, Any]]:
    """Send one run or sweep; the store must answer first, so that one that is away is said at once."""
    from understudy import tracking
    from understudy.runs.directory import RunDir
    from understudy.runs.sync import sync as sync_run
    from understudy.sweeping.directory import SweepDir
    from understudy.sweeping.syncing import sync_sweep

    if (path / "sweep.json").is_file():
        sweep = SweepDir(path)
        tracking.prepare(sweep.spec().base.placement.tracking())
        yield from sync_sweep(sweep)
        return
    run = RunDir(path)
    tracking.prepare(run.spec().placement.tracking())
    sent = sync_run(run)
    if sent:
        yield path, sent
