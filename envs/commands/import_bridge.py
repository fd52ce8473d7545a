"""`understudy data import bridge-raw`: options of its own, for a raw tree is a project and not a file."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from understudy.cli.output import HELP_WIDTH, console, examples, progress_bar
from understudy.envs.commands.options import (
    MOST_PROCESSES,
    DataDir,
    ImageEncoding,
    JpegQuality,
    data_folder,
    interruptible,
    show_store,
)
from understudy.errors import UserError
from understudy.files import user_path

if TYPE_CHECKING:
    from understudy.envs.sources.bridge.raw import ImportReport

RAW_TREES = ("bridge-raw", "bridge_raw")
SHOWN = 20
"""Left-out trajectories that are listed; the manifest has all of them."""


def bridge_raw(
    root: Path | None = typer.Argument(
        None, help="the tree: [institution/[kitchen/[task/[NN/]]]]<date_time>/raw/traj_group*"
    ),
    input_path: Path | None = typer.Option(None, "--input-path", "--input_path", help="ROOT, as upstream calls it"),
    depth: int = typer.Option(5, "--depth", help="levels from ROOT to the dated folders; 5 from all of it"),
    train_proportion: float = typer.Option(
        0.9, "--train-proportion", "--train_proportion", help="share of each dated folder's trajectories to train on"
    ),
    seed: int = typer.Option(0, "--seed", help="of the split into training and validation"),
    num_workers: int = typer.Option(
        0, "--num-workers", "--num_workers", min=0, max=MOST_PROCESSES, help="processes; default one for each CPU"
    ),
    im_size: int = typer.Option(128, "--im-size", "--im_size", min=8, max=4096, help="height and width of pictures"),
    saliency: bool = typer.Option(False, "--saliency", help="read saliency_map.pkl; those without it are left out"),
    cameras: str = typer.Option("", "--cameras", help="like images0,images1; default those that every trajectory has"),
    relabel_actions: bool = typer.Option(
        False, "--relabel-actions", "--relabel_actions", help="actions become the movements that followed"
    ),
    exact: bool = typer.Option(False, "--exact", help="resize with Pillow, bit for bit as upstream; slower"),
    output_path: Path | None = typer.Option(
        None, "--output-path", "--output_path", help="write <task>/{train,val}/out.npy there too"
    ),
    name: str = typer.Option("", "--name", help="one store of this name for all tasks; default one for each"),
    image_encoding: ImageEncoding = "raw",
    jpeg_quality: JpegQuality = 95,
    data_dir: DataDir = "",
    overwrite: bool = typer.Option(False, "--overwrite", help="replace datasets and files that are there"),
) -> None:
    """Import a raw BridgeData tree: a dataset bridge:<task> for each task, with filter keys train and valid.

    Trajectories that cannot be used are left out and named. A killed import goes on when it is given again.
    """
    from understudy.envs.files.processes import available_cpus
    from understudy.envs.sources.bridge.raw import RawImport, import_raw
    from understudy.envs.sources.bridge.trajectory import Reading
    from understudy.envs.store.columns import PictureEncoding
    from understudy.envs.store.finding import find_store

    if (root is None) == (input_path is None):
        raise UserError("give the tree once: understudy data import bridge-raw ROOT (or --input_path ROOT)")
    folder = data_folder(data_dir)
    job = RawImport(
        user_path(root or input_path or ""),
        folder,
        depth=depth,
        train_proportion=train_proportion,
        seed=seed,
        reading=Reading(im_size=im_size, saliency=saliency, relabel_actions=relabel_actions, exact=exact),
        cameras=tuple(cameras.split(",")) if cameras else None,
        name=name,
        output_path=user_path(output_path) if output_path is not None else None,
        num_workers=num_workers or available_cpus(),
        overwrite=overwrite,
        pictures=PictureEncoding(image_encoding, jpeg_quality),
    )
    with interruptible("what is finished"), progress_bar("import", "trajectories") as bar:
        report = import_raw(job, bar)
    _show(report)
    for made in report.stores:
        show_store(find_store(made, folder))
    if report.empty:
        _raise_empty(report)


def _show(report: ImportReport) -> None:
    for path, reason in report.skipped[:SHOWN]:
        console.print(f"left out: {path}: {reason}", markup=False, soft_wrap=True)
    if len(report.skipped) > SHOWN:
        rest = len(report.skipped) - SHOWN
        console.print(f"left out: {rest} more, all of them in manifest.json of each dataset (provenance: skipped)")
    for camera, count in report.without.items():
        console.print(f"camera {camera} is left out: {count} trajectories lack it; --cameras asks for it")
    for kept in report.already:
        console.print(f"{kept} is complete already; --overwrite imports it again", soft_wrap=True)
    for path in report.files:
        console.print(f"also in {path}", soft_wrap=True)


def _raise_empty(report: ImportReport) -> None:
    """Raise DatasetError for the datasets of which nothing was left."""
    from understudy.errors import DatasetError

    raise DatasetError(
        f"{', '.join(report.empty[:3])}: every trajectory was left out, nothing is written ({len(report.empty)} in all)"
    )


def bridge_raw_command() -> Any:
    """Return the command."""
    app = typer.Typer(rich_markup_mode=None, add_completion=False, context_settings=HELP_WIDTH)
    app.command(
        epilog=examples(
            "understudy data import bridge-raw ~/bridgedata_raw --depth 5 --im-size 128",
            "understudy data import bridge-raw bdv2 --depth 2 --train_proportion 0.99 --im_size 256 --saliency",
            "understudy data import bridge-raw bdv2/rss --depth 4 --name all --output-path bdv2_numpy",
        )
    )(bridge_raw)
    return typer.main.get_command(app)
