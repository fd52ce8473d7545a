"""`understudy resume`: go on with a run or a sweep, and give it more to do."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING

import typer

from understudy.cli.output import console, examples
from understudy.cli.train import run_training

if TYPE_CHECKING:
    from pathlib import Path

    from understudy.runs.loop import Trains
    from understudy.sweeping.directory import SweepDir

ADD_STEPS = typer.Option(0, "--add-steps", help="train this many steps more; a sweep: every trial that was not stopped")
ADD_TRIALS = typer.Option(0, "--add-trials", help="a sweep: try this many configurations more")
RETRY_FAILED = typer.Option(False, "--retry-failed", help="a sweep: try what failed once more")
CHANGE_SPACE = typer.Option(
    [], "--change-space", help="a sweep: search 'lr=interval(1e-5,1e-2)' from now on; may be repeated"
)
SAVE_DIR = typer.Option(
    "", "--save_dir", "--save-dir", help="where names are looked up, and where a run from a storage comes to"
)
ACCEPT_NEW_DATA = typer.Option(
    False, "--accept-new-data", help="a run: go on although its dataset has changed; run.json names both"
)
ACCEPT_LOST_ROWS = typer.Option(
    False,
    "--accept-lost-rows",
    help="a run: go on although rows of its files are gone or changed; run.json names them",
)


def add_to(app: typer.Typer) -> None:
    """Register the command."""
    app.command(
        short_help="Go on with a run or a sweep where it was left.",
        epilog=examples(
            "understudy resume runs/fbc/bc_training/BC/lift-mh-low_dim/sd000_20260101_120000",
            "understudy resume sweep_20260101_120000 --add-trials 20 --retry-failed",
            "understudy resume sweep_20260101_120000 --add-steps 50000",
        ),
    )(resume)


def resume(
    run_or_sweep: str = typer.Argument(
        ..., help="its folder, its folder's name, its MLflow run id, or models:/NAME@ALIAS"
    ),
    add_steps: int = ADD_STEPS,
    add_trials: int = ADD_TRIALS,
    retry_failed: bool = RETRY_FAILED,
    change_space: list[str] = CHANGE_SPACE,
    accept_new_data: bool = ACCEPT_NEW_DATA,
    accept_lost_rows: bool = ACCEPT_LOST_ROWS,
    save_dir: str = SAVE_DIR,
) -> None:
    """Go on with a run or a sweep where it was left; the result equals never having stopped."""
    accepted = {"new_data": accept_new_data, "lost_rows": accept_lost_rows}
    go_on(run_or_sweep, add_steps, add_trials, retry_failed, change_space, accepted, save_dir)


def go_on(
    run_or_sweep: str,
    add_steps: int = 0,
    add_trials: int = 0,
    retry_failed: bool = False,
    change_space: Sequence[str] = (),
    accepted: Mapping[str, bool] = MappingProxyType({}),
    save_dir: str = "",
) -> None:
    """Do what `understudy resume` does."""
    from understudy.cli.compare import drive_matrix
    from understudy.cli.pipeline import drive_pipeline
    from understudy.errors import UserError
    from understudy.files import user_path
    from understudy.matrix.cells import MatrixDir
    from understudy.matrix.pipeline import PipelineDir
    from understudy.runs import torchrun
    from understudy.runs.find import find

    if save_dir and "://" not in run_or_sweep and user_path(run_or_sweep).exists():
        raise UserError(f"--save_dir {save_dir}: {run_or_sweep} is a folder here, and goes on where it lies")
    path, alone = find(run_or_sweep, user_path(save_dir) if save_dir else None), torchrun.group() is None
    for_sweeps = bool(add_trials or retry_failed or change_space)
    if any(accepted.values()) and not (path / "flags.json").is_file():
        raise UserError(f"{path} is no run: --accept-new-data and --accept-lost-rows are for one run")
    if (path / "sweep.json").is_file():
        if not alone:
            raise UserError(f"{path} is a sweep: resume it without torchrun; its trials are placed by Ray")
        _resume_sweep(path, add_steps, add_trials, retry_failed, change_space)
    elif (path / "matrix.json").is_file():
        if not alone or add_steps or for_sweeps:
            raise UserError(
                f"{path} is a matrix: its cells, below {path / 'cells'}, are resumed with these, one by one"
            )
        if MatrixDir(path).kind == "pipeline":
            drive_pipeline(PipelineDir(path))
        else:
            drive_matrix(MatrixDir(path))
    elif for_sweeps:
        raise UserError(f"{path} is a run: --add-trials, --retry-failed and --change-space are for sweeps")
    else:
        _resume_run(path, add_steps, accepted)


def _resume_sweep(path: Path, add_steps: int, add_trials: int, retry_failed: bool, change_space: Sequence[str]) -> None:
    from understudy.cli.sweep import drive
    from understudy.sweeping.directory import SweepDir

    sweep = SweepDir.existing(path)
    with sweep.held():  # someone else's sweep: say so before anything is printed
        prepare(sweep.spec().base.placement.tracking())
    extend_sweep(sweep, add_steps, add_trials, retry_failed, change_space)
    drive(sweep)


def _resume_run(path: Path, add_steps: int, accepted: Mapping[str, bool]) -> None:
    from understudy.runs import extend, torchrun
    from understudy.runs.directory import RunDir
    from understudy.runs.on_ray import check_launcher

    run, group = RunDir.existing(path), torchrun.group()

    def make_longer() -> None:
        with run.locked():  # someone else's run: say so before anything is printed
            if accepted:
                extend.accept(run, **accepted)
            if add_steps:
                extend.add_steps(run, add_steps)

    make_longer() if group is None else group.from_first(make_longer)
    spec = run.spec()

    def lead(loop: Trains | None) -> None:
        check_launcher(spec)
        prepare(spec.placement.tracking())
        state = run.state()
        if state.get("status") == "finished":
            console.print(f"{path} has finished already ({spec.total_steps} steps)", soft_wrap=True)
        if state.get("status") == "failed":
            console.print(f"it failed: {state.get('error')}", markup=False, soft_wrap=True)
            console.print(
                f"going on from step {state.get('step', 0)} with the same settings; for others, train --fork",
                soft_wrap=True,
            )
        run_training(spec, run, loop)

    if group is not None and run.state().get("status") != "finished":
        group.train(spec, lead)
    elif group is None or group.rank == 0:
        lead(None)  # of a run that has finished the data may be gone


def prepare(tracking_uri: str) -> None:
    """Prepare the store; where its server is away, say so and let interrupted work go on."""
    from understudy import tracking
    from understudy.errors import StoreAway

    try:
        tracking.prepare(tracking_uri)
    except StoreAway as error:
        console.print(f"{error}; going on, `understudy sync` sends what is missing", markup=False, soft_wrap=True)


def extend_sweep(
    sweep: SweepDir, add_steps: int, add_trials: int, retry_failed: bool, change_space: Sequence[str]
) -> None:
    """Change what a sweep still has to do, before it goes on."""
    from understudy.errors import SpecError
    from understudy.spec.compose import parse, split_sweeps
    from understudy.sweeping import extending

    for option, count in (("--add-steps", add_steps), ("--add-trials", add_trials)):
        if count < 0:  # before any of them is done
            raise SpecError(f"{option} {count}: must be at least 1")
    if change_space:
        plain, sweeps = split_sweeps(parse(list(change_space)))
        if plain:
            raise SpecError(f"--change-space {change_space[0]}: give values to search, like lr=interval(1e-5,1e-3)")
        extending.change_space(sweep, sweeps)
    if add_trials:
        extending.add_trials(sweep, add_trials)
    if add_steps:
        extending.add_steps(sweep, add_steps)
    if retry_failed:
        numbers = extending.retry_failed(sweep)
        console.print(f"failed trials to try once more: {', '.join(map(str, numbers)) or 'none'}")
