"""Open any storage that fsspec reads (S3, GCS, SFTP, a folder, ...); whatever goes wrong there is one line."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from understudy.errors import Stopped, StorageError, UserError
from understudy.files import parse_json

if TYPE_CHECKING:
    from fsspec import AbstractFileSystem

OBJECT_STORES = frozenset({"s3", "s3a", "gs", "gcs", "az", "abfs", "abfss", "adl", "oci", "oss", "r2"})
"""Where a file appears when it is whole, and a rename would copy it; elsewhere files are renamed into place."""
PACKAGES = {"s3": "s3fs", "s3a": "s3fs", "gs": "gcsfs", "gcs": "gcsfs", "az": "adlfs", "abfs": "adlfs"}


def open_storage(url: str) -> tuple[AbstractFileSystem, str]:
    """Return (file system, path in it); UserError when nothing here can open such an address."""
    import fsspec

    try:
        store, path = fsspec.core.url_to_fs(url)
    except ImportError as error:
        package = PACKAGES.get(url.split(":")[0], "its package")
        raise UserError(f"{url}: install {package} ({error})") from None
    except ValueError as error:
        raise UserError(f"{url}: {error}") from None
    except Exception as error:
        raise StorageError(f"{url} cannot be reached: {type(error).__name__}: {error}") from error
    store.invalidate_cache()
    return store, path.rstrip("/")


@contextmanager
def remote_errors(url: str) -> Generator[None]:
    """Turn whatever a file system raises (each has exceptions of its own) into one StorageError line."""
    try:
        yield
    except Stopped:
        raise
    except Exception as error:
        reason = (str(error).splitlines() or [""])[0]
        raise StorageError(f"{url} cannot be used: {type(error).__name__}: {reason[:200]}") from error


def read_stored_json(url: str, name: str) -> dict[str, Any] | None:
    """Return the JSON file `name` of a folder in a storage, None where it is missing."""
    store, root = open_storage(url)
    with remote_errors(url):
        return parse_json(store.cat_file(f"{root}/{name}")) if store.exists(f"{root}/{name}") else None


def put(store: AbstractFileSystem, source: Path, target: str) -> bool:
    """Write one file whole or not at all; False when `source` is gone: a newer checkpoint took its place."""
    folder, name = target.rsplit("/", 1)
    protocols = {store.protocol} if isinstance(store.protocol, str) else set(store.protocol)
    beside = target if protocols & OBJECT_STORES else f"{folder}/.{name}.part"
    store.makedirs(folder, exist_ok=True)
    try:
        store.put_file(str(source), beside)
    except FileNotFoundError:
        if source.exists():
            raise
        return False
    if beside != target:
        store.mv(beside, target)
    return True
