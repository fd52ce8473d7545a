"""Describe a store: what `understudy data info` prints, and what is noted of its data."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from understudy.envs.store.store import (
    IMAGES,
    EpisodeStore,
    Manifest,
)
from understudy.registry import sources

BARS = " ▁▂▃▄▅▆▇█"
ROUNDING = 1e-4
"""How far beyond 1 an action may lie that is 1 but for rounding."""
SUCCESS, INTERVENTIONS = "success", "interventions"
"""Columns of recordings: whether a step succeeded, and whether somebody took it from a policy."""
PICTURES_SHOWN = 64
"""Pictures that the histogram of a camera is made from."""


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
    length_histogram: str
    return_histogram: str
    terminated_episodes: int
    successful_episodes: int | None
    """Number of successful episodes; None where the data do not tell success."""
    corrected_steps: float
    """Share of the steps that somebody took from a policy."""
    corrected_episodes: int
    dimensions: list[DimensionInfo]
    notes: list[str]

    def text(self) -> str:
        """Return the description as lines of at most 100 characters for a terminal."""
        manifest = self.manifest
        shapes = {**manifest.columns, **manifest.episode_columns}
        columns = ", ".join(f"{name} {list(column.shape)}" for name, column in shapes.items())
        lines = [
            manifest.name,
            *_wrapped("source", f"{manifest.source}, {_environment(manifest.env_id)}"),
            *_wrapped("made by", str(manifest.provenance.get("made_by", ""))),
            *_wrapped("hash", manifest.content_hash),
            *_wrapped("size", f"{self.bytes / 1e6:.1f} MB"),
            *_wrapped("holds", f"{manifest.num_episodes} episodes, {manifest.num_transitions} transitions"),
            *_wrapped("columns", columns),
            _spread("length", (self.length_min, self.length_max, self.length_median, "median"), self.length_histogram),
            _spread("return", (self.return_min, self.return_max, self.return_mean, "mean"), self.return_histogram),
            *_wrapped("ends", f"{self.terminated_episodes} episodes reached a terminal state"),
            *_wrapped("success", self._success()),
            *_wrapped("corrected", self._corrected()),
            *(line for note in self.notes for line in _wrapped("note", note)),
            "",
            f"{'column':<18}{'dim':>9}{'min':>11}{'max':>11}{'mean':>11}{'std':>11}  histogram, min to max",
        ]
        shown = ""
        for first, last in _grouped(self.dimensions):
            dims = f"{first.index}" if first is last else f"{first.index}-{last.index}"
            heading = f"{'' if first.column == shown else first.column:<18}{dims:>9}"
            shown = first.column
            if first.min == first.max:
                lines.append(f"{heading}{first.min:>11.4g}  never changes")
            else:
                numbers = "".join(f"{value:>11.4g}" for value in (first.min, first.max, first.mean, first.std))
                lines.append(f"{heading}{numbers}  {first.histogram}")
        return "\n".join(lines)

    def _success(self) -> str:
        return (
            ""
            if self.successful_episodes is None
            else f"{self.successful_episodes} of {self.manifest.num_episodes} episodes"
        )

    def _corrected(self) -> str:
        episodes = self.corrected_episodes
        return f"{self.corrected_steps:.2g} of the steps, in {episodes} episodes" if episodes else ""

    def __rich__(self) -> str:
        return self.text()


def _environment(env_id: str) -> str:
    return f"environment {env_id}" if env_id else "without an environment (policies are scored on held-out episodes)"


def _wrapped(label: str, text: str) -> list[str]:
    """Return labelled lines of at most 100 characters; none for an empty text."""
    parts = textwrap.wrap(text, 88, break_long_words=False, break_on_hyphens=False)
    return [f"  {label if i == 0 else '':<10}{part}" for i, part in enumerate(parts)]


def _spread(label: str, numbers: tuple[float, float, float, str], histogram: str) -> str:
    low, high, middle, name = numbers
    return f"  {label:<10}{low:.4g} to {high:.4g}, {name} {middle:.4g}   {histogram}"


def _grouped(dimensions: list[DimensionInfo]) -> Iterator[tuple[DimensionInfo, DimensionInfo]]:
    """Yield (first, last) of the dimensions to show in one line: neighbours that never change from the same value."""
    start = 0
    for end, (dim, after) in enumerate(zip(dimensions, [*dimensions[1:], None], strict=True)):
        same = after is not None and (after.column, after.min, after.max) == (dim.column, dim.min, dim.min)
        if not same or dim.min != dim.max:
            yield dimensions[start], dim
            start = end + 1


def describe_store(
    store: EpisodeStore, bins: int = 16, columns: tuple[str, ...] = ("observations", "actions", "rewards")
) -> StoreInfo:
    """Return counts, episode lengths and returns, and ranges with text histograms of every dimension."""
    columns = (*columns, *(IMAGES + camera for camera in store.cameras()))
    returns = np.add.reduceat(store.column("rewards").astype(np.float64), store.starts)
    ended = np.maximum.reduceat(store.column("terminals"), store.starts)
    solved, corrected = _flags(store, SUCCESS), _flags(store, INTERVENTIONS)
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
        length_histogram=text_histogram(store.lengths, bins),
        return_histogram=text_histogram(returns, bins),
        terminated_episodes=int((ended > 0).sum()),
        successful_episodes=None if solved is None else int(np.maximum.reduceat(solved, store.starts).sum()),
        corrected_steps=0.0 if corrected is None else float(corrected.mean()),
        corrected_episodes=0 if corrected is None else int(np.maximum.reduceat(corrected, store.starts).sum()),
        dimensions=dimensions,
        notes=notes_of(store),
    )


def _flags(store: EpisodeStore, name: str) -> np.ndarray | None:
    """Return where a column is not 0, [N]; None without one that has a number a step."""
    column = store.manifest.columns.get(name)
    return None if column is None or column.shape else store.column(name) > 0


def text_histogram(values: np.ndarray, bins: int = 16) -> str:
    """Return a histogram as text, one character a bin; a bin that holds anything shows at least the lowest bar."""
    counts, _ = np.histogram(values, bins)
    top = max(int(counts.max()), 1)
    return "".join(BARS[int(np.ceil(count / top * (len(BARS) - 1)))] for count in counts)


def notes_of(store: EpisodeStore) -> list[str]:
    """Return what was converted or left out when the data came in, and what of them is odd at first sight; lines."""
    provenance = store.manifest.provenance
    said = [*provenance.get("notes", []), *(f"left out: {what}" for what in provenance.get("left_out", []))]
    return [*said, *filter(None, (_single_steps(store.lengths), actions_beyond(store)))]


def _single_steps(lengths: np.ndarray) -> str:
    short = int((lengths == 1).sum())
    if short * 2 <= len(lengths) or len(lengths) < 3:
        return ""
    return f"{short} of {len(lengths)} episodes have one step: were they cut at the wrong rows?"


def has_unit_actions(env_name: str, store: EpisodeStore | None = None) -> bool:
    """Return whether actions of the dataset's environment span [-1, 1].

    Of names of no source: whether the store's own actions do, yes without one.
    """
    known = [source for _, source in sources.items()]
    named = [source for source in known if source.matches(env_name)]
    named = named or [source for source in known if source.registered(env_name) is not None]
    if named or store is None:
        return all(source.unit_actions for source in named)
    low, high = _reach(store)
    return max(-low, high) <= 1 + ROUNDING


def _reach(store: EpisodeStore) -> tuple[float, float]:
    """Return the least and the largest number in a store's actions."""
    numbers = store.manifest.statistics["actions"]
    return min(numbers["min"]), max(numbers["max"])


def actions_beyond(store: EpisodeStore) -> str:
    """Return a line on actions beyond [-1, 1] of a task whose actions span that, else ""."""
    if not has_unit_actions(str(store.manifest.provenance.get("env_name") or store.name), store):
        return ""
    low, high = _reach(store)
    if max(-low, high) <= 1 + ROUNDING:
        return ""
    return (
        f"actions reach from {low:.4g} to {high:.4g}, beyond the task's [-1, 1], and training clips them to that:"
        " normalize_actions=bounds learns them in their own range"
    )


def _some(store: EpisodeStore, name: str) -> np.ndarray:
    """Return a column's rows; of pictures, a few that stand for all."""
    column = store.manifest.columns[name]
    if len(column.shape) < 3:
        return store.column(name)
    rows = np.linspace(0, store.manifest.num_transitions - 1, min(PICTURES_SHOWN, store.manifest.num_transitions))
    return store.frames(name).gather(rows.astype(np.int64))


def _dimensions(store: EpisodeStore, name: str, bins: int) -> list[DimensionInfo]:
    if name not in store.manifest.columns:
        return []
    numbers = store.manifest.statistics[name]
    values = _some(store, name)
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
