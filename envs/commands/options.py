"""How data come here: `understudy data generate` and `understudy data download`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from understudy.cli.output import console
from understudy.files import user_path

if TYPE_CHECKING:
    from understudy.envs.store.store import EpisodeStore

MOST_PROCESSES = 256
"""That a command starts: each takes memory, and a machine has no more CPUs."""
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
    from understudy.files import home

    return user_path(data_dir) if data_dir else home() / "datasets"


def pairs(option: str, words: list[str], example: str) -> dict[str, str]:
    """Return the OPTION=VALUE words of an option that is given once for each as a dictionary."""
    from understudy.errors import UserError

    for word in words:
        if "=" not in word:
            raise UserError(f"{option} {word}: must be OPTION=VALUE, such as {example}")
    return {name: value for name, _, value in (word.partition("=") for word in words)}


def show_store(store: EpisodeStore) -> None:
    """Print what there is to know of how a store came to be, and then its counts and place."""
    from understudy.envs.store.inspection import notes_of

    manifest = store.manifest
    for note in notes_of(store):
        console.print(f"note: {note}", markup=False, soft_wrap=True)
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
