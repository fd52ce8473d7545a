"""The folder that pages show: what is in it by relative path, and nothing outside of it."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from understudy.errors import UserError

MARKERS = {"sweep.json": "sweep", "matrix.json": "comparison", "flags.json": "run"}
NOT_RUNS = ("mlartifacts", "resume", "demonstrations", "evaluations")
FRESH_SECONDS = 2.0
"""How old a listing may be: many requests of one moment are answered by one walk."""


class Missing(UserError):
    """There is nothing of that name that may be shown."""


@dataclass(frozen=True)
class Entry:
    """A sweep, a run or a comparison below the root."""

    kind: str
    path: str
    """Its folder, relative to the root, with slashes."""
    changed: float
    """Unix seconds of its folder's last change."""

    @property
    def name(self) -> str:
        return self.path.rpartition("/")[2]

    @property
    def group(self) -> str:
        return self.path.rpartition("/")[0]


class Root:
    """A folder, and the entries in it."""

    def __init__(self, path: Path) -> None:
        self.path = Path(os.path.realpath(path))
        self._entries: list[Entry] = []
        self._walked = float("-inf")

    def inside(self, relative: str) -> Path:
        """Return the path that a relative one means; Missing where it is not there, or leads out of the root."""
        try:
            found = Path(os.path.realpath(self.path / relative))
        except (OSError, ValueError):
            raise Missing(f"{relative}: no such folder or file") from None
        if not found.is_relative_to(self.path) or not found.exists():
            raise Missing(f"{relative}: no such folder or file here")
        return found

    def relative(self, path: Path) -> str:
        """Return a path below the root as addresses have it."""
        return "" if path == self.path else path.relative_to(self.path).as_posix()

    def entries(self) -> list[Entry]:
        """Return all that is below the root, the newest first."""
        if time.monotonic() - self._walked > FRESH_SECONDS:
            self._entries = sorted(_walk(self.path), key=lambda entry: entry.changed, reverse=True)
            self._walked = time.monotonic()
        return self._entries


def kind_of(folder: Path) -> str:
    """Return what a folder is: sweep, comparison, run, or "" for none of them."""
    return next((kind for marker, kind in MARKERS.items() if (folder / marker).is_file()), "")


def address(kind: str, relative: str) -> str:
    """Return the page of a thing, quoted."""
    return f"/{kind}/{quote(os.fsencode(relative), safe='/')}"


def _walk(root: Path) -> list[Entry]:
    """Return the entries below a folder. What is inside a run, or a sweep, is part of it; a comparison has cells."""
    found: list[Entry] = []
    waiting = [(str(root), "", 0.0)]
    while waiting:
        folder, relative, changed = waiting.pop()
        try:
            with os.scandir(folder) as items:
                inside = list(items)
        except OSError:
            continue
        names = {item.name for item in inside}
        kind = next((kind for marker, kind in MARKERS.items() if marker in names), "")
        if kind:
            found.append(Entry(kind, relative, changed or _changed(folder)))
        if kind in ("sweep", "run"):
            continue
        for item in inside:
            if item.name.startswith(".") or item.name in NOT_RUNS:
                continue
            try:
                if item.is_dir(follow_symlinks=False):
                    below = f"{relative}/{item.name}" if relative else item.name
                    waiting.append((item.path, below, item.stat(follow_symlinks=False).st_mtime))
            except OSError:
                continue
    return found


def _changed(folder: str) -> float:
    try:
        return os.stat(folder).st_mtime
    except OSError:
        return 0.0
