"""Time from nothing to the first batch: an episode store against an h5py read of the same data.

    python benchmarks/store_open.py [--transitions 1000000] [--repeats 10]

Each measurement is a fresh process that has imported its libraries and opened nothing. Both files are in the page
cache. h5py reads every array into memory, as d4rl does, and then takes one batch with numpy: once from a file without
compression (the most that HDF5 can do) and once from a gzip one, which is what D4RL publishes.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path

import numpy as np
import numpy.random
import torch  # noqa: F401  (neither side's time holds these imports)

from measuring import NAME, machine, make_hdf5, make_store, ratio, read_hdf5, spread, take_turns
from understudy.envs.store.store import EpisodeStore
from understudy.envs.windows.windows import Windows
from understudy.spec.learning import Sampling

BATCH, HORIZON = 256, 5


def first_batch_of_store(path: Path) -> None:
    """Open a store and sample one batch of chunks."""
    Windows(EpisodeStore.open(path), sampling=Sampling(horizon=HORIZON)).sample([0], 0, BATCH)


def first_batch_of_hdf5(path: Path) -> None:
    """Read an HDF5 file and gather one batch of chunks."""
    data = read_hdf5(path)
    first = np.random.default_rng(0).integers(0, len(data["actions"]) - HORIZON + 1, BATCH)
    _ = data["observations"][first], data["actions"][first[:, None] + np.arange(HORIZON)]


def milliseconds(path: Path) -> float:
    """Measure one file or store in a process of its own."""
    command = [sys.executable, __file__, "--measure", str(path)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return float(done.stdout)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--transitions", type=int, default=1_000_000)
    parser.add_argument("--repeats", type=int, default=10)
    parser.add_argument("--measure", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure is not None:
        task = first_batch_of_store if options.measure.is_dir() else first_batch_of_hdf5
        begin = time.perf_counter()
        task(options.measure)
        print(1e3 * (time.perf_counter() - begin))
        return
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        store = make_store(root, options.transitions)
        files = {"store": root / NAME, "h5py": make_hdf5(root / "plain.hdf5", store)}
        files["h5py, gzip"] = make_hdf5(root / "gzip.hdf5", store, "gzip")
        contenders = {name: partial(milliseconds, path) for name, path in files.items()}
        found = take_turns(contenders, options.repeats)
    print(f"time to the first batch, {options.transitions} transitions; {machine()}")
    for name, values in found.items():
        print(f"{name:11} {spread(values)} ms")
    for name in ("h5py", "h5py, gzip"):
        print(f"{name + '/store':17} {ratio(found[name], found['store'])}  ({options.repeats} pairs)")


if __name__ == "__main__":
    main()
