"""Check every picture of a store for `understudy data verify`: unreadable, one colour, stuck, black.

Frames are read in blocks, each once, so memory does not grow with the store. Shapes: N frames, [H, W, C] a picture.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from understudy.envs.store.frames import Frames, JpegFrames
from understudy.envs.store.store import FINAL, IMAGES, EpisodeStore
from understudy.errors import DatasetError
from understudy.observations import PIXELS

BLOCK_BYTES = 2**26
SPREAD = 2
"""Levels of 255 that pixels of a picture of one colour may differ by: JPEG rounds."""
BLACK = 8
"""The brightest level of a black picture: a covered lens has some noise."""
STRIDE = 61
"""Every so many pixels are asked first."""
END_OF_JPEG = b"\xff\xd9"


@dataclass
class PictureReport:
    """What was found in one column of pictures; rows are of transitions, or with `by_episode` numbers of episodes."""

    column: str
    frames: int
    by_episode: bool = False
    unreadable: list[int] = field(default_factory=list[int])
    one_colour: list[int] = field(default_factory=list[int])
    black: int = 0
    stuck: list[int] = field(default_factory=list[int])
    """Episodes of two steps or more in which the picture never changes."""

    def damage(self, store: EpisodeStore) -> list[str]:
        """Return what makes the pictures unfit, as lines."""
        if not self.unreadable:
            return []
        return [
            f"{self.column}: {len(self.unreadable)} of {self.frames} frames cannot be decoded, {self._first(store)}"
        ]

    def oddities(self, store: EpisodeStore) -> list[str]:
        """Return what may be meant, as lines."""
        if self.black and self.black + len(self.unreadable) == self.frames:
            return [f"{self.column}: every frame is black"]
        lines: list[str] = []
        if self.one_colour:
            where = _place(store, self.one_colour[0], self.by_episode)
            lines.append(
                f"{self.column}: {len(self.one_colour)} of {self.frames} frames are of one colour, the first in {where}"
            )
        if self.stuck:
            count = store.manifest.num_episodes
            lines.append(
                f"{self.column}: the picture never changes in {len(self.stuck)} of {count} episodes,"
                f" the first is episode {self.stuck[0]}"
            )
        return lines

    def _first(self, store: EpisodeStore) -> str:
        return f"the first in {_place(store, self.unreadable[0], self.by_episode)}"


def picture_columns(store: EpisodeStore) -> dict[str, str]:
    """Return the column of each camera; a lone picture column, `observations`, is the camera `pixels`."""
    cameras = {camera: IMAGES + camera for camera in store.cameras()}
    observations = store.manifest.columns.get("observations")
    if not cameras and observations is not None and observations.holds_pictures:
        return {PIXELS: "observations"}
    return cameras


def scan_pictures(store: EpisodeStore) -> list[PictureReport]:
    """Check every frame of every camera, and what came after the last actions."""
    reports = [_scan(store, column, by_episode=False) for column in picture_columns(store).values()]
    final = [FINAL + column for column in picture_columns(store).values()]
    return reports + [_scan(store, name, by_episode=True) for name in final if name in store.manifest.episode_columns]


def _scan(store: EpisodeStore, column: str, *, by_episode: bool) -> PictureReport:
    frames = store.frames(column)
    report = PictureReport(column, len(frames), by_episode)
    changes = np.ones(len(frames), bool)
    block = max(1, BLOCK_BYTES // int(np.prod(frames.shape)))
    last: np.ndarray | None = None
    for begin in range(0, len(frames), block):
        rows = np.arange(begin, min(begin + block, len(frames)))
        rows, pictures = _readable(frames, rows, report)
        if not len(rows):
            continue
        flat = pictures.reshape(len(rows), -1, frames.shape[-1])
        report.black += int(_confirm(_is_black, flat).sum())
        report.one_colour += rows[_confirm(_is_one_colour, flat)].tolist()
        before = flat[:-1] if last is None else np.concatenate([last[None], flat[:-1]])
        after = flat[len(flat) - len(before) :]
        changes[rows[len(flat) - len(before) :]] = ~_confirm(_are_equal, after, before)
        last = flat[-1].copy()
    if not by_episode:
        report.stuck = _stuck(store, changes)
    return report


def _confirm(test: Callable[..., np.ndarray], *pictures: np.ndarray) -> np.ndarray:
    """Return where a test holds, [n], of pictures [n, H*W, C]: a few pixels are asked first, for most pictures fail."""
    holds = test(*(values[:, ::STRIDE] for values in pictures))
    maybe = np.flatnonzero(holds)
    holds[maybe] = test(*(values[maybe] for values in pictures))
    return holds


def _is_black(pictures: np.ndarray) -> np.ndarray:
    return pictures.max(axis=(1, 2)) <= BLACK


def _is_one_colour(pictures: np.ndarray) -> np.ndarray:
    return (pictures.max(axis=1).astype(np.int16) - pictures.min(axis=1)).max(axis=1) <= SPREAD


def _are_equal(pictures: np.ndarray, others: np.ndarray) -> np.ndarray:
    return (pictures == others).all(axis=(1, 2))


def _readable(frames: Frames, rows: np.ndarray, report: PictureReport) -> tuple[np.ndarray, np.ndarray]:
    """Return the rows that can be read and their pictures; the others are noted."""
    if not isinstance(frames, JpegFrames):
        return rows, frames.gather(rows)
    read: list[int] = []
    pictures: list[np.ndarray] = []
    for row in rows:
        try:
            # libjpeg fills up what a file cut short does not have, without an error.
            if frames.encoded(row)[-2:].tobytes() != END_OF_JPEG:
                raise DatasetError("cut short")
            pictures.append(frames.gather(np.array([row]))[0])
            read.append(int(row))
        except DatasetError:
            report.unreadable.append(int(row))
    return np.array(read, np.int64), np.stack(pictures) if pictures else np.empty((0, *frames.shape), np.uint8)


def _stuck(store: EpisodeStore, changes: np.ndarray) -> list[int]:
    """Return the episodes with no change from any step to the next."""
    count = np.concatenate([[0], np.cumsum(changes)])
    ends = store.starts + store.lengths
    inside = count[ends] - count[np.minimum(store.starts + 1, ends)]
    return np.flatnonzero((inside == 0) & (store.lengths > 1)).tolist()


def _place(store: EpisodeStore, row: int, by_episode: bool) -> str:
    if by_episode:
        return f"episode {row}"
    episode = int(np.searchsorted(store.starts, row, side="right")) - 1
    return f"episode {episode}, step {row - int(store.starts[episode])}"
