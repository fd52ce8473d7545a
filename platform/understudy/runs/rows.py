"""What a run's csv files held when a checkpoint was written: resume goes on from the same rows, or says which are gone.

A checkpoint has, for each csv file of its run, how many bytes of whole rows there were and their hash. Rows that came
later are after them, so the files of a run that was killed at any moment pass.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from understudy.errors import UserError
from understudy.files import typed
from understudy.runs.directory import RunDir

KEY = "files"
"""A checkpoint's key: {file below the run directory: [bytes of whole rows, their hash]}."""
ACCEPT = "accept_lost_rows"
"""A key of run.json: whether the next start goes on without the rows that are gone."""
CHUNK = 1 << 20


class WrittenRows:
    """How much of each csv file is there; only what was appended since the last time is read."""

    def __init__(self, run: Path) -> None:
        self._run = run
        self._seen: dict[str, tuple[int, hashlib.blake2b]] = {}

    def note(self) -> dict[str, list[Any]]:
        """Return {file: [bytes of whole rows, hash]} as the files are now."""
        for path in [*self._run.glob("*.csv"), *self._run.glob("sd*/*.csv")]:
            name = path.relative_to(self._run).as_posix()
            size, hashed = self._seen.get(name, (0, hashlib.blake2b(digest_size=16)))
            with open(path, "rb") as file:
                file.seek(size)
                new = file.read()
            whole = new[: new.rfind(b"\n") + 1]
            hashed.update(whole)
            self._seen[name] = size + len(whole), hashed
        return {name: [size, hashed.hexdigest()] for name, (size, hashed) in self._seen.items()}


def check_rows(run: RunDir, noted: Mapping[str, Any]) -> None:
    """Raise UserError where a csv file lacks rows that were there when the checkpoint was written.

    After `understudy resume RUN --accept-lost-rows` it goes on once, and run.json names the files in `lost_rows`.
    """
    lost = [name for name, (size, digest) in noted.items() if not _begins_with(run.path / name, size, digest)]
    accepted = run.state().get(ACCEPT)
    if lost and not accepted:
        raise UserError(
            f"{run.path}: {', '.join(sorted(lost))} no longer begin with the rows of the last checkpoint:"
            f" put their copies back, or `understudy resume {typed(run.path)} --accept-lost-rows` goes on without"
        )
    if accepted:
        run.update_state(**{ACCEPT: False, **lost_rows(run, lost)})


def lost_rows(run: RunDir, names: Iterable[str]) -> dict[str, list[str]]:
    """Return run.json's entry for files whose lost rows have been accepted."""
    held: list[str] = run.state().get("lost_rows") or []
    found = sorted({*held, *names})
    return {"lost_rows": found} if found else {}


def _begins_with(path: Path, size: int, digest: str) -> bool:
    """Return whether the first `size` bytes of a file are the noted ones."""
    if not path.is_file() or path.stat().st_size < size:
        return False
    hashed = hashlib.blake2b(digest_size=16)
    with open(path, "rb") as file:
        while size > 0 and (chunk := file.read(min(size, CHUNK))):
            hashed.update(chunk)
            size -= len(chunk)
    return hashed.hexdigest() == digest
