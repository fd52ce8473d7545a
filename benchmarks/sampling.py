"""Batches/s of `Windows.sample` against numpy samplers that do what Q-chunking's `sample_sequence` does.

    python benchmarks/sampling.py [--transitions 1000000] [--batches 200] [--repeats 15]

Horizon 5, batch 256. `reference` gathers a window of every key (six of them, next observations included) and adds up
discounted rewards over it, as the method's own code does for any algorithm; `lean` gathers only what behavioural
cloning needs: the same arrays that `Windows.sample` gives. Both hold the data in memory; the store is mapped and in
the page cache. With 8 members the numpy samplers are called once for each, as separate runs would.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np

from measuring import machine, make_hdf5, make_store, ratio, read_hdf5, spread, take_turns
from understudy.envs.store.store import EpisodeStore
from understudy.envs.windows.windows import Windows
from understudy.spec.learning import Sampling

BATCH, HORIZON, DISCOUNT = 256, 5, 0.99


def reference_sequence(data: dict[str, np.ndarray], rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Sample windows of every key: rewards [b, H] summed so far, masks, terminals and valid along the window."""
    size = len(data["actions"])
    first = rng.integers(0, size - HORIZON + 1, BATCH)
    single = {name: values[first] for name, values in data.items()}
    rows = first[:, None] + np.arange(HORIZON)
    window = {name: values[rows] for name, values in data.items()}
    rewards, masks, terminals = (window[name].copy() for name in ("rewards", "masks", "terminals"))
    valid = np.ones((BATCH, HORIZON), np.float32)
    for step in range(1, HORIZON):
        rewards[:, step] = rewards[:, step - 1] + window["rewards"][:, step] * DISCOUNT**step
        masks[:, step] = np.minimum(masks[:, step - 1], window["masks"][:, step])
        terminals[:, step] = np.maximum(terminals[:, step - 1], window["terminals"][:, step])
        valid[:, step] = 1.0 - terminals[:, step - 1]
    return {
        "observations": single["observations"],
        "full_observations": window["observations"],
        "actions": window["actions"],
        "rewards": rewards,
        "masks": masks,
        "terminals": terminals,
        "valid": valid,
        "next_observations": window["next_observations"],
        "next_actions": data["actions"][np.minimum(rows + 1, size - 1)],
    }


def lean_sequence(data: dict[str, np.ndarray], last: np.ndarray, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Sample the first observation, the actions and valid, in numpy; `last` is each row's end of episode."""
    first = rng.integers(0, len(last), BATCH)
    rows = first[:, None] + np.arange(HORIZON)
    ends = last[first][:, None]
    return {
        "observations": data["observations"][first],
        "actions": data["actions"][np.minimum(rows, ends)],
        "valid": (rows <= ends).astype(np.float32),
    }


def in_memory(file: Path) -> dict[str, np.ndarray]:
    """Return the keys that the reference's dataset holds, float32; `terminals` end episodes, `masks` are 1 - done."""
    data = read_hdf5(file)
    ends = (data.pop("timeouts") | data["terminals"]).astype(np.float32)
    return {**data, "terminals": ends, "masks": 1.0 - data["terminals"].astype(np.float32)}


def rate(sample: Callable[[int], object], batches: int, members: int) -> float:
    """Return batches/s of a function that is told the step and gives a batch for each member."""
    begin = time.perf_counter()
    for step in range(batches):
        sample(step)
    return batches * members / (time.perf_counter() - begin)


def contenders(store: EpisodeStore, data: dict[str, np.ndarray], members: int) -> dict[str, Callable[[int], object]]:
    """Return the samplers, each a function of the step."""
    windows, rng = Windows(store, sampling=Sampling(horizon=HORIZON)), np.random.default_rng(0)
    last = np.repeat(store.starts + store.lengths - 1, store.lengths)
    seeds = list(range(members))
    return {
        "windows": lambda step: windows.sample(seeds, step, BATCH),
        "reference": lambda step: [reference_sequence(data, rng) for _ in seeds],
        "lean numpy": lambda step: [lean_sequence(data, last, rng) for _ in seeds],
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--transitions", type=int, default=1_000_000)
    parser.add_argument("--batches", type=int, default=200, help="batches of a measurement (divided by the members)")
    parser.add_argument("--repeats", type=int, default=15)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        store = make_store(Path(folder), options.transitions)
        data = in_memory(make_hdf5(Path(folder) / "data.hdf5", store))
        for name in store.manifest.columns:
            store.column(name).sum()  # maps every page
        print(f"batches/s of {BATCH} chunks of {HORIZON}, {options.transitions} transitions; {machine()}")
        for members in (1, 8):
            samplers = contenders(store, data, members)
            batches = max(1, options.batches // members)
            turns = {name: partial(rate, sample, batches, members) for name, sample in samplers.items()}
            found = take_turns(turns, options.repeats)
            for name, values in found.items():
                print(f"{name:11} {spread(values, 4)} batches/s, {members} member{'s' * (members > 1)}")
            for name in ("reference", "lean numpy"):
                print(f"windows/{name:11} {ratio(found['windows'], found[name])}  ({options.repeats} pairs)")


if __name__ == "__main__":
    main()
