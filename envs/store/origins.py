"""Know whether a store is of the files that lie there now: by what they hold, not by when they were written.

The manifest keeps each file's hash, size and times. Where size and times are those that were kept the file is the same;
else its hash is compared, so that older files put in the place (rsync -a, tar, a backup) are seen, and files that only
were touched or copied are not imported again.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

from understudy.envs.files.reading import damage
from understudy.envs.store.store import MANIFEST, Manifest
from understudy.errors import DatasetError, StorageError
from understudy.files import sha256, write_atomic

log = logging.getLogger("understudy")
TIMES = ("size", "mtime_ns", "ctime_ns")
"""What is compared before a file is read; ctime_ns changes with every renaming, so that no other file can have it."""


def record(file: Path) -> dict[str, Any]:
    """Return what is kept of a file that is imported: name, hash, size and times."""
    with damage(file, "data"):
        looks = _looks(file)
        return {"name": file.name, "sha256": sha256(file), **looks}


def check_unchanged(files: Sequence[Path], records: Sequence[dict[str, Any]]) -> None:
    """Raise DatasetError for a file that was written to since its record was made."""
    for file, kept in zip(files, records, strict=True):
        with damage(file, "data"):
            looks = _looks(file)
        if any(looks[name] != kept[name] for name in ("size", "mtime_ns")):
            raise DatasetError(f"{file}: was written to while it was imported; import it when that has ended")


def is_of(folder: Path, files: Sequence[Path]) -> bool:
    """Return whether the store in `folder` is there and was made of what these files hold now."""
    if not (folder / MANIFEST).is_file():
        return False
    manifest = Manifest.read(folder)
    kept = _recorded(manifest)
    if kept is None:
        return _by_time(folder, files)
    if len(kept) != len(files):
        return False
    found: list[dict[str, Any]] = []
    same = True
    for file, item in zip(files, kept, strict=True):
        with damage(file, "data"):
            looks = _looks(file)
            unchanged = all(item.get(name) == looks[name] for name in TIMES)
            same = unchanged or (item.get("size", looks["size"]) == looks["size"] and sha256(file) == item["sha256"])
        if not same:
            return False
        found.append({**item, **looks})
    if found != kept:
        _keep(folder, manifest, found)
    return True


def _recorded(manifest: Manifest) -> list[dict[str, Any]] | None:
    """Return what a store says of the files that it was made of; None where it has no checksum of each."""
    kept: Any = manifest.provenance.get("files")
    if not isinstance(kept, list):
        return None
    items = [cast("dict[str, Any]", item) for item in cast("list[Any]", kept) if isinstance(item, dict)]
    return items if len(items) == len(cast("list[Any]", kept)) and all(item.get("sha256") for item in items) else None


def _looks(file: Path) -> dict[str, int]:
    held = file.stat()
    return {"size": held.st_size, "mtime_ns": held.st_mtime_ns, "ctime_ns": held.st_ctime_ns}


def _by_time(folder: Path, files: Sequence[Path]) -> bool:
    """Compare with the files' times, for stores that know nothing else of what they were made of."""
    newest = max(file.stat().st_mtime for file in files)
    newer = (folder / MANIFEST).stat().st_mtime >= newest
    log.warning(
        "%s does not say which files it was made of, and is taken for %s by its time; `understudy data import"
        " --overwrite` makes it anew",
        folder,
        "the same as they are" if newer else "older than they are",
    )
    return newer


def _keep(folder: Path, manifest: Manifest, files: list[dict[str, Any]]) -> None:
    """Write what the files look like now into the manifest, so that they need not be read the next time."""
    changed = dataclasses.replace(manifest, provenance={**manifest.provenance, "files": files})
    try:
        write_atomic(folder / MANIFEST, lambda file: file.write(changed.to_json().encode()))
    except StorageError as error:
        log.info("%s; its files are compared by their hashes each time", error)
