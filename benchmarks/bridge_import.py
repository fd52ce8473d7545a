"""Pictures a second of processor time when a raw BridgeData tree is imported, against upstream's way.

    python benchmarks/bridge_import.py [--trajectories 20] [--steps 30] [--im-size 128] [--repeats 5]

Upstream's way is one process that reads a trajectory with Pillow, keeps everything as lists of dicts and writes one
out.npy a split with numpy. Ours writes a store (and keeps each trajectory on disk until it is whole): `store` is the
default, `store, exact` decodes and resizes with Pillow too, `store and out.npy` writes both. All of them run in one
process and one thread; a process a core is what `--num-workers` adds. Pictures are 640 x 480 JPEGs of a simulator.
"""

from __future__ import annotations

import argparse
import pickle
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from PIL import Image

from measuring import machine, ratio, spread, take_turns
from understudy.envs.sources.bridge.raw import RawImport, import_raw
from understudy.envs.sources.bridge.trajectory import Reading

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from tests.contract.bridge_tree import make_tree

TASK = "task/2022-01-01_00-00-00"
RENDERED = 4
"""Trajectories that are rendered; others are copies of these."""


def make_raw(root: Path, trajectories: int, steps: int) -> int:
    """Write a tree and return how many pictures there are in it."""
    made = make_tree(root, (TASK,), trajectories=min(RENDERED, trajectories), steps=steps)
    folders = [item.folder for item in made]
    for number in range(len(folders), trajectories):
        folders.append(root / TASK / "raw" / f"traj_group{number}" / "traj0")
        shutil.copytree(folders[number % RENDERED], folders[-1])
    return sum(1 for folder in folders for _ in folder.rglob("*.jpg"))


def upstream(root: Path, target: Path, im_size: int) -> None:
    """Convert a tree as upstream does."""
    split: dict[str, list[Any]] = {"train": [], "val": []}
    folders = sorted((root / TASK / "raw").glob("traj_group*/traj*"))
    for number, folder in enumerate(folders):
        count = sum(1 for _ in (folder / "images0").glob("im_*.jpg"))
        pictures = [Image.open(folder / "images0" / f"im_{t}.jpg") for t in range(count)]
        small = [np.asarray(one.resize((im_size, im_size), Image.Resampling.LANCZOS)) for one in pictures]
        seen = pickle.loads((folder / "obs_dict.pkl").read_bytes())  # noqa: S301  (made above)
        told = pickle.loads((folder / "policy_out.pkl").read_bytes())  # noqa: S301
        rows = zip(small, seen["full_state"], seen["time_stamp"], strict=True)
        steps = [{"images0": picture, "state": state, "time_stamp": stamp} for picture, state, stamp in rows]
        trajectory = {"observations": steps[:-1], "next_observations": steps[1:]}
        trajectory |= {"actions": [one["actions"] for one in told], "terminals": [0] * len(told)}
        split["train" if number < int(0.9 * len(folders)) else "val"].append(trajectory)
    for name, trajectories in split.items():
        (target / name).mkdir(parents=True)
        np.save(target / name / "out.npy", np.array(trajectories, object), allow_pickle=True)


def ours(root: Path, target: Path, im_size: int, exact: bool, files: bool) -> None:
    """Convert a tree with understudy."""
    reading = Reading(im_size=im_size, exact=exact)
    import_raw(
        RawImport(root, target / "stores", depth=2, reading=reading, output_path=target / "out" if files else None)
    )


def pictures_a_second(convert: Callable[[Path], None], folder: Path, count: int) -> float:
    """Return pictures a second of processor time."""
    target = folder / "target"
    begin = time.process_time()
    convert(target)
    spent = time.process_time() - begin
    shutil.rmtree(target)
    return count / spent


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trajectories", type=int, default=20)
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--im-size", type=int, default=128)
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    size = options.im_size
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        count = make_raw(folder / "raw", options.trajectories, options.steps)
        ways: dict[str, Callable[[Path], None]] = {
            "upstream": lambda target: upstream(folder / "raw", target, size),
            "store": lambda target: ours(folder / "raw", target, size, exact=False, files=False),
            "store, exact": lambda target: ours(folder / "raw", target, size, exact=True, files=False),
            "store and out.npy": lambda target: ours(folder / "raw", target, size, exact=False, files=True),
        }
        for convert in ways.values():  # what is loaded at first use, and the page cache
            pictures_a_second(convert, folder, count)
        contenders = {way: partial(pictures_a_second, convert, folder, count) for way, convert in ways.items()}
        found = take_turns(contenders, options.repeats)
    print(f"{count} pictures to {size} x {size}, per second of one core; {machine()}")
    for way, values in found.items():
        print(f"{way:18} {spread(values)}")
    for way in list(ways)[1:]:
        print(f"{way + '/upstream':27} {ratio(found[way], found['upstream'])}  ({options.repeats} pairs)")


if __name__ == "__main__":
    main()
