"""Files that are being fetched: `<file>.part` with one writer, and `<file>.part.json`, which says of which version."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from understudy.files import held, parse_json, storage_errors


@contextmanager
def claimed(part: Path) -> Generator[BinaryIO]:
    """Open the part file for this process alone; an empty one is gone afterwards."""
    lock = part.with_name(f"{part.name}.lock")
    with held(lock, f"{part}: another process is fetching it ({{holder}})"):
        try:
            with storage_errors(part):
                file = os.fdopen(os.open(part, os.O_RDWR | os.O_CREAT, 0o666), "r+b")
            with file:
                yield file
        finally:
            if part.exists() and part.stat().st_size == 0:
                part.unlink()
                note_of(part).unlink(missing_ok=True)
            lock.unlink(missing_ok=True)


def mark(url: str) -> str:
    """Return what tells an address from others in a note on disk, which must hold no secret of it."""
    return hashlib.sha256(url.encode()).hexdigest()


def note_of(part: Path) -> Path:
    """Return where a part file's note is."""
    return part.with_name(f"{part.name}.json")


def read_note(part: Path, url: str) -> dict[str, Any]:
    """Return what is known of the part file's version; nothing, if it is of another address."""
    try:
        found = parse_json(note_of(part).read_bytes())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) and found.get("url") == mark(url) else {}
