"""Write files whole or not at all: temporary name, sync, rename; a full disk is one clear error."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import secrets
import shlex
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO, TypeVar, cast

from filelock import FileLock, Timeout

from understudy.errors import StorageError, UserError

T = TypeVar("T")
LONGEST_NAME = 255
"""Bytes of a file's name."""
FEW_FILES = 100
_WRITTEN_SECONDS = 60.0
"""A temporary file that nothing was written to for as long is nobody's."""


def home() -> Path:
    """Return the folder of datasets and defaults: $UNDERSTUDY_HOME, else ~/.understudy."""
    try:
        return Path(os.environ.get("UNDERSTUDY_HOME", "~/.understudy")).expanduser()
    except RuntimeError:  # neither HOME nor an entry in /etc/passwd: containers run as any number
        raise UserError("this user has no home folder: set UNDERSTUDY_HOME (or HOME) to one") from None


def give_a_home() -> None:
    """Let packages that ask for a home folder as they are imported find ours, where this user has none."""
    if os.path.expanduser("~") == "~" and "UNDERSTUDY_HOME" in os.environ:
        os.environ["HOME"] = str(home().absolute())


def user_path(path: str | Path) -> Path:
    """Return a path as a user means it: `~` and `~name` are home folders; UserError for one that nobody can have."""
    try:
        found = Path(path).expanduser()
    except RuntimeError:
        raise UserError(f"{path}: there is no such user, or none with a home folder; write the whole path") from None
    if max(map(len, map(os.fsencode, found.parts)), default=0) > LONGEST_NAME:
        raise UserError(f"{str(path)[:60]}...: a name of over {LONGEST_NAME} bytes, which no file can have")
    return found


def typed(path: str | Path) -> str:
    """Return a path as it is typed in a shell, for commands in messages."""
    return shlex.quote(str(path))


def tools_path(path: str | Path) -> Path:
    """Return a place where another tool keeps its files; a user without a home folder has none in theirs."""
    try:
        return Path(path).expanduser()
    except RuntimeError:
        return Path(path)


@contextmanager
def storage_errors(path: Path) -> Generator[None]:
    """Turn a full disk, or a place that cannot be written, into one StorageError line. Hold only writes in it."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise StorageError(f"no space left while writing {path}: free some, or move save_dir/data_dir") from error
        raise StorageError(
            f"cannot write {path}: {error.strerror or error}; choose another save_dir/data_dir"
        ) from error


def parse_json(text: str | bytes) -> Any:
    """Return what a JSON text holds; ValueError for any that cannot be read, such as one nested too deeply."""
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def read_object(path: Path) -> dict[str, Any]:
    """Return the JSON object in a file of ours; UserError in one line where it holds something else."""
    try:
        found = parse_json(path.read_bytes())
    except (ValueError, OSError) as error:
        raise UserError(f"{path} cannot be read ({error}): it was cut or changed by hand; put its copy back") from None
    if not isinstance(found, dict):
        raise UserError(f"{path} holds no JSON object: it was changed by hand; put its copy back")
    return cast("dict[str, Any]", found)  # JSON's keys are texts


def read_record(path: Path, kind: type[T]) -> T:
    """Return the dataclass `kind` that a JSON file of ours holds; UserError for a field that is missing or wrong."""
    from pydantic import TypeAdapter, ValidationError

    try:
        return TypeAdapter(kind).validate_python(read_object(path))
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise UserError(f"{path}: {where}: {first['msg']}: it was changed by hand; put its copy back") from None


def check_writable(folder: Path) -> None:
    """Raise StorageError where the folder, or the nearest one above it that is there, takes no files."""
    with storage_errors(folder):
        there = next(place for place in (folder, *folder.parents) if place.exists())
        if not there.is_dir():
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))
        if not os.access(there, os.W_OK | os.X_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))


def check_room(folder: Path, least: int, what: str) -> None:
    """Raise StorageError where a folder's file system has less than `least` bytes free, or no room for more files.

    The folder need not exist yet.
    """
    if not has_room(folder, least):
        raise StorageError(f"no space left for {what} in {folder}: free some")


def has_room(folder: Path, least: int) -> bool:
    """Return whether a folder that need not exist yet has `least` bytes free on its disk, and room for more files."""
    there = next(place for place in (folder, *folder.parents) if place.exists())
    held = os.statvfs(there)
    files = held.f_favail if held.f_files else FEW_FILES  # some file systems do not count them
    return held.f_bavail * held.f_frsize >= least and files >= FEW_FILES


def write_atomic(path: Path, write: Callable[[BinaryIO], object]) -> None:
    """Call `write(file)` on a temporary file beside `path`, sync it and rename it into place."""
    with storage_errors(path), made_folder(path.parent):
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
def made_folder(folder: Path) -> Generator[None]:
    """Make a folder with its parents; where the block fails, those that it made are removed if they are empty."""
    missing = [place for place in (folder, *folder.parents) if not place.exists()]
    try:
        with storage_errors(folder):
            folder.mkdir(parents=True, exist_ok=True)
        yield
    except BaseException:
        for place in missing:
            with suppress(OSError):  # something else was put there
                place.rmdir()
        raise


def remove_half_written(folder: Path) -> None:
    """Remove the temporary files that a killed `write_atomic` of any host left in a folder that this process holds.

    Those of the last minute stay: a driver writes small files into the folders of its trials.
    """
    for path in folder.glob(".*.tmp"):
        with suppress(OSError):  # another process took it away, or it is another user's
            if time.time() - path.stat().st_mtime > _WRITTEN_SECONDS:
                path.unlink()


@contextmanager
def held(path: Path, refusal: str) -> Generator[None]:
    """Hold a lock file while the block runs; UserError with `refusal` at once where another process holds it.

    "{holder}" in the refusal becomes that process. The system lets go of the lock when its process dies.
    """
    lock = FileLock(path, thread_local=False)
    with storage_errors(path):
        try:
            lock.acquire(blocking=False)
        except Timeout:
            holder = path.read_text(encoding="utf-8").strip() or "unknown"
            raise UserError(refusal.replace("{holder}", holder)) from None
    try:
        try:
            with storage_errors(path):
                path.write_text(f"{os.getpid()} on {os.uname().nodename}", encoding="utf-8")
        except StorageError:
            path.unlink(missing_ok=True)
            raise
        yield
    finally:
        lock.release()


def sync_folder(folder: Path) -> None:
    """Make renames in `folder` durable, where the file system can."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def make_secret(file: Path) -> None:
    """Write 32 random bytes, in hex, to a file that its owner alone may read, unless it is there; StorageError."""
    try:
        file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        with suppress(FileExistsError):  # another process was first
            descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(descriptor, "w", encoding="ascii") as target:
                target.write(secrets.token_hex(32))
    except OSError as error:
        raise StorageError(f"cannot write {file} ({error.strerror or error}): set UNDERSTUDY_HOME") from None


def write_json(path: Path, data: Any) -> None:
    """Write `data` as indented JSON, atomically."""
    text = json.dumps(data, indent=2, sort_keys=False) + "\n"
    write_atomic(path, lambda file: file.write(text.encode()))


def sha256(path: Path) -> str:
    """Return the file's SHA-256 in hex."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def blake2b(path: Path) -> str:
    """Return 16 bytes of the file's BLAKE2b in hex: quick to compute, for files of ours alone."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).hexdigest()
