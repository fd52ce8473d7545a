"""Augment the pictures of training batches, in loader workers or on the device: the same pictures in both.

All that is random is `draw`: uniform numbers, a row a sample, from the CPU's generator. `apply` is a pure function of
them with no Python loop over samples and no branch on data, so that resume is exact and `torch.func.vmap` works.
Arithmetic is in float32 and rounded once. The operations are the registered ones, in `augmentations/`.

Shapes: K members, b samples of this worker, B samples, n frames, H height, W width, C channels.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch

from understudy.algorithm import Batch
from understudy.envs.store.store import SALIENCY
from understudy.errors import UserError
from understudy.observations import PIXELS, Observations, is_picture
from understudy.randomness import torch_generator
from understudy.spec.augmentation import NEXT, AugmentationConfig, Operation, frames_of

Tensors = dict[str, torch.Tensor]
SEEN = {"observations": "", "next_observations": NEXT}
"""What of a batch is augmented, and what precedes the names of its parts."""
NUMBERS_AT_ONCE = {"cpu": 2**18}
"""Float32 numbers that a kind of device works on at once: on a CPU larger temporaries miss its cache, half as fast."""
OTHERWISE_AT_ONCE = 2**26


def augment_batch(
    batch: Batch,
    config: AugmentationConfig,
    seeds: Sequence[int],
    step: int,
    *,
    obs_horizon: int = 1,
    rank: int = 0,
    world: int = 1,
    device: torch.device | str | None = None,
) -> Batch:
    """Return a training batch [K, b, ...] with its pictures augmented: a pure function of seeds and step.

    The parameters of member k are drawn for the global batch of `world` workers, of which this is worker `rank`.
    Members are augmented one after the other, so that each gets bit for bit what it would get alone. What is
    augmented is moved to `device` first.
    """
    seen = {key: prefix for key, prefix in SEEN.items() if key in batch}
    parts = {prefix + name: part for key, prefix in seen.items() for name, part in _pictures_of(batch[key]).items()}
    if not config.order or not parts:
        return batch
    maps = {name: value for name, value in batch.items() if name.startswith(SALIENCY) and config.augment_saliency}
    parts, maps = (
        {name: value.to(device, non_blocking=True) for name, value in group.items()} for group in (parts, maps)
    )
    first = next(iter(parts.values()))
    share = first.shape[1]
    mine = slice(rank * share, (rank + 1) * share)
    members: list[tuple[Tensors, Tensors]] = []
    for member, seed in enumerate(seeds):
        drawn = draw(share * world, config, torch_generator(seed, "augmentation", step), parts)
        drawn = {name: value[mine].to(first.device, non_blocking=True) for name, value in drawn.items()}
        pictures = {name: part[member] for name, part in parts.items()}
        heat = {name: value[member] for name, value in maps.items()}
        members.append((apply(pictures, drawn, config, obs_horizon), apply_to_saliency(heat, drawn, config)))
    changed = {name: torch.stack([pictures[name] for pictures, _ in members]) for name in parts}
    cropped = {name: torch.stack([heat[name] for _, heat in members]) for name in maps}
    return {**batch, **cropped, **{key: _with(batch[key], prefix, changed) for key, prefix in seen.items()}}


def draw(batch_size: int, config: AugmentationConfig, generator: torch.Generator, names: Mapping[str, Any]) -> Tensors:
    """Draw what `apply` needs for pictures of these names: uniform numbers [B, D] for each set of parameters."""
    width = sum(operation.numbers for operation in config.operations)
    return {
        parameters: torch.rand(batch_size, width, generator=generator, device=generator.device)
        for parameters in config.sets(names)
    }


def apply(pictures: Tensors, draws: Tensors, config: AugmentationConfig, obs_horizon: int = 1) -> Tensors:
    """Return augmented uint8 pictures, each [B, H, W, n*C] or [B, n, H, W, C] as it was given."""
    changed = {}
    for name, part in pictures.items():
        sequence = part.dim() == 5
        if sequence:
            frames_BnCHW = part.permute(0, 1, 4, 2, 3)
        else:
            count = frames_of(name, part.dim() - 1, obs_horizon)
            frames_BnCHW = part.unflatten(3, (count, -1)).permute(0, 3, 4, 1, 2)
        uniforms_BD = draws[config.parameters_of(name)]
        block = _block(frames_BnCHW)
        done = [
            _augment(frames, uniforms, config)
            for frames, uniforms in zip(frames_BnCHW.split(block), uniforms_BD.split(block), strict=True)
        ]
        levels = torch.cat(done) if len(done) > 1 else done[0]
        changed[name] = levels.permute(0, 1, 3, 4, 2) if sequence else levels.permute(0, 3, 4, 1, 2).flatten(3)
    return changed


def apply_to_saliency(maps: Tensors, draws: Tensors, config: AugmentationConfig) -> Tensors:
    """Return saliency maps {saliency/<camera>: [B, H, W, 1]}, moved as their pictures are."""
    changed = {}
    for name, part in maps.items():
        values = part.permute(0, 3, 1, 2)[:, None]
        for operation, uniforms in _steps(config, draws[config.parameters_of(name.removeprefix(SALIENCY))]):
            if operation.moves:
                values = operation.apply(values, uniforms)
        changed[name] = values[:, 0].permute(0, 2, 3, 1)
    return changed


def _augment(frames_BnCHW: torch.Tensor, uniforms_BD: torch.Tensor, config: AugmentationConfig) -> torch.Tensor:
    """Return augmented uint8 frames."""
    whole_levels = all(operation.whole_levels for operation in config.operations)
    # Contiguous, or the channels of the colour operations would lie 3n numbers apart.
    values = frames_BnCHW if whole_levels else frames_BnCHW.contiguous().to(torch.float32).div_(255.0)
    for operation, uniforms in _steps(config, uniforms_BD):
        before, values = values, operation.apply(values, uniforms)
        if values.shape != before.shape or values.dtype != before.dtype:
            raise UserError(
                f"augmentation operation {operation.name!r} ({type(operation).__module__}) gave {values.dtype}"
                f" {list(values.shape)} for {before.dtype} {list(before.shape)}: shape and type must stay"
            )
    return values if whole_levels else values.mul(255.0).round_().clamp(0.0, 255.0).to(torch.uint8)


def _steps(config: AugmentationConfig, uniforms_BD: torch.Tensor) -> Iterator[tuple[Operation, torch.Tensor]]:
    """Yield the operations in their order, each with its own columns of the draws."""
    widths = [operation.numbers for operation in config.operations]
    return zip(config.operations, uniforms_BD.split(widths, dim=1), strict=True)


def _block(frames_BnCHW: torch.Tensor) -> int:
    """Return how many samples to work on at once."""
    numbers = NUMBERS_AT_ONCE.get(frames_BnCHW.device.type, OTHERWISE_AT_ONCE)
    return max(1, numbers // frames_BnCHW[0].numel())


def _with(observations: Observations, prefix: str, changed: Tensors) -> Observations:
    """Return the observations with the pictures that were changed."""
    if isinstance(observations, torch.Tensor):
        return changed.get(prefix + PIXELS, observations)
    return {name: changed.get(prefix + name, part) for name, part in observations.items()}


def _pictures_of(observations: Observations) -> Tensors:
    """Return the pictures of what the policy sees."""
    if isinstance(observations, torch.Tensor):
        return {PIXELS: observations} if observations.dtype == torch.uint8 else {}
    return {name: part for name, part in observations.items() if is_picture(name)}
