"""Replace folders whole or not at all, and take away what killed processes of any host left half-written.

A folder is written beside its place, under a name that tells host and process, and locked by its writer: the system
lets go of the lock when that process dies.
"""

from __future__ import annotations

import fcntl
import glob
import os
import re
import secrets
import shutil
import socket
import time
from collections.abc import Generator
from contextlib import contextmanager, suppress
from pathlib import Path

from understudy.errors import StorageError
from understudy.files import storage_errors, sync_folder

ASIDE = ".old"
"""Suffix of a folder that another one is about to replace."""
_LEFT = re.compile(r"\.(?P<name>.+)\.(?P<host>[^.]+)\.(?P<pid>\d+)\.[0-9a-f]{8}(?P<kind>\.old)?")
_SWAP_SECONDS = 10.0
"""Two renames take less, on any file system: a folder that has been aside for longer was left by a killed process."""
_QUIET_SECONDS = 600.0
"""A folder that nobody has locked and nothing was written to for as long is nobody's."""
_SILENT_SECONDS = 86400.0
"""The same where the file system has no locks."""


@contextmanager
def replaced_folder(path: Path) -> Generator[Path]:
    """Give an empty folder beside `path`: it takes its place when the block ends well, and vanishes when it does not.

    What was at `path` stays until then. It is renamed aside for an instant: when its place cannot be taken it comes
    back, and when the process is killed in between `restore_folder` brings it back. A link is followed.
    """
    target = Path(os.path.realpath(path))
    beside = target.with_name(f".{target.name}.{_host()}.{os.getpid()}.{secrets.token_hex(4)}")
    parents = [folder for folder in target.parents if not folder.exists()]
    lock = None
    try:
        with storage_errors(path):
            restore_folder(target)
            beside.mkdir(parents=True)
            lock = os.open(beside, os.O_RDONLY)
            _is_free(lock)
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
    finally:
        if lock is not None:
            os.close(lock)


def restore_folder(path: Path) -> Path:
    """Return `path`, after bringing back what a process that was killed while it replaced it had set aside.

    What such a process had half written is removed.
    """
    target = Path(os.path.realpath(path))
    if not target.parent.is_dir():
        return path
    if not target.exists():
        _bring_back(target)
    _remove_abandoned(target)
    return path


def _bring_back(target: Path) -> None:
    for aside in _left_beside(target, ASIDE):
        if _may_be_in_use(aside):
            continue
        try:
            aside.rename(target)
        except OSError as error:
            if target.exists():  # another process was quicker
                break
            raise StorageError(
                f"{target}: what was there lies in {aside}, where a killed process left it, and cannot be renamed"
                f" ({error.strerror}); rename it yourself"
            ) from error
        break


def restore_folders(parent: Path) -> None:
    """Bring back every folder of `parent` that a killed process had set aside, and remove what was half-written."""
    found = (_LEFT.fullmatch(folder.name) for folder in parent.glob(".*"))
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
    """Remove what killed processes left beside `target`; what they set aside only if it is there."""
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
    dead = match["host"] == _host() and not _is_alive(int(match["pid"]))
    if match["kind"]:
        return time.time() - _changed(folder) < _SWAP_SECONDS and not dead
    if dead:
        return False
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except OSError:  # gone meanwhile, or another user's
        return True
    try:
        free = _is_free(descriptor)
    finally:
        os.close(descriptor)
    if free is False:
        return True
    return time.time() - _last_written(folder) < (_QUIET_SECONDS if free else _SILENT_SECONDS)


def _is_free(descriptor: int) -> bool | None:
    """Lock an open folder and return whether that could be done; None where the file system has no locks."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return None
    return True


def _last_written(folder: Path) -> float:
    """Return when something in a folder was last written to; now, when it is gone."""
    times = [_changed(folder)]
    for place, _, names in os.walk(folder):
        times += [_changed(Path(place)), *(_changed(Path(place, name)) for name in names)]
    return max(times)


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
