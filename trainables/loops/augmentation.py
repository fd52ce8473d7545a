"""Augment training pictures in batches on the device (`augment_where=device`), as Albumentations does it on the CPU.

All that is random is `draw`: uniform numbers, a row a sample. `apply` is a pure function of them with no Python loop
over samples and no branch on data, so that resume is exact and `torch.func.vmap` works. Parameters are sampled as
Albumentations samples them, rejected crops included, pixels are interpolated as OpenCV does, and the result is
rounded once; `understudy.envs.windows.augmentation` has the same distribution (tested).

Shapes: K members, B samples, n frames, H height, W width, C channels, h and w of a crop.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch.nn import functional

from understudy.algorithm import Batch
from understudy.envs.store.store import SALIENCY
from understudy.observations import PIXELS, Observations, is_picture
from understudy.randomness import torch_generator
from understudy.spec.augmentation import AugmentationConfig, frames_of

Tensors = dict[str, torch.Tensor]
ATTEMPTS = 10
"""Crops that are drawn until one fits, as in torchvision and Albumentations; then it is the centre."""
NUMBERS = {"random_resized_crop": 4 * ATTEMPTS, "random_shift": 2}
"""Uniform numbers that an operation uses; each colour uses one."""
NUMBERS_AT_ONCE = {"cpu": 2**18}
"""Float32 numbers that a kind of device works on at once: on a CPU larger temporaries miss its cache, half as fast."""
OTHERWISE_AT_ONCE = 2**26
GREY = (0.299, 0.587, 0.114)


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
    parts = _pictures_of(batch["observations"])
    if not config.operations or not parts:
        return batch
    maps = {name: value for name, value in batch.items() if name.startswith(SALIENCY) and config.augment_saliency}
    parts, maps = (
        {name: value.to(device, non_blocking=True) for name, value in group.items()} for group in (parts, maps)
    )
    first = next(iter(parts.values()))
    share = first.shape[1]
    members: list[tuple[Tensors, Tensors]] = []
    for member, seed in enumerate(seeds):
        generator = torch_generator(seed, "augmentation", step, device=first.device)
        drawn = draw(share * world, config, generator, parts)
        drawn = {name: value[rank * share : (rank + 1) * share] for name, value in drawn.items()}
        pictures = {name: part[member] for name, part in parts.items()}
        heat = {name: value[member] for name, value in maps.items()}
        members.append((apply(pictures, drawn, config, obs_horizon), apply_to_saliency(heat, drawn, config)))
    changed = {name: torch.stack([pictures[name] for pictures, _ in members]) for name in parts}
    cropped = {name: torch.stack([heat[name] for _, heat in members]) for name in maps}
    single = isinstance(batch["observations"], torch.Tensor)
    observations: Observations = changed[PIXELS] if single else {**batch["observations"], **changed}
    return {**batch, "observations": observations, **cropped}


def draw(batch_size: int, config: AugmentationConfig, generator: torch.Generator, names: Mapping[str, Any]) -> Tensors:
    """Draw what `apply` needs for pictures of these names: uniform numbers [B, D] for each set of parameters."""
    width = sum(NUMBERS.get(name, 1) for name in config.operations)
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


def _block(frames_BnCHW: torch.Tensor) -> int:
    """Return how many samples to work on at once."""
    numbers = NUMBERS_AT_ONCE.get(frames_BnCHW.device.type, OTHERWISE_AT_ONCE)
    return max(1, numbers // frames_BnCHW[0].numel())


def _augment(frames_BnCHW: torch.Tensor, uniforms_BD: torch.Tensor, config: AugmentationConfig) -> torch.Tensor:
    """Return augmented uint8 frames."""
    whole_levels = set(config.operations) == {"random_shift"}
    # Contiguous, or the channels of the colour operations would lie 3n numbers apart.
    values = frames_BnCHW.contiguous()
    values = values if whole_levels else values.to(torch.float32).div_(255.0)
    for operation, uniforms in _operations(config, uniforms_BD):
        values = _operate(operation, values, uniforms, config)
    return values if whole_levels else values.mul(255.0).round_().to(torch.uint8)


def apply_to_saliency(maps: Tensors, draws: Tensors, config: AugmentationConfig) -> Tensors:
    """Return saliency maps {saliency/<camera>: [B, H, W, 1]}, cropped and shifted as their pictures are."""
    changed = {}
    for name, part in maps.items():
        values = part.permute(0, 3, 1, 2)[:, None]
        for operation, uniforms in _operations(config, draws[config.parameters_of(name.removeprefix(SALIENCY))]):
            if operation in NUMBERS:
                values = _operate(operation, values, uniforms, config)
        changed[name] = values[:, 0].permute(0, 2, 3, 1)
    return changed


def _operations(config: AugmentationConfig, uniforms_BD: torch.Tensor) -> list[tuple[str, torch.Tensor]]:
    """Return the operations in their order, each with its own columns of the draws."""
    widths = [NUMBERS.get(name, 1) for name in config.operations]
    return list(zip(config.operations, uniforms_BD.split(widths, dim=1), strict=True))


def _operate(
    operation: str, values_BnCHW: torch.Tensor, uniforms: torch.Tensor, config: AugmentationConfig
) -> torch.Tensor:
    """Return pictures in [0, 1] after one operation, clipped."""
    if operation == "random_resized_crop":
        height, width = values_BnCHW.shape[-2:]
        boxes = crop_boxes(uniforms, height, width, config.random_resized_crop_scale, config.random_resized_crop_ratio)
        return resized_crop(values_BnCHW, *boxes)
    if operation == "random_shift":
        return random_shift(values_BnCHW, uniforms, config.random_shift)
    low, high = getattr(config, operation)
    amounts = (low + (high - low) * uniforms)[:, :, None, None, None]
    return COLOURS[operation](values_BnCHW, amounts)


# ---- where: crops and shifts ----


def crop_boxes(
    uniforms: torch.Tensor, height: int, width: int, scale: tuple[float, float], ratio: tuple[float, float]
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return x, y, w, h [B] of crops, in whole pixels; `uniforms` are [B, 40] in [0, 1).

    The area is uniform in `scale`, w/h log-uniform in `ratio`; the first of ten such boxes that fits into the picture
    is put at a uniform place. If none fits, the largest centred one of an allowed ratio is taken.
    """
    area, aspect, down, right = uniforms.unflatten(1, (ATTEMPTS, 4)).unbind(2)
    area = height * width * (scale[0] + (scale[1] - scale[0]) * area)
    lowest, highest = math.log(ratio[0]), math.log(ratio[1])
    aspect = torch.exp(lowest + (highest - lowest) * aspect)
    w, h = torch.round(torch.sqrt(area * aspect)), torch.round(torch.sqrt(area / aspect))
    fits = (w > 0) & (w <= width) & (h > 0) & (h <= height)
    first = fits.to(torch.uint8).argmax(dim=1, keepdim=True)
    w, h, down, right = (values.gather(1, first)[:, 0] for values in (w, h, down, right))
    x = torch.minimum(torch.floor((width - w + 1) * right), width - w)
    y = torch.minimum(torch.floor((height - h + 1) * down), height - h)
    centre_w, centre_h = _largest(height, width, ratio)
    centred = ((width - centre_w) // 2, (height - centre_h) // 2, centre_w, centre_h)
    found = fits.any(dim=1)
    x, y, w, h = (torch.where(found, value, float(other)) for value, other in zip((x, y, w, h), centred, strict=True))
    return x, y, w, h


def _largest(height: int, width: int, ratio: tuple[float, float]) -> tuple[int, int]:
    """Return width and height of the largest box whose ratio is allowed."""
    if width / height < ratio[0]:
        return width, round(width / ratio[0])
    if width / height > ratio[1]:
        return round(height * ratio[1]), height
    return width, height


def resized_crop(
    values_BnCHW: torch.Tensor, x: torch.Tensor, y: torch.Tensor, w: torch.Tensor, h: torch.Tensor
) -> torch.Tensor:
    """Return each sample's box at the pictures' own size: bilinear between pixel centres, edges repeated (cv2's)."""
    height, width = values_BnCHW.shape[-2:]
    rows = _places(y, h, height, values_BnCHW)
    columns = _places(x, w, width, values_BnCHW)
    grid = torch.stack(
        [columns[:, None, :].expand(-1, height, -1), rows[:, :, None].expand(-1, -1, width)], dim=-1
    )  # [B, H, W, 2]
    flat = values_BnCHW.flatten(1, 2)
    return functional.grid_sample(flat, grid, mode="bilinear", padding_mode="border", align_corners=True).unflatten(
        1, values_BnCHW.shape[1:3]
    )


def _places(start: torch.Tensor, length: torch.Tensor, size: int, like: torch.Tensor) -> torch.Tensor:
    """Return where `size` output pixels lie in the picture, [B, size], as grid_sample counts: -1 to 1."""
    steps = torch.arange(size, device=like.device, dtype=like.dtype) + 0.5
    inside = torch.minimum((steps * (length[:, None] / size) - 0.5).clamp(min=0.0), length[:, None] - 1)
    return (start[:, None] + inside) * (2.0 / max(size - 1, 1)) - 1.0


def random_shift(values_BnCHW: torch.Tensor, uniforms_B2: torch.Tensor, pad: int) -> torch.Tensor:
    """Return pictures moved by whole pixels, uniform in [-pad, pad] each way, edges repeated (DrQ)."""
    shifts = torch.floor(uniforms_B2 * (2 * pad + 1)).clamp(max=2 * pad).to(torch.int64) - pad
    for axis, shift in ((3, shifts[:, 0]), (4, shifts[:, 1])):
        size = values_BnCHW.shape[axis]
        places = (torch.arange(size, device=shift.device) + shift[:, None]).clamp(0, size - 1)
        shape = [-1, 1, 1, 1, 1]
        shape[axis] = size
        values_BnCHW = values_BnCHW.gather(axis, places.reshape(shape).expand(values_BnCHW.shape))
    return values_BnCHW


# ---- colours: values in [0, 1], `amounts` [B, 1, 1, 1, 1] ----


def _grey(values_BnCHW: torch.Tensor) -> torch.Tensor:
    if values_BnCHW.shape[2] == 1:
        return values_BnCHW
    red, green, blue = values_BnCHW.split(1, dim=2)
    return GREY[0] * red + GREY[1] * green + GREY[2] * blue


def _brightness(values_BnCHW: torch.Tensor, factors: torch.Tensor) -> torch.Tensor:
    return (values_BnCHW * factors).clamp(0.0, 1.0)


def _contrast(values_BnCHW: torch.Tensor, factors: torch.Tensor) -> torch.Tensor:
    means = _grey(values_BnCHW).mean(dim=(2, 3, 4), keepdim=True)
    return (values_BnCHW * factors + means * (1.0 - factors)).clamp(0.0, 1.0)


def _saturation(values_BnCHW: torch.Tensor, factors: torch.Tensor) -> torch.Tensor:
    if values_BnCHW.shape[2] == 1:
        return values_BnCHW
    return (values_BnCHW * factors + _grey(values_BnCHW) * (1.0 - factors)).clamp(0.0, 1.0)


def _hue(values_BnCHW: torch.Tensor, shifts: torch.Tensor) -> torch.Tensor:
    """Turn the colours: hue from the channels, and channels back, without naming the circle's six parts."""
    if values_BnCHW.shape[2] == 1:
        return values_BnCHW
    red, green, blue = values_BnCHW.split(1, dim=2)
    value, least = values_BnCHW.amax(dim=2, keepdim=True), values_BnCHW.amin(dim=2, keepdim=True)
    chroma = value - least
    safe = torch.where(chroma > 0, chroma, 1.0)
    sixths = torch.where(
        value == red,
        (green - blue) / safe,
        torch.where(value == green, 2.0 + (blue - red) / safe, 4.0 + (red - green) / safe),
    )
    sixths = sixths + 6.0 * shifts
    turned = [torch.remainder(sixths + offset, 6.0) for offset in (5.0, 3.0, 1.0)]  # red, green, blue
    return torch.cat([value - chroma * torch.minimum(place, 4.0 - place).clamp(0.0, 1.0) for place in turned], dim=2)


COLOURS = {
    "random_brightness": _brightness,
    "random_contrast": _contrast,
    "random_saturation": _saturation,
    "random_hue": _hue,
}


def _pictures_of(observations: Observations) -> Tensors:
    if isinstance(observations, torch.Tensor):
        return {PIXELS: observations} if observations.dtype == torch.uint8 else {}
    return {name: part for name, part in observations.items() if is_picture(name)}
