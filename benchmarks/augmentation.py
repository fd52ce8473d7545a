"""Pictures/s of augmentation with bridge's parameters: replayed frame by frame by Albumentations, and in batches.

    python benchmarks/augmentation.py [--sizes 64 128] [--batch 64] [--repeats 9] [--device cpu]

`replay` is how the seed's dataset does it: Albumentations' ReplayCompose on the first frame of a window, its record
replayed on the others, in uint8. `batches` is ours on --device: what loader workers do where that is cpu. On the CPU
both have one thread, so the figures are of one core: n workers do n times as much, beside the training. Histories of
two frames, without goals.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import cv2
import numpy as np
import torch

from measuring import machine, ratio, spread, take_turns
from understudy.envs.windows.augmentation import augment_batch
from understudy.spec.augmentation import AugmentationConfig

FRAMES = 2
CONFIG = AugmentationConfig(augmentation="bridge")


def pipeline(size: int) -> Any:
    """Return the same operations of Albumentations."""
    os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")  # or importing it asks PyPI for a newer one
    from albumentations import ColorJitter, RandomResizedCrop, ReplayCompose

    neutral = {"brightness": (1, 1), "contrast": (1, 1), "saturation": (1, 1), "hue": (0, 0)}
    keys = CONFIG.flat_parameters()
    colours = [ColorJitter(**{**neutral, name: keys[f"random_{name}"]}, p=1) for name in neutral]
    scale, ratio_ = keys["random_resized_crop_scale"], keys["random_resized_crop_ratio"]
    return ReplayCompose([RandomResizedCrop(size=(size, size), scale=scale, ratio=ratio_, p=1), *colours])


def replayed(batch: torch.Tensor, augment: Any) -> np.ndarray:
    """Augment [b, n, H, W, C] by ReplayCompose and its replay, frame by frame."""
    windows = batch.numpy()
    changed = np.empty_like(windows)
    for index, (first, *others) in enumerate(windows):
        record = augment(image=first)
        changed[index, 0] = record["image"]
        for place, frame in enumerate(others, start=1):
            changed[index, place] = augment.replay(record["replay"], image=frame)["image"]
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
        pictures = torch.randint(0, 256, shape, generator=generator, dtype=torch.uint8)
        batch = {"observations": {"front": pictures.to(options.device)}}
        calls: dict[str, Callable[[], object]] = {
            "batches": partial(augment_batch, batch, CONFIG, [0], 0),
            "replay": partial(replayed, pictures[0], pipeline(size)),
        }
        for call in calls.values():
            call()
        turns = {name: partial(rate, call, options.batch * FRAMES, synchronise) for name, call in calls.items()}
        found = take_turns(turns, options.repeats)
        for name, values in found.items():
            print(f"{size:4} px  {name:8} {spread(values, 4)}")
        print(f"{size:4} px  batches/replay {ratio(found['batches'], found['replay'])}  ({options.repeats} pairs)")


if __name__ == "__main__":
    main()
