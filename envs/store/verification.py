"""What is wrong with a store, and what is odd about it: for `understudy data verify`, and after an import."""

from __future__ import annotations

import numpy as np

from understudy.envs.store.inspection import notes_of
from understudy.envs.store.picture_checks import scan_pictures
from understudy.envs.store.store import (
    EPISODES,
    REQUIRED,
    TRANSITIONS,
    EpisodeStore,
    combine_digests,
    digest,
)
from understudy.files import sha256

CHUNK_ROWS = 65536


def verify_store(store: EpisodeStore) -> list[str]:
    """Return what is wrong or odd: changed bytes, NaN, constant dimensions, empty and duplicate episodes."""
    return [line for lines in findings(store) for line in lines]


def findings(store: EpisodeStore) -> tuple[list[str], list[str]]:
    """Return (damage, oddities): what makes a store unfit, and what may be meant.

    Damage: changed bytes, NaN, a broken episode index, pictures that cannot be decoded. Odd: what was said when the
    data came in, dimensions that never change, duplicate episodes, black or still cameras.
    """
    pictures = scan_pictures(store)
    damage = [*_changed(store), *_bad_numbers(store)]
    damage += [line for report in pictures for line in report.damage(store)]
    odd = [line for report in pictures for line in report.oddities(store)]
    return damage, [*notes_of(store), *_constant(store), *_duplicates(store), *odd]


def _changed(store: EpisodeStore) -> list[str]:
    findings: list[str] = []
    for name in (TRANSITIONS, EPISODES):
        if sha256(store.path / name) != store.manifest.files[name].get("sha256"):
            findings.append(f"{name}: its bytes changed since it was written (checksum differs)")
    schemas = {**store.manifest.columns, **store.manifest.episode_columns}
    columns = [(name, schema, store.digest(name)) for name, schema in schemas.items()]
    if combine_digests(columns, digest(store.starts, store.lengths)) != store.manifest.content_hash:
        findings.append("content hash differs from the manifest's")
    return findings


def _bad_numbers(store: EpisodeStore) -> list[str]:
    findings: list[str] = []
    for name, column in store.manifest.episode_columns.items():
        if not column.dtype.startswith("float"):
            continue
        bad = np.argwhere(~np.isfinite(store.episode_column(name)))
        if len(bad):
            findings.append(f"{name}: NaN or infinity in episode {int(bad[0][0])}")
    for name, column in store.manifest.columns.items():
        if not column.dtype.startswith("float"):
            continue
        values = store.column(name)
        for begin in range(0, len(values), CHUNK_ROWS):
            bad = np.argwhere(~np.isfinite(values[begin : begin + CHUNK_ROWS]))
            if len(bad):
                row = begin + int(bad[0][0])
                episode = int(np.searchsorted(store.starts, row, side="right")) - 1
                step = row - int(store.starts[episode])
                findings.append(f"{name}: NaN or infinity in episode {episode}, step {step}")
                break
    return findings


def _constant(store: EpisodeStore) -> list[str]:
    findings: list[str] = []
    for name in ("observations", "actions"):
        numbers = store.manifest.statistics.get(name, {"min": [], "max": []})
        same = [i for i, (low, high) in enumerate(zip(numbers["min"], numbers["max"], strict=True)) if low == high]
        if same:
            findings.append(f"{name}: never changes in dimension {', '.join(map(str, same))}")
    return findings


def _duplicates(store: EpisodeStore) -> list[str]:
    findings: list[str] = []
    seen: dict[str, int] = {}
    plain = [name for name in REQUIRED if name in store.manifest.columns and not store.manifest.columns[name].encoding]
    columns = [store.column(name) for name in plain]
    for number, (begin, end) in enumerate(zip(store.starts, store.starts + store.lengths, strict=True)):
        key = digest(*[values[begin:end] for values in columns])
        if key in seen:
            findings.append(f"episode {number}: the same as episode {seen[key]}")
        seen.setdefault(key, number)
    return findings
