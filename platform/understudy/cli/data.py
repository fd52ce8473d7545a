"""`understudy data`: list, info, import, verify, generate."""

from __future__ import annotations

from pathlib import Path

import typer

from understudy.cli.output import console, examples, progress_bar, show_table

data = typer.Typer(help="Datasets: list, look into, import, verify, generate.", no_args_is_help=True)
NAME = typer.Argument(..., help="the dataset's name, as `understudy data list` shows it")
DATA_DIR = typer.Option("", "--data_dir", help="folder of episode stores; default $UNDERSTUDY_HOME/datasets")


def add_to(app: typer.Typer) -> None:
    """Register the command group."""
    app.add_typer(data, name="data")


def _folder(data_dir: str) -> Path:
    from understudy.spec import home

    return Path(data_dir).expanduser() if data_dir else home() / "datasets"


@data.command("list")
def list_(data_dir: str = DATA_DIR) -> None:
    """List the datasets that training finds by name."""
    from understudy.envs.store import list_stores

    folder = _folder(data_dir)
    stores = list_stores(folder)
    if not stores:
        console.print(
            f"no datasets in {folder}; `understudy data import --help` shows how to bring one in", soft_wrap=True
        )
        return
    rows = [
        (item.name, item.source, item.num_episodes, item.num_transitions, item.content_hash[:12]) for item in stores
    ]
    show_table(("name", "source", "episodes", "transitions", "hash"), rows)


@data.command()
def info(name: str = NAME, data_dir: str = DATA_DIR) -> None:
    """Show a dataset's counts, lengths, ranges and histograms."""
    from understudy.envs.inspection import describe
    from understudy.envs.store import find_store

    console.print(describe(find_store(name, _folder(data_dir))))


@data.command(
    "import",
    epilog=examples(
        "understudy data import d4rl ~/.d4rl/datasets/halfcheetah_medium-v2.hdf5 --name halfcheetah-medium-v2",
        "understudy data import robomimic lift/mh/low_dim_v15.hdf5 --name lift-mh-low_dim",
        "understudy data import ogbench mine.npz --name my-cubes --env_name cube-single-play-singletask-task1-v0",
    ),
)
def import_(
    source: str = typer.Argument(..., help="format: d4rl, ogbench, robomimic"),
    path: Path = typer.Argument(..., help="the file in that format"),
    name: str = typer.Option("", "--name", help="name to keep it under; default: the file's own"),
    env_name: str = typer.Option(
        "", "--env_name", help="published name that says which task it is of; default: --name"
    ),
    data_dir: str = DATA_DIR,
    overwrite: bool = typer.Option(False, "--overwrite", help="replace a dataset of that name"),
) -> None:
    """Import a file into the episode store."""
    from understudy.envs.importing import import_file
    from understudy.errors import DatasetError, did_you_mean
    from understudy.registry import sources

    published = env_name or name or path.stem
    if not sources.get(source).matches(published):
        hint = "" if env_name else "; with --env_name, say which published dataset's task this is"
        nearest = did_you_mean(published, sources.get(source).known_names(), limit=5)
        raise DatasetError(f"{published!r} is not a name that {source} has published{nearest}{hint}")
    with progress_bar("import", "episodes") as bar:
        store = import_file(
            source,
            path,
            published,
            _folder(data_dir),
            name=name or published,
            overwrite=overwrite,
            progress=lambda episodes, transitions: bar(episodes, episodes, f"{transitions} transitions"),
        )
    _show_store(store)


@data.command(short_help="Rehash a dataset and look for damage.")
def verify(name: str = NAME, data_dir: str = DATA_DIR) -> None:
    """Rehash a dataset and look for NaN, wrong lengths, constant dims and duplicates; exit 1 when it is damaged."""
    from understudy.envs.inspection import damage, oddities
    from understudy.envs.store import find_store

    store = find_store(name, _folder(data_dir))
    found = damage(store)
    for line in found:
        console.print(f"DAMAGED: {line}", markup=False, soft_wrap=True)
    if found:
        raise typer.Exit(1)
    for line in oddities(store):
        console.print(f"note: {line}", markup=False, soft_wrap=True)
    console.print(f"{name}: whole; hash {store.manifest.content_hash}")


@data.command(short_help="Make demonstrations with a scripted expert.")
def generate(
    name: str = typer.Argument(..., help="dataset name, like cube-single-scripted-singletask-task1-v0"),
    episodes: int = typer.Option(100, "--episodes", help="successful episodes to keep"),
    seed: int = typer.Option(0, "--seed", help="seed of the first attempt"),
    noise: float = typer.Option(0.2, "--noise", help="std of the noise on executed actions (clean ones are recorded)"),
    workers: int = typer.Option(0, "--workers", help="processes; default one for each CPU"),
    data_dir: str = DATA_DIR,
    overwrite: bool = typer.Option(False, "--overwrite", help="replace a dataset of that name"),
) -> None:
    """Make demonstrations with a scripted expert in its simulator and import them.

    The file in the source's own format is kept in the data folder's raw/ sub-folder.
    """
    from understudy.envs.experts import generate as make
    from understudy.envs.importing import import_file
    from understudy.envs.slots import available_cpus

    folder = _folder(data_dir)
    if (folder / name).exists() and not overwrite:
        console.print(f"{name} is in {folder} already; --overwrite makes it again", soft_wrap=True)
        return
    with progress_bar("demonstrations", "episodes") as bar:
        made = make(
            name,
            episodes,
            out_path=folder / "raw" / f"{name}.npz",
            seed=seed,
            noise=noise,
            workers=workers or available_cpus(),
            progress=lambda kept, attempts: bar(kept, episodes, f"{attempts - kept} failed"),
        )
    _show_store(import_file("ogbench", made.path, name, folder, overwrite=overwrite))


def _show_store(store) -> None:
    manifest = store.manifest
    console.print(
        f"{manifest.name}: {manifest.num_episodes} episodes, {manifest.num_transitions} transitions,"
        f" hash {manifest.content_hash[:12]}, in {store.path}",
        soft_wrap=True,
    )
