"""`understudy data`: list, info, import, export, download, generate, verify."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer
from typer.core import TyperCommand

from understudy.cli.output import console, examples, progress_bar, show_table
from understudy.envs.commands.download import download
from understudy.envs.commands.generate import generate
from understudy.envs.commands.import_bridge import RAW_TREES, bridge_raw_command
from understudy.envs.commands.options import DataDir, ImageEncoding, JpegQuality, data_folder, pairs, show_store
from understudy.files import user_path
from understudy.registry import commands

if TYPE_CHECKING:
    from understudy.envs.sources.source import Source
    from understudy.envs.sources.task import Task

data = typer.Typer(help="Datasets: list, look into, import, export, download, generate, verify.", no_args_is_help=True)
NAME = typer.Argument(..., help="the dataset's name, as `understudy data list` shows it")


class FormatsHelp(TyperCommand):
    """Put the formats that are registered in place of FORMATS, when help is asked for and not before."""

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Write the help text."""
        from understudy.registry import sources

        for parameter in self.params:
            text = getattr(parameter, "help", None)
            if text:
                setattr(parameter, "help", text.replace("FORMATS", ", ".join(sources.names())))  # noqa: B010
        super().format_help(ctx, formatter)


class ImportCommand(FormatsHelp):
    """`data import`, which hands raw trees to a command of their own: they have options that no file has."""

    def make_context(self, info_name: str | None, args: list[str], parent: Any = None, **extra: Any) -> Any:
        """Parse the words."""
        if args and args[0] in RAW_TREES:
            return bridge_raw_command().make_context(f"{info_name} {args[0]}", args[1:], parent, **extra)
        return super().make_context(info_name, args, parent, **extra)


@commands.register("data")
def add_to(app: typer.Typer) -> None:
    """Register the command group."""
    app.add_typer(data, name="data")


@data.command("list")
def list_(data_dir: DataDir = "") -> None:
    """List the datasets that training finds by name."""
    from understudy.envs.store.finding import read_stores
    from understudy.errors import DatasetError

    folder = data_folder(data_dir)
    found = read_stores(folder)
    for item in found:
        if isinstance(item, DatasetError):
            console.print(f"left out: {item}", markup=False, soft_wrap=True)
    stores = [item for item in found if not isinstance(item, DatasetError)]
    if not found:
        console.print(
            f"no datasets in {folder}; `understudy data import --help` shows how to bring one in", soft_wrap=True
        )
        return
    rows = [
        (item.name, item.source, item.num_episodes, item.num_transitions, item.content_hash[:12]) for item in stores
    ]
    if rows:
        show_table(("name", "source", "episodes", "transitions", "hash"), rows)


@data.command()
def info(
    name: str = NAME,
    data_dir: DataDir = "",
    pictures: Path | None = typer.Option(None, "--pictures", help="save a strip of each camera's frames as this PNG"),
) -> None:
    """Show a dataset's counts, lengths, ranges and histograms."""
    from understudy.envs.sources.getting import find_dataset
    from understudy.envs.sources.opening import bring_up_to_date
    from understudy.envs.sources.source import task_of
    from understudy.envs.store.inspection import describe_store
    from understudy.envs.store.picture_strips import save_strip
    from understudy.errors import UserError

    with suppress(UserError):  # a name of one's own, or files that are gone: what was imported is shown
        task = task_of(name)
        if (files := task.local()) is not None:
            bring_up_to_date(task, files, data_folder(data_dir))
    store = find_dataset(name, data_folder(data_dir))
    console.print(describe_store(store))
    if pictures:
        console.print(f"pictures: {save_strip(store, pictures)}", soft_wrap=True)


@data.command(
    "import",
    cls=ImportCommand,
    epilog=examples(
        "understudy data import d4rl ~/.d4rl/datasets/halfcheetah_medium-v2.hdf5 --name halfcheetah-medium-v2",
        "understudy data import robomimic lift/mh/low_dim_v15.hdf5 --name lift-mh-low_dim",
        "understudy data import ogbench mine.npz --name my-cubes --env_name cube-single-play-singletask-task1-v0",
        "understudy data import bridge bdv2_numpy/lift_carrot_100 --name bridge:lift_carrot_100 --relabel_actions",
        "understudy data import hdf5 demos.hdf5 --name my-reach --env my_module:MyEnv --obs joints,front",
        "understudy data import zarr pusht_cchi_v7_replay.zarr --name pusht --obs state --action action",
        "understudy data import bridge-raw --help",
    ),
)
def import_(
    source: str = typer.Argument(..., help="format: FORMATS; bridge-raw for raw trees, with options of its own"),
    path: Path = typer.Argument(..., help="the file (or folder) in that format"),
    name: str = typer.Option("", "--name", help="name to keep it under; default: the file's own"),
    env_name: str = typer.Option(
        "", "--env_name", help="published name that says which task it is of; default: --name"
    ),
    data_dir: DataDir = "",
    image_encoding: ImageEncoding = "raw",
    jpeg_quality: JpegQuality = 95,
    overwrite: bool = typer.Option(False, "--overwrite", help="replace a dataset of that name"),
    relabel_actions: bool = typer.Option(
        False, "--relabel-actions", "--relabel_actions", help="BridgeData: actions become the movements that followed"
    ),
    tolerance_s: float | None = typer.Option(
        None, "--tolerance-s", "--tolerance_s", help="LeRobot: seconds a frame may be off its time; default 0.0001"
    ),
    as_: list[str] | None = typer.Option(
        None,
        "--as",
        metavar="COLUMN=WORDS",
        help="what a column is, where the file does not tell (repeatable): images/front=chw, observations=hwc,0..1,"
        " images/depth=0..4000, pixels=64x64x3, observations=state, extra=out",
    ),
    env: str = typer.Option("", "--env", help="environment to evaluate in: a gymnasium id, or module:Class of yours"),
    obs: str = typer.Option("", "--obs", help="arrays, hdf5, npz, zarr: what is observed, names by commas"),
    action: str = typer.Option("", "--action", help="the same: the actions; default actions or action"),
    reward: str = typer.Option("", "--reward", help="the same: the rewards; default rewards, else zeros"),
    terminal: str = typer.Option("", "--terminal", help="the same: flags of what ended for good; default terminals"),
    ends: str = typer.Option(
        "", "--ends", help="the same: flags of last rows, ends of episodes, or a number for each row; none: one episode"
    ),
) -> None:
    """Import a file into the episode store."""
    from understudy.envs.sources.bridge.relabelling import RELABELLED
    from understudy.envs.sources.own_env import environment_name
    from understudy.envs.sources.source import task_of
    from understudy.envs.store.columns import PictureEncoding
    from understudy.envs.store.transfer import ImportOptions, import_file
    from understudy.registry import sources

    format_, place = sources.get(source), user_path(path)
    arrays = {"obs": obs, "action": action, "reward": reward, "terminal": terminal, "ends": ends}
    options = ImportOptions(
        name=name,
        overwrite=overwrite,
        pictures=PictureEncoding(image_encoding, jpeg_quality),
        change=RELABELLED if relabel_actions else None,
        reading={
            **({} if tolerance_s is None else {"tolerance_s": tolerance_s}),
            **{key: value for key, value in arrays.items() if value},
        },
        asked=pairs("--as", as_ or [], "images/front=chw"),
    )
    parts = {} if name or env_name or not place.exists() else format_.parts(place)
    for published, part in parts.items() if len(parts) > 1 else [(env_name, place)]:
        task = _task_read(format_, published, name, part, env)
        if env:
            options = replace(options, environment=task_of(environment_name(task.env_name, env)))
        with progress_bar("import", "episodes") as bar:
            store = import_file(task, part, data_folder(data_dir), options, _counting(bar))
        show_store(store)


def _counting(bar: Callable[[int, int, str], None]) -> Callable[[int, int], None]:
    """Return a progress of an import, whose number of episodes is not known before its end."""
    return lambda episodes, transitions: bar(episodes, episodes, f"{transitions} transitions")


def _task_read(source: Source, env_name: str, name: str, path: Path, env: str) -> Task:
    """Return the task that says how a file is read; DatasetError for a name that its format needs and that is none."""
    from understudy.errors import DatasetError, did_you_mean

    published = env_name or name or source.name_of(path)
    task = source.parse(published) or source.own(published)
    if task is None and env and not env_name:  # how the format is read does not depend on the name
        task = source.parse(source.name_of(path))
    if task is not None:
        return task
    hint = "" if env_name else "; with --env_name, say which published dataset's task this is"
    own = "" if env_name else "; data of a task of your own: `understudy data import arrays FILE --name NAME --env ENV`"
    nearest = did_you_mean(published, source.known_names(), limit=5)
    raise DatasetError(f"{published!r} is not a name that {source.name} has published{nearest}{hint}{own}")


@data.command(short_help="Rehash a dataset and look for damage.")
def verify(name: str = NAME, data_dir: DataDir = "") -> None:
    """Rehash a dataset and look for NaN, wrong lengths, damaged pictures, constant dims and duplicates.

    Exits 1 when it is damaged.
    """
    from understudy.envs.sources.getting import find_dataset
    from understudy.envs.store.verification import findings

    store = find_dataset(name, data_folder(data_dir))
    damage, oddities = findings(store)
    for line in damage:
        console.print(f"DAMAGED: {line}", markup=False, soft_wrap=True)
    if damage:
        raise typer.Exit(1)
    for line in oddities:
        console.print(f"note: {line}", markup=False, soft_wrap=True)
    console.print(f"{name}: whole; hash {store.manifest.content_hash}")


data.command(
    short_help="Make demonstrations with a scripted expert or a trained policy.",
    cls=FormatsHelp,
    epilog=examples(
        "understudy data generate cube-single-scripted-singletask-task1-v0 --episodes 100 --workers 8",
        "understudy data generate lift-scripted-low_dim --format d4rl --format minari",
        "understudy data generate hopper-medium-v2 --policy models:/flow_bc@best --episodes 50",
    ),
)(generate)
data.command(
    short_help="Fetch a published dataset and import it.",
    epilog=examples(
        "understudy data download hopper-medium-v2",
        "understudy data download lift-mh-low_dim --data_dir /scratch/datasets --no-keep_file",
        "understudy data download pen-human-v1 --url https://mirror.example.org/pen-human-v1.hdf5 --sha256 1f2e...",
    ),
)(download)


@data.command(
    short_help="Write a dataset as a file of a format that other tools read.",
    cls=FormatsHelp,
    epilog=examples(
        "understudy data export cube-single-scripted-singletask-task1-v0 cubes.npz",
        "understudy data export hopper-medium-v2 ~/minari/hopper --format minari",
    ),
)
def export(
    name: str = NAME,
    file: str = typer.Argument(..., help="the file to write, or a folder for it; the folder, for formats that are one"),
    format_: str = typer.Option("", "--format", help="its format: FORMATS; default the one that the data came in"),
    fps: float | None = typer.Option(
        None, "--fps", help="frames a second, of --format lerobot; default the data's, or 10"
    ),
    pictures: str | None = typer.Option(
        None, "--pictures", help="of --format lerobot: av1, h264, or image, which loses nothing; default av1"
    ),
    data_dir: DataDir = "",
    overwrite: bool = typer.Option(False, "--overwrite", help="replace a file that is there"),
) -> None:
    """Write a dataset as a file of a source's format."""
    from understudy.envs.sources.getting import find_dataset
    from understudy.envs.store.transfer import export_store
    from understudy.errors import UserError

    store = find_dataset(name, data_folder(data_dir))
    total = store.manifest.num_episodes
    format_ = format_ or store.manifest.source
    settings = {key: value for key, value in (("fps", fps), ("pictures", pictures)) if value is not None}
    if settings and format_ != "lerobot":
        raise UserError(f"--{next(iter(settings))} is for --format lerobot, not {format_}")
    with progress_bar("export", "episodes") as bar:
        path = export_store(
            store,
            file,
            format_,
            settings=settings,
            overwrite=overwrite,
            progress=lambda episodes, transitions: bar(episodes, total, f"{transitions} transitions"),
        )
    console.print(f"{name}: {total} episodes in {path}", soft_wrap=True)
