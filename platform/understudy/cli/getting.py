"""How data come here: `understudy data generate` and `understudy data download`."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from understudy.cli.output import console, progress_bar

if TYPE_CHECKING:
    from understudy.envs.store import EpisodeStore

DataDir = Annotated[
    str,
    typer.Option("--data_dir", help="folder of episode stores; default $UNDERSTUDY_HOME/datasets", show_default=False),
]
ImageEncoding = Annotated[
    str,
    typer.Option("--image_encoding", "--image-encoding", help="keep pictures raw (fast) or as jpeg (small)"),
]
JpegQuality = Annotated[
    int, typer.Option("--jpeg_quality", "--jpeg-quality", help="of --image_encoding jpeg, 1 to 100")
]


def data_folder(data_dir: str) -> Path:
    """Return the folder of episode stores."""
    from understudy.spec import home

    return Path(data_dir).expanduser() if data_dir else home() / "datasets"


def show_store(store: EpisodeStore) -> None:
    """Print a store's counts and place."""
    manifest = store.manifest
    console.print(
        f"{manifest.name}: {manifest.num_episodes} episodes, {manifest.num_transitions} transitions,"
        f" hash {manifest.content_hash[:12]}, in {store.path}",
        soft_wrap=True,
    )


@contextmanager
def interruptible(kept: str) -> Iterator[None]:
    """Let Ctrl-C say what is kept."""
    from understudy.errors import UnderstudyError

    try:
        yield
    except KeyboardInterrupt:
        error = UnderstudyError(f"interrupted; {kept} is kept, the same command goes on")
        error.exit_code = 130
        raise error from None


def _pairs(words: list[str]) -> dict[str, str]:
    """Return OPTION=VALUE words as a dictionary."""
    from understudy.errors import UserError

    for word in words:
        if "=" not in word:
            raise UserError(f"--rendering {word}: must be OPTION=VALUE, such as shadows=true")
    return {name: value for name, _, value in (word.partition("=") for word in words)}


def generate(
    env: Annotated[str, typer.Argument(metavar="ENV", help="a dataset's name: its task is played")],
    episodes: Annotated[int, typer.Option("--episodes", help="episodes to keep")] = 100,
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
    workers: Annotated[int, typer.Option("--workers", help="processes; default one for each CPU")] = 0,
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
    of the other formats, are kept in the data folder's raw/ sub-folder.
    """
    from understudy.envs.experts import POLICY, made_name, remove_attempts
    from understudy.envs.experts import generate as make
    from understudy.envs.importing import import_file
    from understudy.envs.slots import available_cpus
    from understudy.envs.source import source_for
    from understudy.envs.store import store_path
    from understudy.envs.writing import check_image_encoding
    from understudy.errors import UserError

    folder = data_folder(data_dir)
    source = source_for(env)
    check_image_encoding(image_encoding, jpeg_quality)
    env_name = made_name(env, "scripted" if policy == "scripted" else POLICY)
    if not name and env_name == env and policy != "scripted" and source.is_published(env):
        raise UserError(f"{env} is the name of published data; give --name for what is made here")
    name = name or env_name
    target = store_path(name, folder)
    if target.exists() and not overwrite:
        console.print(f"{name} is in {folder} already; --overwrite makes it again", soft_wrap=True)
        return
    attempts_dir = folder / ".generating" / target.name
    with interruptible("what is finished"), progress_bar("demonstrations", "episodes") as bar:
        made = make(
            env,
            episodes,
            out_path=folder / "raw" / f"{target.name}{source.suffix}",
            policy=policy,
            member=member,
            seed=seed,
            noise=noise,
            keep=keep or None,  # type: ignore[arg-type]  (checked there)
            workers=workers or available_cpus(),
            formats=formats or (),
            rendering=_pairs(rendering or []),
            attempts_dir=attempts_dir,
            overwrite=overwrite,
            tracking_uri=tracking_uri or None,
            progress=lambda kept, attempts: bar(kept, episodes, f"{attempts - kept} failed"),
            on_pictures=lambda done, total: bar(done, total, "have their pictures"),
        )
    store = import_file(
        source.name,
        made.path,
        made.env_name,
        folder,
        name=name,
        overwrite=overwrite,
        made_by=made.made_by,
        image_encoding=image_encoding,
        jpeg_quality=jpeg_quality,
    )
    remove_attempts(attempts_dir)
    show_store(store)
    for path in made.extra:
        console.print(f"also in {path}", soft_wrap=True)


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
    from understudy.envs.downloads import fetch_published
    from understudy.envs.importing import import_file
    from understudy.envs.source import Remote, source_for
    from understudy.envs.store import store_path

    folder = data_folder(data_dir)
    source = source_for(name)
    if store_path(name, folder).exists() and not overwrite:
        console.print(f"{name} is in {folder} already; --overwrite fetches it again", soft_wrap=True)
        return
    published = source.remote(name)  # None where a source has a client of its own
    given = url or (published.url if published and (sha256 or overwrite) else "")
    with interruptible("what has arrived"), progress_bar("download", "bytes") as show:

        def progress(done: int, total: int) -> None:
            show(done, total, "")

        if given:
            remote = Remote(given, sha256 or (published.sha256 if published and not url else None))
            path = fetch_published(source, name, folder / "raw", progress, remote=remote, overwrite=overwrite)
        else:
            path = source.download(name, folder / "raw", progress)
    with progress_bar("import", "episodes") as bar:
        store = import_file(
            source.name, path, name, folder, overwrite=overwrite, progress=lambda n, m: bar(n, n, f"{m} transitions")
        )
    if not keep_file:
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    show_store(store)
