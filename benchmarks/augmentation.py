"""Pictures/s of augmentation with bridge's parameters: replayed frame by frame, window by window, and in batches.

    python benchmarks/augmentation.py [--sizes 64 128] [--batch 64] [--repeats 9] [--device cpu]

`replay` is how the seed's dataset does it: Albumentations' ReplayCompose on the first frame of a window, its record
replayed on the others, in uint8. `workers` is ours for loader workers (one Albumentations call a window, float32);
`device` is ours in torch, on --device. On the CPU all have one thread, so the figures are of one core: n workers do n
times as much, beside the training. Histories of two frames, without goals.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from functools import partial

import cv2
import numpy as np
import torch

from measuring import machine, ratio, spread, take_turns
from understudy.envs.windows import augmentation as on_workers
from understudy.spec.augmentation import AugmentationConfig
from understudy.trainables.loops import augmentation as on_device

FRAMES = 2
CONFIG = AugmentationConfig(augmentation="bridge")


def replayed(batch: torch.Tensor) -> np.ndarray:
    """Augment [b, n, H, W, C] by ReplayCompose and its replay, frame by frame."""
    from albumentations import ReplayCompose

    windows = batch.numpy()
    pipeline = on_workers.compose(CONFIG, windows.shape[2:], "ReplayCompose")
    changed = np.empty_like(windows)
    for index, (first, *others) in enumerate(windows):
        record = pipeline(image=first)
        changed[index, 0] = record["image"]
        for place, frame in enumerate(others, start=1):
            changed[index, place] = ReplayCompose.replay(record["replay"], image=frame)["image"]
    return changed


def rate(augment: Callable[[], object], pictures: int, synchronise: Callable[[], object]) -> float:
    """Return pictures/s of one call."""
    begin = time.perf_counter()
    augment()
    synchronise()
    return pictures / (time.perf_counter() - begin)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", default=[64, 128])
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    synchronise = torch.cuda.synchronize if options.device.startswith("cuda") else lambda: None
    print(f"pictures/s, batch {options.batch} of {FRAMES} frames, device {options.device}; {machine()}")
    for size in options.sizes:
        generator = torch.Generator().manual_seed(0)
        shape = (1, options.batch, FRAMES, size, size, 3)
        batch = {"observations": {"front": torch.randint(0, 256, shape, generator=generator, dtype=torch.uint8)}}
        there = {"observations": {"front": batch["observations"]["front"].to(options.device)}}
        calls: dict[str, Callable[[], object]] = {
            "device": partial(on_device.augment_batch, there, CONFIG, [0], 0),
            "replay": partial(replayed, batch["observations"]["front"][0]),
            "workers": partial(on_workers.augment_batch, batch, CONFIG, [0], 0),
        }
        for call in calls.values():
            call()
        pictures = options.batch * FRAMES
        turns = {name: partial(rate, call, pictures, synchronise) for name, call in calls.items()}
        found = take_turns(turns, options.repeats)
        for name, values in found.items():
            print(f"{size:4} px  {name:8} {spread(values, 4)}")
        for name in ("workers", "device"):
            print(f"{size:4} px  {name}/replay {ratio(found[name], found['replay'])}  ({options.repeats} pairs)")


if __name__ == "__main__":
    main()
