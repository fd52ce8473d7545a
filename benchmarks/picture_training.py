"""Samples a second of training on pictures: ours, a plain PyTorch loop on the same files, and one on mp4 by PyAV.

    python benchmarks/picture_training.py [--sizes 84 128] [--encoders resnet18 impala] [--batch 16] [--repeats 5]

bc and flow_bc with two cameras. All three have the same network, loss and random numbers. Ours reads batches from the
store and updates a pack; the plain loop has a DataLoader whose dataset reads sample by sample from the store's own
memory-mapped columns, and torch.optim.Adam; the third is the plain loop on mp4 files in LeRobot's layout (AV1), seeked
and decoded for each sample as LeRobot does. One process and one thread each, without loader workers: seconds are of its
CPU time, and `data` is the share of them that went into the batch, which is the most that a trainer can wait for. Three
of them take turns; a ratio is the median of the ratios of such turns, with its quartiles.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from measuring import machine, median, ratio, spread, take_turns
from pictures import EPISODE, FPS, film
from understudy.algorithm import Algorithm, Batch
from understudy.envs.sources.lerobot.encoding import encode_video
from understudy.envs.sources.lerobot.video import read_frames
from understudy.envs.store.columns import PictureEncoding
from understudy.envs.store.store import EpisodeStore
from understudy.envs.store.writer import StoreWriter
from understudy.envs.windows.windows import Windows
from understudy.randomness import torch_generator
from understudy.registry import algorithms
from understudy.spec.data import DataSpec
from understudy.trainables.packs.pack import Pack

CAMERAS, ACTION_DIM = ("front", "wrist"), 7


def write(folder: Path, episodes: int, size: int) -> None:
    """Write the same films as a store and as one mp4 a camera."""
    films = {name: [film(2 * n + place, size) for n in range(episodes)] for place, name in enumerate(CAMERAS)}
    raw = PictureEncoding("raw")
    with StoreWriter(folder / "store", name="store", source="-", env_id="-", pictures=raw) as writer:
        for number in range(episodes):
            actions = np.random.default_rng(number).uniform(-1, 1, (EPISODE, ACTION_DIM)).astype(np.float32)
            flat = {name: np.zeros(EPISODE, np.float32) for name in ("rewards", "terminals")}
            pictures = {f"images/{name}": frames[number] for name, frames in films.items()}
            writer.add_episode({"actions": actions, **pictures, **flat})
    for name, frames in films.items():
        encode_video(folder / f"{name}.mp4", np.concatenate(frames), FPS)


class Samples(Dataset[dict[str, torch.Tensor]]):
    """Samples one by one, as plain code has them: from the store's columns, or from mp4."""

    def __init__(self, folder: Path, *, video: bool) -> None:
        store = EpisodeStore.open(folder / "store")
        self._actions = store.column("actions")
        self._pictures = {name: store.column(f"images/{name}") for name in CAMERAS}
        self._folder, self._video = folder, video

    def __len__(self) -> int:
        return len(self._actions)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        found = {"actions": torch.tensor(self._actions[index])}
        for name in CAMERAS:
            if self._video:
                frame = read_frames(self._folder / f"{name}.mp4", [index / FPS])[0]
            else:
                frame = np.array(self._pictures[name][index])
            found[name] = torch.from_numpy(frame)
        return found


def plain(algorithm: Algorithm, samples: Samples, batch: int) -> Callable[[], tuple[float, float]]:
    """Return what takes a step of a plain loop and gives the seconds for its batch and for the rest."""
    network = algorithm.network(torch_generator(0, "weights"))
    optimiser = torch.optim.Adam(network.parameters(), lr=3e-4)
    loader = DataLoader(samples, batch, shuffle=True, drop_last=True)

    def forever() -> Iterator[dict[str, torch.Tensor]]:
        while True:
            yield from loader

    batches, drawn = forever(), torch_generator(0, "draw")

    def once() -> tuple[float, float]:
        begun = time.process_time()
        read = next(batches)
        between = time.process_time()
        actions = read.pop("actions").unsqueeze(1)
        data: Batch = {"observations": read, "actions": actions, "valid": torch.ones(batch, 1)}
        loss, _ = algorithm.loss(network, {}, data, algorithm.draw(batch, drawn))
        optimiser.zero_grad()
        torch.autograd.backward(loss)
        optimiser.step()
        return between - begun, time.process_time() - between

    return once


def ours(algorithm: Algorithm, windows: Windows, batch: int) -> Callable[[], tuple[float, float]]:
    """Return what takes an update of a pack and gives the same two numbers."""
    pack, step = Pack(algorithm, [0]), 0

    def once() -> tuple[float, float]:
        nonlocal step
        step += 1
        begun = time.process_time()
        read = windows.sample([0], step, batch)
        between = time.process_time()
        pack.update(read, step)
        return between - begun, time.process_time() - between

    return once


def measure(name: str, encoder: str, folder: Path, given: argparse.Namespace) -> None:
    """Print one row a contender."""
    windows = Windows(EpisodeStore.open(folder / "store"), DataSpec())
    kind: Any = algorithms.get(name)
    settings: dict[str, Any] = {"encoder": encoder, "hidden_dims": (256, 256)}
    algorithm = kind(windows.observation_shape, ACTION_DIM, kind.Config(**settings))
    ways = {
        "ours": ours(algorithm, windows, given.batch),
        "DataLoader": plain(algorithm, Samples(folder, video=False), given.batch),
        "mp4 by PyAV": plain(algorithm, Samples(folder, video=True), given.batch),
    }
    shares: dict[str, list[float]] = {way: [] for way in ways}

    def rate(way: str) -> float:
        seconds = np.array([ways[way]() for _ in range(given.steps)]).sum(axis=0)
        shares[way].append(100 * seconds[0] / seconds.sum())
        return given.batch * given.steps / seconds.sum()

    for once in ways.values():
        once()
    found = take_turns({way: lambda way=way: rate(way) for way in ways}, given.repeats)
    for way, values in found.items():
        share = f"data {median(shares[way]):.1f} %"
        print(f"    {way:<12} {spread(values):<22} ours {ratio(found['ours'], values):<22} {share}")


def main() -> None:
    """Print a table for each size."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", default=[84, 128])
    parser.add_argument("--encoders", nargs="+", default=["resnet18", "impala"])
    parser.add_argument("--methods", nargs="+", default=["bc", "flow_bc"])
    parser.add_argument("--episodes", type=int, default=20, help=f"of {EPISODE} frames")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--steps", type=int, default=2, help="of each measurement")
    parser.add_argument("--repeats", type=int, default=5)
    given = parser.parse_args()
    torch.set_num_threads(1)
    print(f"samples/s of a core, batch {given.batch}, two cameras; times ours is faster; {machine()}")
    for size in given.sizes:
        with tempfile.TemporaryDirectory() as scratch:
            write(Path(scratch), given.episodes, size)
            for encoder in given.encoders:
                for name in given.methods:
                    print(f"  {name}, {encoder}, {size} pixels", flush=True)
                    measure(name, encoder, Path(scratch), given)


if __name__ == "__main__":
    main()
