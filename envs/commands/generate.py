"""`understudy data generate`: demonstrations by a scripted expert or a trained policy."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from understudy.cli.output import console, progress_bar
from understudy.envs.commands.options import (
    MOST_PROCESSES,
    DataDir,
    ImageEncoding,
    JpegQuality,
    data_folder,
    interruptible,
    pairs,
    show_store,
)
from understudy.errors import UserError

if TYPE_CHECKING:
    from understudy.envs.experts.demonstrations import Demonstrations
    from understudy.envs.sources.task import Task
    from understudy.envs.store.transfer import ImportOptions


def generate(
    env: Annotated[str, typer.Argument(metavar="ENV", help="a dataset's name: its task is played")],
    episodes: Annotated[int, typer.Option("--episodes", max=10_000_000, help="episodes to keep")] = 100,
    policy: Annotated[
        str,
        typer.Option(
            "--policy", help="scripted, or a model: run directory, policy folder, .pt file, models:/NAME@ALIAS"
        ),
    ] = "scripted",
    member: Annotated[int, typer.Option("--member", help="which of the model's seeds acts")] = 0,
    seed: Annotated[int, typer.Option("--seed", help="of the first attempt")] = 0,
    noise: Annotated[
        float | None,
        typer.Option(
            "--noise",
            help="std of the noise on executed actions (clean ones are recorded); default 0.2 scripted, 0 for a model",
        ),
    ] = None,
    keep: Annotated[
        str, typer.Option("--keep", help="successful or all attempts; default successful, where the task tells it")
    ] = "",
    workers: Annotated[
        int, typer.Option("--workers", min=0, max=MOST_PROCESSES, help="processes; default one for each CPU")
    ] = 0,
    formats: Annotated[
        list[str] | None,
        typer.Option("--format", help="write the episodes in this format too (repeatable): FORMATS"),
    ] = None,
    rendering: Annotated[
        list[str] | None,
        typer.Option(
            "--rendering",
            metavar="OPTION=VALUE",
            help="how pictures are made (repeatable), such as shadows=true, height=84, cameras=wrist",
        ),
    ] = None,
    name: Annotated[
        str, typer.Option("--name", help="name to keep it under; default ENV with the type scripted or policy")
    ] = "",
    data_dir: DataDir = "",
    image_encoding: ImageEncoding = "raw",
    jpeg_quality: JpegQuality = 95,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="replace a dataset of that name")] = False,
    tracking_uri: Annotated[str, typer.Option("--tracking_uri", help="store that models:/ addresses are in")] = "",
) -> None:
    """Make demonstrations in a simulator and import them.

    A killed command goes on where it was when it is given again. The file in the environment's own format, and those
    of the other formats, are kept in the data folder's raw/ sub-folder. An environment of one's own (module:Class) has
    none; its scripted expert is what its class's `expert()` returns.
    """
    from understudy.envs.experts.demonstrations import Demonstrations
    from understudy.envs.store.columns import PictureEncoding
    from understudy.envs.store.transfer import ImportOptions

    wanted = Demonstrations(
        env,
        episodes,
        policy=policy,
        member=member,
        seed=seed,
        noise=noise,
        keep=keep or None,
        rendering=pairs("--rendering", rendering or [], "shadows=true"),
        tracking_uri=tracking_uri or None,
    )
    options = ImportOptions(name=name, overwrite=overwrite, pictures=PictureEncoding(image_encoding, jpeg_quality))
    make_dataset(wanted, data_folder(data_dir), options, formats or [], workers)


def make_dataset(
    wanted: Demonstrations, folder: Path, options: ImportOptions, formats: Sequence[str] = (), workers: int = 0
) -> None:
    """Make demonstrations with so many processes (0: one for each CPU), import them into `folder` and say so."""
    from understudy.envs.experts.generate import OutputFiles, generate, remove_attempts
    from understudy.envs.files.processes import available_cpus
    from understudy.envs.sources.source import task_of
    from understudy.envs.store.finding import store_path
    from understudy.envs.store.store import EpisodeStore
    from understudy.envs.store.transfer import import_file

    task = task_of(wanted.made_name)
    if not options.name and task.env_name == wanted.env_name and wanted.policy != "scripted" and task.is_published:
        raise UserError(f"{wanted.env_name} is the name of published data; give --name for what is made here")
    name = options.name or task.env_name
    target = store_path(name, folder)
    if target.exists() and not options.overwrite:
        console.print(f"{name} is in {folder} already; --overwrite makes it again", soft_wrap=True)
        return
    stored = partial(_keep, task, target, name, options)
    files = OutputFiles(
        folder / "raw" / f"{target.name}{task.source.suffix}",
        formats,
        attempts_dir=folder / ".generating" / target.name,
        overwrite=options.overwrite,
        keep=stored,
    )
    with interruptible("what is finished"), progress_bar("demonstrations", "episodes") as bar:
        made = generate(
            wanted,
            files,
            workers=workers or available_cpus(),
            progress=lambda kept, attempts: bar(kept, wanted.episodes, f"{attempts - kept} failed"),
            on_pictures=lambda done, total: bar(done, total, "have their pictures"),
        )
    if task.source.can_write:
        store = import_file(task, made.path, folder, replace(options, made_by=made.made_by))
    else:
        store = EpisodeStore.open(target)
    remove_attempts(files.attempts)
    show_store(store)
    for path in made.extra:
        console.print(f"also in {path}", soft_wrap=True)


def _keep(
    task: Task, target: Path, name: str, options: ImportOptions, episodes: Iterator[Any], about: Mapping[str, Any]
) -> None:
    """Write demonstrations of a task without a file format as a store."""
    from understudy.envs.store.writer import StoreWriter

    provenance = {key: value for key, value in about.items() if value}
    with StoreWriter(
        target,
        name=name,
        source=task.source.name,
        env_id=task.env_id,
        provenance=provenance,
        overwrite=options.overwrite,
        pictures=options.pictures,
    ) as writer:
        for episode in episodes:
            writer.add_episode(episode)
