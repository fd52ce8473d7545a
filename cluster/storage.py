"""An object store beside the shared folder, by fsspec: datasets come from it, what a job made goes to it.

Trials write to the shared folder, never to an object store: their files are appended to and renamed.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from understudy.cluster.job import Job
from understudy.errors import StorageError, UserError

log = logging.getLogger("understudy")


@contextmanager
def mirrored(job: Job) -> Iterator[None]:
    """Fetch the job's dataset before, and copy its folder to the store after, however the job ended."""
    if not job.storage_uri:
        yield
        return
    store = _open(job.storage_uri)
    fetch(store, job.storage_uri, Path(job.flat["data_dir"]), job.flat["env_name"])
    try:
        yield
    finally:
        send(store, job.storage_uri, Path(job.folder), Path(job.storage_path))


def fetch(store: Any, uri: str, datasets: Path, name: str) -> None:
    """Copy the dataset `name` from <uri>/datasets where the nodes' folder lacks it; whole or not at all."""
    folder = name.replace("/", "__")  # as the episode store files it
    target, found = datasets / folder, f"{uri.rstrip('/')}/datasets/{folder}"
    if target.exists() or not _exists(store, found):
        return
    partial = datasets / f".{folder}.fetching"
    with _errors(found):
        datasets.mkdir(parents=True, exist_ok=True)
        store.get(found, str(partial), recursive=True)
        partial.rename(target)
    log.info("fetched %s from %s", name, found)


def send(store: Any, uri: str, folder: Path, root: Path) -> None:
    """Copy a finished run's or sweep's folder to <uri>/runs/..., without rolling checkpoints and hidden files."""
    place = f"{uri.rstrip('/')}/{folder.relative_to(root).as_posix()}"
    with _errors(place):
        for path in sorted(folder.rglob("*")):
            inside = path.relative_to(folder)
            if path.is_file() and not any(part.startswith(".") or part == "resume" for part in inside.parts):
                target = f"{place}/{inside.as_posix()}"
                store.makedirs(target.rsplit("/", 1)[0], exist_ok=True)
                store.put_file(str(path), target)
    log.info("copied %s to %s", folder, place)


def _open(uri: str) -> Any:
    import fsspec

    try:
        return fsspec.core.url_to_fs(uri)[0]
    except ImportError as error:
        package = {"s3": "s3fs", "gs": "gcsfs", "gcs": "gcsfs"}.get(uri.split(":")[0], "the file system's package")
        raise UserError(f"storage.uri={uri} needs {package} in the image: {error}") from None
    except ValueError as error:
        raise UserError(f"storage.uri={uri}: {error}") from None


def _exists(store: Any, place: str) -> bool:
    with _errors(place):
        return bool(store.exists(place))


@contextmanager
def _errors(place: str) -> Iterator[None]:
    try:
        yield
    except Exception as error:  # (each file system has exceptions of its own)
        raise StorageError(
            f"{place}: {type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
        ) from error
