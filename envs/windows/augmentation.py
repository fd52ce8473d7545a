"""Augment training pictures on the CPU with Albumentations, in loader workers (`augment_where=workers`).

A sample's parameters are drawn once for each set (`AugmentationConfig.parameters_of`) and applied to every frame of
the window, and to the goal that shares them, as ReplayCompose would: the frames of one shape go through one `Compose`
call as its `images`, which gives the same pixels as replaying its record frame by frame and takes a quarter of the
time. Arithmetic is in float32 and rounded once: Albumentations' uint8 arithmetic darkens pictures by 1.5 levels of
255 in five operations. `understudy.trainables.loops.augmentation` is the same on the device.

Shapes: K members, b samples of this worker, n frames, H height, W width, C channels.
"""

from __future__ import annotations

import os
import random
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

import numpy as np
import torch

from understudy.envs.store.store import SALIENCY
from understudy.errors import UserError, to_install
from understudy.observations import GOAL, PIXELS, is_picture
from understudy.randomness import numpy_generator
from understudy.spec.augmentation import COLOUR, AugmentationConfig, frames_of

Pictures = Mapping[str, np.ndarray]


def augment_batch(
    batch: dict[str, Any],
    config: AugmentationConfig,
    seeds: Sequence[int],
    step: int,
    *,
    obs_horizon: int = 1,
    rank: int = 0,
    world: int = 1,
) -> dict[str, Any]:
    """Return a training batch [K, b, ...] with its pictures augmented: a pure function of seeds and step.

    The parameters of member k are drawn for the global batch of `world` workers, of which this is worker `rank`.
    """
    if not config.operations:
        return batch
    parts, single = _pictures_of(batch["observations"])
    if not parts:
        return batch
    share = next(iter(parts.values())).shape[1]
    augmented: dict[str, list[np.ndarray]] = {name: [] for name in parts}
    maps = {name: value for name, value in batch.items() if name.startswith(SALIENCY) and config.augment_saliency}
    cropped: dict[str, list[np.ndarray]] = {name: [] for name in maps}
    for member, seed in enumerate(seeds):
        drawn = sample_seeds(numpy_generator(seed, "augmentation", step), share * world)
        windows = {name: _as_frames(name, part[member], obs_horizon) for name, part in parts.items()}
        pictures = {name: value for name, value in windows.items() if not name.startswith(GOAL)}
        goals = {name.removeprefix(GOAL): value for name, value in windows.items() if name.startswith(GOAL)}
        saliency = {name.removeprefix(SALIENCY): value[member].numpy() for name, value in maps.items()}
        mine = drawn[rank * share : (rank + 1) * share]
        pictures, goals, saliency = augment_window(pictures, goals, mine, config, saliency)
        for name, part in parts.items():
            frames = goals[name.removeprefix(GOAL)] if name.startswith(GOAL) else pictures[name]
            augmented[name].append(_like(frames, part[member].shape))
        for name in maps:
            cropped[name].append(saliency[name.removeprefix(SALIENCY)])
    changed = {name: torch.from_numpy(np.stack(values)) for name, values in augmented.items()}
    observations = changed[PIXELS] if single else {**batch["observations"], **changed}
    return {**batch, "observations": observations, **{k: torch.from_numpy(np.stack(v)) for k, v in cropped.items()}}


def augment_window(
    pictures: Pictures,
    goals: Pictures,
    rng: np.random.Generator | np.ndarray,
    config: AugmentationConfig,
    saliency: Pictures | None = None,
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Return augmented pictures {camera: uint8 [b, n, H, W, C]}, goals (the same) and saliency maps [b, H, W, 1].

    `rng` gives each sample a seed, or is those seeds [b] (`sample_seeds`), so that any share of a batch can be made
    alone. A camera's parameters do not depend on which other cameras there are.
    """
    windows = {**pictures, **{GOAL + name: value for name, value in goals.items()}}
    changed = {name: np.empty_like(value) for name, value in windows.items()}
    maps = dict(saliency or {})
    if config.augment_saliency:
        maps = {name: np.empty_like(value) for name, value in maps.items()}
    count = len(next(iter(windows.values()))) if windows else 0
    seeds = sample_seeds(rng, count) if isinstance(rng, np.random.Generator) else rng
    for names in _stacks(windows, config):
        pipeline = compose(config, windows[names[0]].shape[2:])
        cropped = [name for name in names if config.augment_saliency and name in maps]
        for index, seed in enumerate(seeds):
            generator = stream(int(seed), config.parameters_of(names[0]))
            masks = [(saliency or {})[name][index] for name in cropped]
            frames, masks = _run(pipeline, generator, [windows[name][index] for name in names], masks)
            for name, part in zip(names, frames, strict=True):
                changed[name][index] = part
            for name, mask in zip(cropped, masks, strict=True):
                maps[name][index] = mask
    return {name: changed[name] for name in pictures}, {name: changed[GOAL + name] for name in goals}, maps


def sample_seeds(rng: np.random.Generator, count: int) -> np.ndarray:
    """Return one seed a sample, int64 [count]: `augment_window` of any slice of them is that slice of the whole."""
    return rng.integers(0, 2**63 - 1, count)


def stream(seed: int, parameters: str) -> random.Random:
    """Return the random numbers of one sample's set of parameters."""
    return random.Random(f"{seed}/{parameters}")  # of a text by SHA-512: the same in every process


def compose(config: AugmentationConfig, shape: tuple[int, ...], kind: str = "Compose") -> Any:
    """Return Albumentations' `Compose` (or another `kind` of it, such as ReplayCompose) for frames [H, W, C]."""
    albumentations = _albumentations()
    height, width, channels = shape
    transforms = []
    for name in config.operations:
        if name in COLOUR:
            if channels == 3 or name in ("random_brightness", "random_contrast"):
                transforms.append(_jitter(name, getattr(config, name)))
        elif name == "random_resized_crop":
            transforms.append(
                albumentations.RandomResizedCrop(
                    size=(height, width),
                    scale=config.random_resized_crop_scale,
                    ratio=config.random_resized_crop_ratio,
                    mask_interpolation=1,  # cv2.INTER_LINEAR, as for pictures: saliency is no label
                    p=1.0,
                )
            )
        else:
            pad = config.random_shift
            border = {"border_mode": 1, "p": 1.0}  # cv2.BORDER_REPLICATE
            transforms += [
                albumentations.Pad(padding=pad, **border),
                albumentations.RandomCrop(height=height, width=width, p=1.0),
            ]
    return getattr(albumentations, kind)(transforms)


def _jitter(name: str, bounds: tuple[float, float]) -> Any:
    """Return ColorJitter with one factor alone: the others, at their neutral value, are skipped."""
    neutral = {"brightness": (1.0, 1.0), "contrast": (1.0, 1.0), "saturation": (1.0, 1.0), "hue": (0.0, 0.0)}
    return _albumentations().ColorJitter(**{**neutral, name.removeprefix("random_"): bounds}, p=1.0)


def _run(
    pipeline: Any, generator: random.Random, frames: list[np.ndarray], masks: list[np.ndarray]
) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Apply one draw of parameters to several windows [n, H, W, C] uint8, and to saliency maps [H, W, 1]."""
    # Not set_random_seed: it gives each transform the same stream, and the crop's area would follow the brightness.
    pipeline.set_random_state(_unused_numpy_stream(), generator)
    scaled = (np.concatenate(frames) if len(frames) > 1 else frames[0]).astype(np.float32)
    scaled *= np.float32(1 / 255)
    result = pipeline(images=scaled, **({"masks": masks} if masks else {}))
    levels = result["images"] * np.float32(255)
    np.rint(levels, out=levels)
    ends = np.cumsum([len(part) for part in frames])[:-1]
    return np.split(levels.astype(np.uint8), ends), list(result.get("masks", []))


def _stacks(windows: Pictures, config: AugmentationConfig) -> list[list[str]]:
    """Return the names of windows in groups that have their parameters and their frames' shape in common."""
    groups: dict[Any, list[str]] = {}
    for name, window in windows.items():
        groups.setdefault((config.parameters_of(name), window.shape[2:]), []).append(name)
    return list(groups.values())


def _pictures_of(observations: Any) -> tuple[dict[str, torch.Tensor], bool]:
    """Return the pictures of what the policy sees, and whether they are all that it sees."""
    if isinstance(observations, torch.Tensor):
        return ({PIXELS: observations} if observations.dtype == torch.uint8 else {}), True
    return {name: part for name, part in observations.items() if is_picture(name)}, False


def _as_frames(name: str, part: torch.Tensor, obs_horizon: int) -> np.ndarray:
    """Return [b, H, W, n*C] or [b, n, H, W, C] as [b, n, H, W, C]."""
    values = part.numpy()
    if values.ndim == 5:
        return values
    *outer, width = values.shape
    frames = frames_of(name, values.ndim - 1, obs_horizon)
    return np.moveaxis(values.reshape(*outer, frames, width // frames), 3, 1)


def _like(frames: np.ndarray, shape: Sequence[int]) -> np.ndarray:
    """Return [b, n, H, W, C] in the shape that `_as_frames` was given."""
    return frames if len(shape) == 5 else np.moveaxis(frames, 1, 3).reshape(*shape)


@cache
def _unused_numpy_stream() -> np.random.Generator:
    """Return what Albumentations asks for and uses only to order the parts of ColorJitter, of which we have one."""
    return np.random.default_rng(0)


@cache
def _albumentations() -> Any:
    os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")  # or importing it asks PyPI for a newer one
    try:
        import albumentations
    except ImportError as error:
        raise UserError(
            f"augment_where=workers needs 'albumentations': {to_install('vision')}, or leave it at augment_where=device"
        ) from error
    return albumentations
