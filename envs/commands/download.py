"""`understudy data download`: fetch a published dataset and import it."""

from __future__ import annotations

import shutil
from pathlib import Path

import typer

from understudy.cli.output import console, progress_bar
from understudy.envs.commands.options import DataDir, data_folder, interruptible, show_store
from understudy.errors import DatasetError


def download(
    name: str = typer.Argument(..., help="the dataset's published name"),
    url: str = typer.Option("", "--url", help="fetch it from here instead of where it is published"),
    sha256: str = typer.Option("", "--sha256", help="what the file's SHA-256 must be; default the published one"),
    data_dir: DataDir = "",
    keep_file: bool = typer.Option(
        True, "--keep_file/--no-keep_file", help="leave the fetched file in the data folder's raw/ sub-folder"
    ),
    overwrite: bool = typer.Option(False, "--overwrite", help="fetch and import it anew"),
) -> None:
    """Fetch a published dataset and import it. A broken or killed download goes on when the command is given again."""
    from understudy.envs.files.downloads import Remote
    from understudy.envs.sources.source import task_of
    from understudy.envs.store.finding import store_path
    from understudy.envs.store.transfer import ImportOptions, import_file

    folder = data_folder(data_dir)
    task = task_of(name)
    if store_path(name, folder).exists() and not overwrite:
        console.print(f"{name} is in {folder} already; --overwrite fetches it again", soft_wrap=True)
        return
    published = task.remote  # None where a source has a client of its own
    given = url or (published.url if published and (sha256 or overwrite) else "")
    with interruptible("what has arrived"), progress_bar("download", "bytes") as show:

        def progress(done: int, total: int) -> None:
            show(done, total, "")

        if given:
            remote = Remote(given, sha256 or (published.sha256 if published and not url else None))
            path = task.fetch_file(folder / "raw", progress, remote=remote, overwrite=overwrite)
        else:
            path = task.download(folder / "raw", progress)
    with progress_bar("import", "episodes") as bar:
        options = ImportOptions(overwrite=overwrite)
        try:
            store = import_file(task, path, folder, options, lambda n, m: bar(n, n, f"{m} transitions"))
        except DatasetError as error:
            raise _set_aside(error, path) from error
    if not keep_file:
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    show_store(store)


def _set_aside(error: DatasetError, path: Path) -> DatasetError:
    """Rename a fetched file that cannot be read, so that the next download asks for it again; return what to say."""
    if not path.is_file():
        return error
    aside = path.with_name(f"{path.name}.refused")
    path.replace(aside)
    return DatasetError(f"{error}; it is {aside.name} now, and the same command fetches it anew")
