"""Describe and check a store: what `understudy data info` and `understudy data verify` print."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from understudy.envs.store import EPISODES, TRANSITIONS, EpisodeStore, Manifest, combine_digests, digest
from understudy.files import sha256

BARS = " ▁▂▃▄▅▆▇█"
CHUNK_ROWS = 65536


@dataclass(frozen=True)
class DimensionInfo:
    """One dimension of a column; `histogram` is a bar a bin from min to max, as text."""

    column: str
    index: int
    min: float
    max: float
    mean: float
    std: float
    histogram: str


@dataclass(frozen=True)
class StoreInfo:
    """What a store holds, for people."""

    manifest: Manifest
    bytes: int
    length_min: int
    length_median: float
    length_max: int
    return_min: float
    return_mean: float
    return_max: float
    terminated_episodes: int
    dimensions: list[DimensionInfo]

    def text(self) -> str:
        """Return the description as lines for a terminal."""
        manifest = self.manifest
        lines = [
            f"{manifest.name}  (from {manifest.source}, environment {manifest.env_id}, hash {manifest.content_hash})",
            f"{manifest.num_episodes} episodes, {manifest.num_transitions} transitions, {self.bytes / 1e6:.1f} MB",
            f"episode length {self.length_min} to {self.length_max}, median {self.length_median:g}",
            f"episode return {self.return_min:.4g} to {self.return_max:.4g}, mean {self.return_mean:.4g}",
            f"{self.terminated_episodes} episodes reached a terminal state",
            f"{'column':<16}{'dim':>4}{'min':>11}{'max':>11}{'mean':>11}{'std':>11}  histogram, min to max",
        ]
        for dim in self.dimensions:
            numbers = "".join(f"{value:>11.4g}" for value in (dim.min, dim.max, dim.mean, dim.std))
            lines.append(f"{dim.column:<16}{dim.index:>4}{numbers}  {dim.histogram}")
        made = manifest.provenance.get("made_by")
        return "\n".join([*lines, f"made by {made}"] if made else lines)

    def __rich__(self) -> str:
        return self.text()


def describe(
    store: EpisodeStore, bins: int = 16, columns: tuple[str, ...] = ("observations", "actions", "rewards")
) -> StoreInfo:
    """Return counts, episode lengths and returns, and ranges with text histograms of every dimension."""
    returns = np.add.reduceat(store.column("rewards").astype(np.float64), store.starts)
    ended = np.maximum.reduceat(store.column("terminals"), store.starts)
    dimensions = [info for name in columns for info in _dimensions(store, name, bins)]
    return StoreInfo(
        manifest=store.manifest,
        bytes=sum(int(record["size"]) for record in store.manifest.files.values()),
        length_min=int(store.lengths.min()),
        length_median=float(np.median(store.lengths)),
        length_max=int(store.lengths.max()),
        return_min=float(returns.min()),
        return_mean=float(returns.mean()),
        return_max=float(returns.max()),
        terminated_episodes=int((ended > 0).sum()),
        dimensions=dimensions,
    )


def text_histogram(values: np.ndarray, bins: int = 16) -> str:
    """Return a histogram as text, one character a bin; a bin that holds anything shows at least the lowest bar."""
    counts, _ = np.histogram(values, bins)
    top = max(int(counts.max()), 1)
    return "".join(BARS[int(np.ceil(count / top * (len(BARS) - 1)))] for count in counts)


def verify_store(store: EpisodeStore) -> list[str]:
    """Return what is wrong or odd: changed bytes, NaN, constant dimensions, empty and duplicate episodes."""
    return [*damage(store), *oddities(store)]


def damage(store: EpisodeStore) -> list[str]:
    """Return what makes a store unfit: changed bytes, NaN, a broken episode index."""
    return [*_changed(store), *_bad_numbers(store), *_index(store)]


def oddities(store: EpisodeStore) -> list[str]:
    """Return what may be meant: dimensions that never change, duplicate episodes."""
    return [*_constant(store), *_duplicates(store)]


def _changed(store: EpisodeStore) -> list[str]:
    findings = []
    for name in (TRANSITIONS, EPISODES):
        if sha256(store.path / name) != store.manifest.files[name].get("sha256"):
            findings.append(f"{name}: its bytes changed since it was written (checksum differs)")
    columns = [(name, schema, digest(store.column(name))) for name, schema in store.manifest.columns.items()]
    columns += [(n, schema, digest(store.episode_column(n))) for n, schema in store.manifest.episode_columns.items()]
    if combine_digests(columns, digest(store.starts, store.lengths)) != store.manifest.content_hash:
        findings.append("content hash differs from the manifest's")
    return findings


def _bad_numbers(store: EpisodeStore) -> list[str]:
    findings = []
    for name in store.manifest.columns:
        values = store.column(name)
        if values.dtype.kind != "f":
            continue
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
    findings = []
    for name in ("observations", "actions"):
        numbers = store.manifest.statistics.get(name, {"min": [], "max": []})
        same = [i for i, (low, high) in enumerate(zip(numbers["min"], numbers["max"], strict=True)) if low == high]
        if same:
            findings.append(f"{name}: never changes in dimension {', '.join(map(str, same))}")
    return findings


def _index(store: EpisodeStore) -> list[str]:
    findings = [f"episode {i}: has no steps" for i in np.flatnonzero(store.lengths < 1)]
    ends = store.starts + store.lengths
    if store.starts[0] != 0 or (store.starts[1:] != ends[:-1]).any():
        findings.append("episode index: episodes overlap or leave gaps")
    return findings


def _duplicates(store: EpisodeStore) -> list[str]:
    findings = []
    seen: dict[str, int] = {}
    observations, actions = store.column("observations"), store.column("actions")
    for number, (begin, end) in enumerate(zip(store.starts, store.starts + store.lengths, strict=True)):
        key = digest(observations[begin:end], actions[begin:end])
        if key in seen:
            findings.append(f"episode {number}: the same as episode {seen[key]}")
        seen.setdefault(key, number)
    return findings


def _dimensions(store: EpisodeStore, name: str, bins: int) -> list[DimensionInfo]:
    if name not in store.manifest.columns:
        return []
    numbers = store.manifest.statistics[name]
    values = store.column(name)
    flat = values.reshape(-1, len(numbers["min"]))  # per dimension, or per channel of a picture
    stride = max(1, len(flat) // 200_000)  # a histogram for the eye needs no more
    return [
        DimensionInfo(
            column=name,
            index=i,
            min=numbers["min"][i],
            max=numbers["max"][i],
            mean=numbers["mean"][i],
            std=numbers["std"][i],
            histogram=text_histogram(flat[::stride, i], bins),
        )
        for i in range(flat.shape[1])
    ]
