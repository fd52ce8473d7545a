"""Datasets as pages show them, through the store's own reading code: memory-mapped, one episode at a time."""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from understudy.dashboards.places import Missing, Root
from understudy.dashboards.reading.clips import DIMS, ORDER
from understudy.dashboards.reading.runs import plain
from understudy.envs.store.finding import store_name
from understudy.envs.store.picture_checks import picture_columns
from understudy.envs.store.store import FINAL, IMAGES, MANIFEST, SALIENCY, EpisodeStore, Manifest
from understudy.errors import DatasetError, UnderstudyError

DOTS = 2000
"""Episodes that are drawn in the overview."""


@dataclass(frozen=True)
class Episode:
    """One episode of a store."""

    number: int
    start: int
    length: int
    curves: dict[str, list[list[float | None]]]
    """Columns of numbers by name, a list of values for each dimension."""
    dims: dict[str, int]
    """How many dimensions each of them has; no more than DIMS are drawn."""
    texts: dict[str, str]


def datasets(data_dir: Path) -> list[Manifest]:
    """Return the manifests of a folder's stores by name; damaged ones are left out."""
    found: list[Manifest] = []
    try:
        folders = sorted(path for path in data_dir.iterdir() if not path.name.startswith("."))
    except OSError:
        return []
    for folder in folders:
        try:
            if (folder / MANIFEST).is_file():
                found.append(Manifest.read(folder))
        except DatasetError:  # opening it by name says what is wrong
            continue
    return found


def open_dataset(name: str, data_dir: Path) -> EpisodeStore:
    """Open a dataset by name; Missing where there is none, DatasetError for a damaged one."""
    folder = Root(data_dir).inside(store_name(name))
    if folder == Root(data_dir).path or not (folder / MANIFEST).is_file():
        raise Missing(f"no dataset {name!r} in {data_dir}: `understudy data list` says what is here")
    return EpisodeStore.open(folder)


def returns_of(store: EpisodeStore) -> np.ndarray:
    """Return the sum of rewards of each episode [E]."""
    return np.add.reduceat(store.column("rewards").astype(np.float64), store.starts)


def overview(store: EpisodeStore) -> dict[str, Any]:
    """Return number, length and return of episodes, of many an even choice."""
    count = store.manifest.num_episodes
    chosen = np.unique(np.linspace(0, count - 1, min(count, DOTS)).round().astype(np.int64))
    lengths = store.lengths[chosen].astype(float)
    return {"numbers": chosen.tolist(), "lengths": plain(lengths), "returns": plain(returns_of(store)[chosen])}


def episode_of(store: EpisodeStore, number: int) -> Episode:
    """Return one episode: actions, rewards, flags and observations as curves, its texts."""
    start, length = int(store.starts[number]), int(store.lengths[number])
    curves: dict[str, list[list[float | None]]] = {}
    dims: dict[str, int] = {}
    for name, column in store.manifest.columns.items():
        if column.holds_pictures or name.startswith((IMAGES, SALIENCY)) or column.encoding or column.dtype == "str":
            continue
        rows = store.column(name)[start : start + length].reshape(length, -1)
        if rows.shape[1] <= 4 * DIMS:
            dims[name] = rows.shape[1]
            curves[name] = [plain(rows[:, place].astype(float)) for place in range(min(DIMS, rows.shape[1]))]
    texts = {
        name: store.texts(name)[number]
        for name, column in store.manifest.episode_columns.items()
        if column.dtype == "str"
    }
    named = sorted(curves, key=lambda name: (ORDER.index(name) if name in ORDER else len(ORDER), name))
    return Episode(number, start, length, {name: curves[name] for name in named}, dims, texts)


def cameras(store: EpisodeStore) -> list[str]:
    """Return the names of columns that hold pictures of every step."""
    return [camera for camera, column in picture_columns(store).items() if not column.startswith(FINAL)]


def picture(store: EpisodeStore, camera: str, row: int) -> bytes:
    """Return one picture as PNG; Missing for a camera or a row that is not there."""
    from PIL import Image

    columns = picture_columns(store)
    if camera not in columns:
        raise Missing(f"{store.name}: no camera {camera!r}")
    frames = store.frames(columns[camera])
    if not 0 <= row < len(frames):
        raise Missing(f"{store.name}: no row {row}")
    frame = frames.gather(np.array([row]))[0]
    if frame.shape[-1] not in (1, 3, 4):
        frame = frame[..., :1]
    out = io.BytesIO()
    Image.fromarray(frame[..., 0] if frame.shape[-1] == 1 else frame).save(out, "PNG", compress_level=1)
    return out.getvalue()


def statistics_of(manifest: Manifest) -> list[dict[str, Any]]:
    """Return a row for each dimension that is listed in the manifest: its range, mean and spread."""
    rows: list[dict[str, Any]] = []
    for name, known in manifest.statistics.items():
        try:
            columns = [known[key] for key in ("min", "max", "mean", "std")]
            each = list(zip(*columns, strict=True))
        except (KeyError, TypeError, ValueError):
            continue
        rows += [{"column": name, "dim": place, "values": values} for place, values in enumerate(each[:DIMS])]
    return rows


def checked(store: EpisodeStore) -> tuple[list[str], list[str]]:
    """Return what `understudy data verify` finds: damage, and what is only odd. It reads the whole dataset."""
    from understudy.envs.store.verification import findings

    try:
        return findings(store)
    except UnderstudyError as error:
        return [str(error)], []
