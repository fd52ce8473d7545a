"""Windows of pictures a second: from the store, from mp4 in LeRobot's layout, and from HDF5 in robomimic's.

    python benchmarks/pictures.py [--steps 4000] [--repeats 7] [--batch 256]

A window is the last two frames of one camera; 256 of them at random places are a batch, by
one process. Each contender reads the same frames from files in the page cache: the store's raw and JPEG columns
through `Windows.sample`; an mp4 by seeking and decoding for every window as LeRobot does (AV1 with a keyframe every
second frame, its default; PyAV decodes for both); HDF5 with one group a demonstration, read window by window as
robomimic's SequenceDataset does.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from rich.console import Console
from rich.table import Table

from measuring import machine, median, ratio, spread, take_turns
from understudy.envs.sources.lerobot.encoding import encode_video
from understudy.envs.sources.lerobot.video import read_frames
from understudy.envs.store.columns import PictureEncoding
from understudy.envs.store.store import EpisodeStore
from understudy.envs.store.writer import StoreWriter
from understudy.envs.windows.windows import Windows
from understudy.spec.data import DataSpec

EPISODE, FPS, HISTORY, CAMERA = 100, 10.0, 2, "front"


def film(number: int, size: int) -> np.ndarray:
    """Return frames [EPISODE, size, size, 3]: smooth light, a textured table, and a block that moves over it."""
    rng = np.random.default_rng(number)
    texture = rng.normal(0, 6, (size, size, 1))
    light = np.linspace(60, 180, size)[:, None, None] * rng.uniform(0.7, 1.0, (1, 1, 3))
    table = np.clip(light + texture, 0, 255).astype(np.uint8)
    frames = np.repeat(table[None], EPISODE, axis=0)
    path = np.cumsum(rng.normal(0, size / 60, (EPISODE, 2)), axis=0) + size / 2
    width = size // 8
    for frame, (row, column) in zip(frames, np.clip(path, 0, size - width).astype(int), strict=True):
        frame[row : row + width, column : column + width] = (200, 40, 40)
    return frames


def add_film(writer: StoreWriter, frames: np.ndarray) -> None:
    """Add an episode that has frames and nothing else of interest."""
    flat = {name: np.zeros(EPISODE, np.float32) for name in ("rewards", "terminals")}
    writer.add_episode({"actions": np.zeros((EPISODE, 7), np.float32), f"images/{CAMERA}": frames, **flat})


def write_all(folder: Path, episodes: int, size: int) -> None:
    """Write the films as two stores, an mp4 and an HDF5 file."""
    films = [film(number, size) for number in range(episodes)]
    for encoding in ("raw", "jpeg"):
        with StoreWriter(
            folder / encoding, name=encoding, source="-", env_id="-", pictures=PictureEncoding(encoding)
        ) as writer:
            for frames in films:
                add_film(writer, frames)
    encode_video(folder / "video.mp4", np.concatenate(films), FPS)
    with h5py.File(folder / "images.hdf5", "w") as file:
        for number, frames in enumerate(films):
            file.create_dataset(f"data/demo_{number}/obs/{CAMERA}_image", data=frames)


class Contenders:
    """The ways to read one batch; each call returns the windows it read in a second."""

    def __init__(self, folder: Path, episodes: int, batch: int) -> None:
        self._video, self._rng, self._rows, self._batch = (
            folder / "video.mp4",
            np.random.default_rng(0),
            episodes * EPISODE,
            batch,
        )
        self._windows = {
            name: Windows(EpisodeStore.open(folder / name), DataSpec(obs_horizon=HISTORY)) for name in ("raw", "jpeg")
        }
        self._hdf5 = h5py.File(folder / "images.hdf5", "r")
        self._step = 0

    def store(self, name: str, batches: int) -> float:
        """Read by the store's windows."""
        begun = time.perf_counter()
        for _ in range(batches):
            self._step += 1
            batch = self._windows[name].sample([0], self._step, self._batch)
        assert batch["observations"].shape[:2] == (1, self._batch)
        return batches * self._batch / (time.perf_counter() - begun)

    def video(self, windows: int) -> float:
        """Read window by window from the mp4."""
        firsts = self._firsts(windows)
        begun = time.perf_counter()
        for first in firsts:
            frames = read_frames(self._video, [(first + offset) / FPS for offset in range(HISTORY)])
            np.ascontiguousarray(frames)
        return windows / (time.perf_counter() - begun)

    def hdf5(self, windows: int) -> float:
        """Read window by window from the groups of an HDF5 file."""
        firsts = self._firsts(windows)
        begun = time.perf_counter()
        for first in firsts:
            demo, step = divmod(int(first), EPISODE)
            pictures: Any = self._hdf5[f"data/demo_{demo}/obs/{CAMERA}_image"]
            frames = pictures[step : step + HISTORY]
            np.ascontiguousarray(frames)
        return windows / (time.perf_counter() - begun)

    def _firsts(self, count: int) -> np.ndarray:
        rows = self._rng.integers(0, self._rows, count)
        return np.minimum(rows, rows // EPISODE * EPISODE + EPISODE - HISTORY)


def measure(size: int, episodes: int, repeats: int, batch: int, console: Console) -> None:
    """Write films of `size` pixels, let the contenders take turns, print windows a second and the ratios."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        write_all(folder, episodes, size)
        contenders = Contenders(folder, episodes, batch)
        ways: dict[str, Callable[[], float]] = {
            "store, raw": lambda: contenders.store("raw", 8),
            "store, JPEG": lambda: contenders.store("jpeg", 2),
            "mp4, LeRobot's layout": lambda: contenders.video(batch // 4),
            "HDF5, robomimic's layout": lambda: contenders.hdf5(batch),
        }
        for way in ways.values():
            way()  # the files into the page cache
        found = take_turns(ways, repeats)
        sizes = [sum(f.stat().st_size for f in (folder / name).rglob("*")) for name in ("raw", "jpeg")]
        sizes += [(folder / name).stat().st_size for name in ("video.mp4", "images.hdf5")]
    table = Table("", "windows/s", "raw store is faster by", "JPEG store is faster by", "MB", title=f"{size} pixels")
    for (name, values), used in zip(found.items(), sizes, strict=True):
        against = [ratio(found[f"store, {kind}"], values) for kind in ("raw", "JPEG")]
        table.add_row(name, spread(values), *against, f"{used / 1e6:.1f}")
    console.print(table)
    assert median(found["store, raw"]) > 0


def main() -> None:
    """Measure 64 and 128 pixels."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=4000, help="frames in all")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--batch", type=int, default=256)
    chosen = parser.parse_args()
    console = Console(width=120)
    console.print(f"{chosen.steps} frames, history {HISTORY}, batch {chosen.batch}; {machine()}", markup=False)
    for size in (64, 128):
        measure(size, max(1, chosen.steps // EPISODE), chosen.repeats, chosen.batch, console)


if __name__ == "__main__":
    main()
