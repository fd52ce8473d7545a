"""Write files whole or not at all: temporary name, sync, rename; a full disk is one clear error."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from understudy.errors import StorageError


@contextmanager
def storage_errors(path: Path) -> Iterator[None]:
    """Turn a full disk, or a place that cannot be written, into one StorageError line. Hold only writes in it."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise StorageError(f"no space left while writing {path}: free some, or move save_dir/data_dir") from error
        raise StorageError(
            f"cannot write {path}: {error.strerror or error}; choose another save_dir/data_dir"
        ) from error


def write_atomic(path: Path, write: Callable[[BinaryIO], object]) -> None:
    """Call `write(file)` on a temporary file beside `path`, sync it and rename it into place."""
    with storage_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
        try:
            with open(temporary, "wb") as file:
                write(file)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        sync_folder(path.parent)


@contextmanager
def replaced_folder(path: Path) -> Iterator[Path]:
    """Give an empty folder beside `path`: it takes its place when the block ends well, and vanishes when it does not.

    Hold only writes of the folder in it. What was at `path` stays until then, and comes back if the place cannot be
    taken.
    """
    beside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    aside = beside.with_suffix(".old")
    try:
        with storage_errors(path):
            shutil.rmtree(beside, ignore_errors=True)
            beside.mkdir(parents=True)
            yield beside
            if path.exists():
                path.rename(aside)
            try:
                beside.rename(path)
            except OSError:
                if aside.exists():
                    aside.rename(path)
                raise
            sync_folder(path.parent)
    finally:
        shutil.rmtree(beside, ignore_errors=True)
        if path.exists():  # else what was there could not be put back, and is all that is left of it
            shutil.rmtree(aside, ignore_errors=True)


def sync_folder(folder: Path) -> None:
    """Make renames in `folder` durable, where the file system can."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_json(path: Path, data: Any) -> None:
    """Write `data` as indented JSON, atomically."""
    text = json.dumps(data, indent=2, sort_keys=False) + "\n"
    write_atomic(path, lambda file: file.write(text.encode()))


def sha256(path: Path) -> str:
    """Return the file's SHA-256 in hex."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
