"""`understudy compare`, and sweeps of several methods or tasks: the cells of a matrix, and their comparison."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING

import typer

from understudy.cli.completion import KeyCommand
from understudy.cli.output import OVERRIDES, console, show_table
from understudy.cli.pipeline import start_pipeline
from understudy.cli.showing import show_keys
from understudy.cli.stages import under_way
from understudy.cli.train import read_run, run_training

if TYPE_CHECKING:
    from collections.abc import Sequence

    from understudy.matrix.cells import Cell, Kind, MatrixDir
    from understudy.runs.stop import Notice
    from understudy.spec.run import RunSpec
    from understudy.sweeping.sweep_spec import SweepSpec
    from understudy.tracking import Tracked

EXAMPLES = """\
Train several methods on several tasks, with the same seeds, and compare them.

  understudy compare algo=bc,flow_bc env_name=hopper-medium-v2,walker2d-medium-v2 seeds=[0,1,2] training_steps=100000
  understudy compare algo=bc,flow_bc env_name=A,B bc.policy=mse lr=3e-4 seeds=[0,1,2]
  understudy sweep algo=bc,flow_bc env_name=A,B num_trials=20 seeds=[0,1,2]     # the same, each cell tuned first
  understudy compare --env Pendulum-v1 --expert-frames 50000 --ipmd-frames 50000 --bc-epochs 50 seeds=[0,1,2]

Every cell is a run of its own; what a method does not take (flow_steps of bc) is left out of its cells, and
METHOD.KEY=VALUE is for one method alone. On each task methods are compared on the same start states; over tasks by
interquartile mean and chance of improvement. The last command is a pipeline: it trains an expert (sac), collects its
demonstrations, trains ipmd and bc on them, and compares all; given again, it goes on where it was.
`understudy resume` goes on with a matrix where it was left."""


TAKES = "compare takes one value a key, but for algo and env_name"
CONFIG_DIR = typer.Option(None, "--config-dir", help="folder with your own Hydra groups")
LATEX, PICTURE = "comparison.tex", "comparison.png"
INTERVALS = "Intervals: 95 %, over seeds and start states."
ALONE: dict[Kind, str] = {"sweep": "sweep", "compare": "train"}
"""The command that each cell alone would be."""


def add_to(app: typer.Typer) -> None:
    """Register the command."""
    app.command(
        cls=KeyCommand, context_settings=OVERRIDES, short_help="Train methods x tasks x seeds and compare them."
    )(compare)


def compare(
    context: typer.Context,
    cfg: bool = typer.Option(False, "--cfg", help="check every cell, print them as commands, and stop"),
    config_dir: str | None = CONFIG_DIR,
    help_: bool = typer.Option(False, "--help", help="show every key"),
) -> None:
    """Train several methods on several tasks and compare them."""
    if help_:
        from understudy.matrix.pipeline import PipelineOptions

        return show_keys(EXAMPLES, [word for word in context.args if "," not in word], PipelineOptions)
    from understudy.matrix.pipeline import is_pipeline

    if is_pipeline(context.args):
        return start_pipeline(context.args, config_dir, cfg=cfg)
    start_matrix(context.args, "compare", config_dir, cfg=cfg)
    return None


def start_matrix(
    words: Sequence[str], kind: Kind, config_dir: str | None = None, *, cfg: bool = False
) -> MatrixDir | None:
    """Check every cell that the words describe, then make the matrix's folder, do all of them and return it.

    With `cfg` print the cells, stop and return None.
    """
    from understudy.matrix.cells import cells_of, check_cells

    cells = cells_of(words, kind, config_dir)
    check_cells(cells)
    return run_matrix(cells, kind, config_dir, cfg=cfg)


def run_matrix(
    cells: Sequence[Cell], kind: Kind, config_dir: str | None = None, *, cfg: bool = False, published: str = ""
) -> MatrixDir | None:
    """Check these cells, then make the matrix's folder, do all of them and return it; with `cfg` print them alone.

    `published` names the results that ours are shown beside.
    """
    from understudy.cli.sweep import read_sweep
    from understudy.matrix.cells import MatrixDir
    from understudy.runs.directory import RunDir, new_folder
    from understudy.runs.loop import make_loop
    from understudy.runs.on_ray import check_launcher
    from understudy.sweeping.directory import SweepDir
    from understudy.sweeping.run import check_sweep

    sweeps = [read_sweep(list(cell.words), config_dir) for cell in cells] if kind == "sweep" else []
    runs = [read_run(list(cell.words), config_dir, TAKES) for cell in cells] if kind == "compare" else []
    if cfg:
        for cell in cells:  # as commands: with --cfg, each prints all its keys
            print(shlex.join(["understudy", ALONE[kind], *cell.words]))
        return None
    for spec in sweeps:
        check_sweep(spec)
    for run in runs:
        make_loop(run)
        check_launcher(run)
    first = (sweeps[0].base if sweeps else runs[0]).folder
    with new_folder(first.parent, "matrix") as folder:
        matrix = MatrixDir.create(folder, kind, cells, published)
        for cell, sweep in zip(cells, sweeps, strict=False):
            SweepDir.at(matrix.folder(cell), sweep)
        for cell, run in zip(cells, runs, strict=False):
            RunDir.at(matrix.folder(cell), run)
    drive_matrix(matrix)
    return matrix


def drive_matrix(matrix: MatrixDir) -> None:
    """Do what is left of a matrix and print the comparison; Stopped, naming the matrix, by SIGTERM and Ctrl-C."""
    from understudy.sweeping.sweep_spec import SweepSpec

    console.print(f"matrix: {matrix.path}", soft_wrap=True)
    cells = matrix.cells()
    specs = _specs(matrix, cells)
    first = specs[0].base if isinstance(specs[0], SweepSpec) else specs[0]
    kind = f"matrix of {matrix.kind}s" if matrix.kind == "sweep" else "comparison"
    with under_way(matrix, first, kind) as (parent, notice):
        for place, cell in enumerate(cells):
            notice.check()
            console.print(f"\n{place + 1}/{len(cells)}: {cell.method} on {cell.task}", soft_wrap=True)
            _do(matrix, cell, parent)
        notice.check()
        show_comparison(matrix, parent, notice)
    if matrix.published:
        from understudy.cli.published import show_published

        show_published(matrix, matrix.published)


def _specs(matrix: MatrixDir, cells: Sequence[Cell]) -> list[RunSpec | SweepSpec]:
    from understudy.runs.directory import RunDir
    from understudy.sweeping.directory import SweepDir

    if matrix.kind == "sweep":
        return [SweepDir(matrix.folder(cell)).spec() for cell in cells]
    return [RunDir(matrix.folder(cell)).spec() for cell in cells]


def _do(matrix: MatrixDir, cell: Cell, parent: Tracked) -> None:
    """Do one cell, unless it is done."""
    from understudy.cli.sweep import drive
    from understudy.matrix.comparison import result_of
    from understudy.runs.directory import RunDir
    from understudy.runs.ended import check_ended
    from understudy.sweeping.directory import SweepDir
    from understudy.sweeping.unchanged import check_kept

    folder = matrix.folder(cell)
    if RunDir(folder).state().get("status") == "finished" and result_of(matrix, cell) is not None:
        if matrix.kind == "sweep":
            check_kept(folder)
        else:
            check_ended(RunDir(folder))
        console.print("done already")
        return
    if parent.run_id:
        RunDir(folder).update_state(parent_run_id=parent.run_id)
    if matrix.kind == "sweep":
        drive(SweepDir(folder))
    else:
        run = RunDir(folder)
        run_training(run.spec(), run, parent_run_id=parent.run_id)


def show_comparison(matrix: MatrixDir, parent: Tracked, notice: Notice) -> None:
    """Print and keep the comparison of all cells; Stopped, where the notice is given, before MLflow has it."""
    from understudy.matrix.chart import draw_matrix
    from understudy.matrix.comparison import RECORD, TABLE, lines_of, result_of, table_rows, write_comparison
    from understudy.matrix.latex import write_latex
    from understudy.sweeping.format import markdown_table
    from understudy.tracking.recording import NOTE_TAG

    cells = matrix.cells()
    found = [result for cell in cells if (result := result_of(matrix, cell)) is not None]
    comparison, budget = write_comparison(matrix, found), _budget(matrix, cells)
    write_latex(matrix.path / LATEX, found, comparison, f"{_first_upper(budget)}. {INTERVALS}")
    draw_matrix(matrix.path / PICTURE, found, f"{_first_upper(budget)}.\n{INTERVALS} Dots: the seeds.")
    notice.check()
    console.print()
    show_table(*table_rows(found))
    console.print(budget, soft_wrap=True)
    words = [f"- {line}" for line in lines_of(comparison)]
    for line in lines_of(comparison):
        console.print(line, soft_wrap=True)
    for name in (TABLE, LATEX, PICTURE):
        console.print(str(matrix.path / name), soft_wrap=True)
    parent.log_files(*(matrix.path / name for name in (RECORD, TABLE, LATEX, PICTURE, "matrix.json")))
    parent.set_tags({NOTE_TAG: "\n".join([*markdown_table(*table_rows(found)), "", budget, "", *words])})
    parent.close("FINISHED")


def _first_upper(text: str) -> str:
    return text[:1].upper() + text[1:]


def _budget(matrix: MatrixDir, cells: Sequence[Cell]) -> str:
    """Return what each cell was given, and that it was the same, or not."""
    from understudy.sweeping.sweep_spec import SweepSpec

    given: dict[str, list[str]] = {}
    for cell, spec in zip(cells, _specs(matrix, cells), strict=True):
        base = spec.base if isinstance(spec, SweepSpec) else spec
        text = f"{len(base.all_seeds)} seeds x {base.total_steps} steps"
        if isinstance(spec, SweepSpec):
            text = f"{spec.options.num_trials} configurations x {text}"
        given.setdefault(text, []).append(f"{cell.method} on {cell.task}")
    if len(given) == 1:
        how = "each tuned with the same budget" if matrix.kind == "sweep" else "each with its values as given"
        return f"{how}: {next(iter(given))}; not chosen by these episodes"
    return "budgets differ: " + "; ".join(f"{text} ({', '.join(names)})" for text, names in given.items())
