"""What the benchmarks share: made-up data of HalfCheetah's dims as a store and as HDF5, and ratios with their spread.

The contenders of a benchmark take turns in one run, so that a machine that gets slower meanwhile slows all of them,
and a ratio is the median of the ratios of such pairs with its quartiles.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import h5py
import numpy as np

from understudy.envs.store.store import EpisodeStore
from understudy.envs.store.writer import StoreWriter

NAME = "halfcheetah-medium-v2"
OBSERVATION_DIM, ACTION_DIM, EPISODE = 17, 6, 1000


def episodes(transitions: int) -> Iterator[dict[str, np.ndarray]]:
    """Yield made-up episodes of 1000 steps (the last one may be shorter) with `transitions` steps in all."""
    rng = np.random.default_rng(0)
    for begin in range(0, transitions, EPISODE):
        steps = min(EPISODE, transitions - begin)
        observations = rng.standard_normal((steps + 1, OBSERVATION_DIM), np.float32)
        yield {
            "observations": observations[:-1],
            "actions": rng.uniform(-1, 1, (steps, ACTION_DIM)).astype(np.float32),
            "rewards": rng.standard_normal(steps, np.float32),
            "terminals": np.zeros(steps, bool),
            "final_observation": observations[-1],
        }


def make_store(folder: Path, transitions: int) -> EpisodeStore:
    """Write the episodes as a store in `folder` and open it."""
    with StoreWriter(folder / NAME, name=NAME, source="d4rl", env_id="HalfCheetah-v4") as writer:
        for episode in episodes(transitions):
            writer.add_episode(episode)
    return EpisodeStore.open(folder / NAME)


def make_hdf5(file: Path, store: EpisodeStore, compression: str | None = None) -> Path:
    """Write a store's data in D4RL's layout, next observations and time-outs included; D4RL's own files use gzip."""
    ends = store.starts + store.lengths - 1
    following = np.concatenate([store.column("observations")[1:], store.column("observations")[:1]])
    following[ends] = store.episode_column("final_observations")
    arrays = {name: store.column(name) for name in ("observations", "actions", "rewards", "terminals")}
    arrays |= {"next_observations": following, "timeouts": np.isin(np.arange(len(following)), ends)}
    with h5py.File(file, "w") as target:
        for name, values in arrays.items():
            target.create_dataset(name, data=values, compression=compression)
    return file


def read_hdf5(file: Path) -> dict[str, np.ndarray]:
    """Read every array of an HDF5 file into memory, as d4rl's `get_dataset` does."""
    with h5py.File(file, "r") as source:
        return {name: np.asarray(source[name]) for name in list(source)}


def take_turns(contenders: dict[str, Callable[[], float]], repeats: int) -> dict[str, list[float]]:
    """Call each contender `repeats` times, one after another, every other round in reverse; return what they gave."""
    found: dict[str, list[float]] = {name: [] for name in contenders}
    for turn in range(repeats):
        names = list(contenders) if turn % 2 == 0 else list(contenders)[::-1]
        for name in names:
            found[name].append(contenders[name]())
    return found


def spread(values: Sequence[float], digits: int = 3) -> str:
    """Return the median and the quartiles as text."""
    low, middle, high = np.percentile(values, [25, 50, 75])
    return f"{middle:.{digits}g}  [{low:.{digits}g}, {high:.{digits}g}]"


def ratio(over: Sequence[float], under: Sequence[float]) -> str:
    """Return the median of the pairs' ratios and its quartiles as text."""
    return spread([a / b for a, b in zip(over, under, strict=True)])


def machine() -> str:
    """Return a line that says what the figures were measured on, and how busy it was."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return f"{cores} cores, load average {os.getloadavg()[0]:.1f}; medians [quartiles], contenders take turns"


def median(values: Sequence[float]) -> float:
    """Return the median."""
    return statistics.median(values)


class Beside:
    """Another process that measures when it is told to, and sleeps meanwhile; `words` begin with an interpreter."""

    def __init__(self, *words: str) -> None:
        self._process = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert self._process.stdout is not None
        if self._process.stdout.readline().strip() != "ready":
            raise SystemExit(f"{' '.join(words)}: does not run: see above")

    def measure(self, seconds: float) -> float:
        """Return what it measures in so many seconds."""
        stdin, stdout = self._process.stdin, self._process.stdout
        assert stdin is not None
        assert stdout is not None
        print(seconds, file=stdin, flush=True)
        return float(stdout.readline())

    def close(self) -> None:
        """End it."""
        self._process.kill()
        self._process.wait()


class Jax(Beside):
    """The interpreter `python`, which has jax, with `in_jax.py`."""

    def __init__(self, python: str, *words: str) -> None:
        super().__init__(python, str(Path(__file__).with_name("in_jax.py")), *words)


def answer(measure: Callable[[float], float]) -> None:
    """Be what `Beside` starts: say `ready`, and answer each line of seconds by what is measured in them."""
    print("ready", flush=True)
    for line in sys.stdin:
        print(measure(float(line)), flush=True)
