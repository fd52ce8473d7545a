"""Write files whole or not at all: temporary name, sync, rename; a full disk is one clear error."""

from __future__ import annotations

import errno
import glob
import hashlib
import json
import os
import re
import secrets
import shutil
import socket
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO, TypeVar, cast

from filelock import FileLock, Timeout

from understudy.errors import StorageError, UserError

T = TypeVar("T")
ASIDE = ".old"
"""Suffix of a folder that another one is about to replace."""
_LEFT = re.compile(r"\.(?P<name>.+)\.(?P<host>[^.]+)\.(?P<pid>\d+)\.[0-9a-f]{8}(?P<kind>\.old)?")
_SWAP_SECONDS = 10.0
"""Two renames take less, on any file system: a folder that has been aside for longer was left by a killed process."""


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
    """Return a path as a user means it: `~` and `~name` are home folders; UserError for one that nobody has."""
    try:
        return Path(path).expanduser()
    except RuntimeError:
        raise UserError(f"{path}: there is no such user, or none with a home folder; write the whole path") from None


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
def replaced_folder(path: Path) -> Generator[Path]:
    """Give an empty folder beside `path`: it takes its place when the block ends well, and vanishes when it does not.

    What was at `path` stays until then. It is renamed aside for an instant: when its place cannot be taken it comes
    back, and when the process is killed in between `restore_folder` brings it back. A link is followed.
    """
    target = Path(os.path.realpath(path))
    beside = target.with_name(f".{target.name}.{_host()}.{os.getpid()}.{secrets.token_hex(4)}")
    parents = [folder for folder in target.parents if not folder.exists()]
    try:
        with storage_errors(path):
            restore_folder(target)
            _remove_abandoned(target)
            beside.mkdir(parents=True)
        yield beside
        with storage_errors(path):
            _take_place(beside, target)
            sync_folder(target.parent)
    except BaseException:
        shutil.rmtree(beside, ignore_errors=True)
        for folder in parents:
            with suppress(OSError):  # not there, or others have put something in it meanwhile
                folder.rmdir()
        raise


def restore_folder(path: Path) -> Path:
    """Return `path`, after bringing back what a process that was killed while it replaced it had set aside."""
    target = Path(os.path.realpath(path))
    if target.exists() or not target.parent.is_dir():
        return path
    for aside in _left_beside(target, ASIDE):
        if _may_be_in_use(aside):
            continue
        try:
            aside.rename(target)
        except OSError as error:
            if target.exists():  # another process was quicker
                break
            raise StorageError(
                f"{path}: what was there lies in {aside}, where a killed process left it, and cannot be renamed"
                f" ({error.strerror}); rename it yourself"
            ) from error
        break
    return path


def restore_folders(parent: Path) -> None:
    """Bring back every folder of `parent` that a killed process had set aside."""
    found = (_LEFT.fullmatch(folder.name) for folder in parent.glob(f".*{ASIDE}"))
    for name in {match["name"] for match in found if match}:
        restore_folder(parent / name)


def _take_place(beside: Path, target: Path) -> None:
    """Rename `beside` to `target`; what is there is kept until that has been done."""
    aside = beside.with_name(beside.name + ASIDE)
    try:
        if target.exists():
            target.rename(aside)
        beside.rename(target)
    except BaseException as error:
        if aside.exists() and not target.exists():
            try:
                aside.rename(target)
            except OSError:
                raise StorageError(f"{target}: cannot be replaced ({error}); what was there lies in {aside}") from error
        raise
    shutil.rmtree(aside, ignore_errors=True) if aside.is_dir() else aside.unlink(missing_ok=True)


def _remove_abandoned(target: Path) -> None:
    """Remove what killed processes of this machine left beside `target`; what they set aside only if it is there."""
    for folder in (*_left_beside(target, ""), *(_left_beside(target, ASIDE) if target.exists() else [])):
        if not _may_be_in_use(folder):
            shutil.rmtree(folder, ignore_errors=True)


def _left_beside(target: Path, kind: str) -> list[Path]:
    """Return the folders that were being written (or, ASIDE, set aside) for `target`, the newest first."""
    found: list[Path] = []
    for folder in target.parent.glob(f".{glob.escape(target.name)}.*"):
        match = _LEFT.fullmatch(folder.name)
        if match and match["name"] == target.name and (match["kind"] or "") == kind:
            found.append(folder)
    return sorted(found, key=_changed, reverse=True)


def _may_be_in_use(folder: Path) -> bool:
    """Return whether the process that made a folder beside another may still be at work with it."""
    match = _LEFT.fullmatch(folder.name)
    assert match is not None
    here = match["host"] == _host()
    if match["kind"]:
        just_now = time.time() - _changed(folder) < _SWAP_SECONDS
        return just_now and not (here and not _is_alive(int(match["pid"])))
    return not here or _is_alive(int(match["pid"]))


def _changed(folder: Path) -> float:
    """Return when a folder was last renamed or written to; now, when it is gone."""
    try:
        return folder.stat().st_ctime
    except FileNotFoundError:
        return time.time()


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _host() -> str:
    """Return this machine's name without dots, which part the names of folders."""
    return socket.gethostname().replace(".", "-")


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
        with storage_errors(path):
            path.write_text(f"{os.getpid()} on {os.uname().nodename}", encoding="utf-8")
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


def write_json(path: Path, data: Any) -> None:
    """Write `data` as indented JSON, atomically."""
    text = json.dumps(data, indent=2, sort_keys=False) + "\n"
    write_atomic(path, lambda file: file.write(text.encode()))


def sha256(path: Path) -> str:
    """Return the file's SHA-256 in hex."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
