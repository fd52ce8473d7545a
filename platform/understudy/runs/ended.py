"""Checksums of an ended run's files, so that later damage to them is noticed.

run.json keeps the length and hash of each csv file, table of episodes and file of settings, and a hash of its own
results. So a row that is gone, changed or there twice is noticed even where nothing is computed from it again.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from understudy.errors import UserError
from understudy.files import blake2b, typed
from understudy.runs.directory import RunDir
from understudy.runs.rows import ACCEPT, lost_rows

KEY, RESULT = "files", "result_hash"
"""Keys of run.json: {file below the run directory: [bytes, hash]}, and the hash of that and of the results."""
PATTERNS = ("*.csv", "sd*/*.csv", "*.arrow", "flags.json", "latency.json")
"""Files whose checksums are kept; RESULT is that of run.json's own results."""
ENDED = ("finished", "stopped", "failed")
"""Statuses of a run whose files no longer change."""
RESULTS = ("step", "metrics", "best_parameters", KEY)


def note_of(folder: Path, patterns: Iterable[str] = PATTERNS) -> dict[str, list[Any]]:
    """Return {file: [bytes, hash]} of a folder's files as they are now."""
    paths = sorted(path for pattern in patterns for path in folder.glob(pattern) if path.is_file())
    return {path.relative_to(folder).as_posix(): [path.stat().st_size, blake2b(path)] for path in paths}


def changed_since(folder: Path, noted: Mapping[str, Any]) -> list[str]:
    """Return the names of noted files that are gone, or are not what they were."""
    return sorted(name for name, held in noted.items() if not _is_as_noted(folder / name, held))


def _is_as_noted(path: Path, held: Any) -> bool:
    return path.is_file() and [path.stat().st_size, blake2b(path)] == held


def as_ended(run: RunDir, **results: Any) -> dict[str, Any]:
    """Return what run.json gets when a run ends: its results and the checksums of its files."""
    state = {**run.state(), **results, KEY: note_of(run.path)}
    return {**results, KEY: state[KEY], RESULT: _hash_of_results(state)}


def note_ended(run: RunDir) -> None:
    """Take the checksums of an ended run's files anew."""
    run.update_state(**as_ended(run))


def hash_of(document: Mapping[str, Any]) -> str:
    """Return the hash of a JSON document, the same before it is written and after it is read."""
    return hashlib.blake2b(json.dumps(document, sort_keys=True).encode(), digest_size=16).hexdigest()


def _hash_of_results(state: Mapping[str, Any]) -> str:
    return hash_of({key: state.get(key) for key in RESULTS})


def damaged(run: RunDir) -> list[str]:
    """Return the names of an ended run's files that have changed since; [] for a run without checksums."""
    state = run.state()
    if state.get("status") not in ENDED or not state.get(RESULT):
        return []
    own = [] if state[RESULT] == _hash_of_results(state) else ["run.json"]
    return own or changed_since(run.path, state.get(KEY) or {})


def check_ended(run: RunDir) -> None:
    """Raise UserError where files of a run that has ended are not what it ended with.

    After `understudy resume RUN --accept-lost-rows` they are taken as they are, once; run.json names them.
    """
    names = damaged(run)
    if not names:
        return
    if run.state().get(ACCEPT):
        run.update_state(**lost_rows(run, names))
        note_ended(run)
        return
    many = len(names) > 1
    text = f"{run.path}: {', '.join(names)} {'are' if many else 'is'} not what the run ended with: put"
    text += " their copies back" if many else " its copy back"
    if "flags.json" not in names:  # without its settings nothing can be done with a run
        how = "them as they are" if many else "it as it is"
        text += f", or `understudy resume {typed(run.path)} --accept-lost-rows` takes {how}"
    raise UserError(text)
