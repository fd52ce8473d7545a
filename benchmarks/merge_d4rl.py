"""Put D4RL files together, episode after episode, as D4RL's medium-expert files were made.

python benchmarks/merge_d4rl.py mixed.hdf5 datasets/raw/one.hdf5 datasets/raw/other.hdf5
"""

from __future__ import annotations

import argparse
from pathlib import Path

import h5py
import numpy as np

COLUMNS = ("observations", "actions", "rewards", "terminals", "timeouts", "next_observations")


def merge(target: Path, files: list[Path]) -> None:
    """Write the columns of all files, joined."""
    parts = [{name: np.asarray(file[name]) for name in COLUMNS} for file in map(h5py.File, files)]
    with h5py.File(target, "w") as made:
        for name in COLUMNS:
            made[name] = np.concatenate([part[name] for part in parts])


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("target", type=Path, help="the file to write")
    parser.add_argument("files", type=Path, nargs="+", help="what goes into it")
    words = parser.parse_args()
    merge(words.target, words.files)
