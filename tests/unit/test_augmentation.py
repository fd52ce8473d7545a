"""Augmentation: each operation against its formula and Albumentations, sharing, determinism, and the keys."""

from __future__ import annotations

import colorsys
import math
import os
import random
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch.func import vmap

from understudy.envs.windows.augmentation import apply, augment_batch, draw
from understudy.envs.windows.augmentations.random_resized_crop import crop_boxes, resized_crop
from understudy.errors import SpecError, UserError
from understudy.randomness import torch_generator
from understudy.spec.augmentation import AugmentationConfig
from understudy.spec.keys import validate

COLOUR = ("random_brightness", "random_contrast", "random_saturation", "random_hue")
BRIDGE = AugmentationConfig(augmentation="bridge")
NOTHING = AugmentationConfig(
    augmentation="bridge",
    random_resized_crop_scale=(1.0, 1.0),
    random_resized_crop_ratio=(1.0, 1.0),
    random_brightness=(1.0, 1.0),
    random_contrast=(1.0, 1.0),
    random_saturation=(1.0, 1.0),
    random_hue=(0.0, 0.0),
)


def pictures(count: int, frames: int, size: tuple[int, int] = (24, 20), channels: int = 3) -> np.ndarray:
    """Return smooth pictures [count, frames, H, W, C] of many colours, as cameras see them."""
    rng = np.random.default_rng(7)
    height, width = size
    y, x = np.mgrid[:height, :width]
    shape = (count, frames, 1, 1, channels)
    waves = np.sin(y[..., None] * rng.uniform(0.05, 0.4, shape) + x[..., None] * rng.uniform(0.05, 0.4, shape))
    return np.clip(rng.uniform(60, 190, shape) + 70 * waves, 0, 255).astype(np.uint8)


def augment(window: np.ndarray, config: AugmentationConfig, seed: int) -> np.ndarray:
    """Return a window [b, n, H, W, C] augmented."""
    parts = {"front": torch.from_numpy(window)}
    return apply(parts, draw(len(window), config, torch_generator(seed, "test"), parts), config)["front"].numpy()


def albumentations_of(config: AugmentationConfig, size: tuple[int, int]) -> Any:
    """Return Albumentations' pipeline of the same operations: an implementation that is not ours."""
    os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")  # or importing it asks PyPI for a newer one
    import albumentations

    keys, transforms = config.flat_parameters(), []
    for name in config.order:
        if name in COLOUR:
            neutral = {"brightness": (1, 1), "contrast": (1, 1), "saturation": (1, 1), "hue": (0, 0)}
            transforms.append(albumentations.ColorJitter(**{**neutral, name.removeprefix("random_"): keys[name]}, p=1))
        elif name == "random_resized_crop":
            scale, ratio = keys["random_resized_crop_scale"], keys["random_resized_crop_ratio"]
            transforms.append(albumentations.RandomResizedCrop(size=size, scale=scale, ratio=ratio, p=1))
        else:
            transforms.append(albumentations.Pad(padding=keys["random_shift"], border_mode=1, p=1))
            transforms.append(albumentations.RandomCrop(*size, p=1))
    pipeline = albumentations.ReplayCompose(transforms)
    # Not its seed: that gives each transform the same stream, and the crop's area would follow the brightness.
    pipeline.set_random_state(np.random.default_rng(1), random.Random(1))
    return pipeline


def fixed(operation: str, amount: float) -> AugmentationConfig:
    """Return one operation alone, always with the same parameter."""
    return AugmentationConfig.model_validate(
        {"augmentation": "bridge", "augment_order": (operation,), operation: (amount, amount)}
    )


def expected_colour(operation: str, amount: float, frame: np.ndarray) -> NDArray[np.float64]:
    """Compute a colour operation on one frame [H, W, 3] in float64, pixel by pixel where there is a hue."""
    values = frame.astype(np.float64) / 255
    grey = values @ np.array([0.299, 0.587, 0.114])
    if operation == "random_brightness":
        changed = values * amount
    elif operation == "random_contrast":
        changed = amount * values + (1 - amount) * grey.mean()
    elif operation == "random_saturation":
        changed = amount * values + (1 - amount) * grey[..., None]
    else:
        changed = np.empty_like(values)
        for place in np.ndindex(frame.shape[:2]):
            hue, saturation, value = colorsys.rgb_to_hsv(*values[place])
            changed[place] = colorsys.hsv_to_rgb((hue + amount) % 1.0, saturation, value)
    return np.clip(changed, 0, 1) * 255


# ---- each operation ----


@pytest.mark.parametrize("operation", COLOUR)
@pytest.mark.parametrize("extreme", [0, 1])
def test_a_colour_operation_is_the_formula_in_float64(operation: str, extreme: int) -> None:
    window = np.concatenate([pictures(2, 2), np.random.default_rng(0).integers(0, 256, (1, 2, 24, 20, 3), np.uint8)])
    amount = {"random_hue": (-0.37, 0.21)}.get(operation, (0.4, 1.7))[extreme]
    found = augment(window, fixed(operation, amount), 0)
    wanted = np.stack([[expected_colour(operation, amount, frame) for frame in frames] for frames in window])
    assert np.abs(found - wanted).max() <= 0.51  # one rounding


def test_grey_pictures_and_pure_colours_survive_a_turn_of_hue() -> None:
    grey = np.repeat(pictures(1, 1, channels=1), 3, axis=-1)
    assert np.array_equal(augment(grey, fixed("random_hue", 0.3), 0), grey)
    red = np.zeros((1, 1, 4, 4, 3), np.uint8)
    red[..., 0] = 200
    assert (augment(red, fixed("random_hue", 1 / 3), 0)[0, 0, 0, 0] == (0, 200, 0)).all()


def test_a_single_channel_changes_in_brightness_and_contrast_alone() -> None:
    grey = pictures(2, 1, channels=1)
    for operation in ("random_saturation", "random_hue"):
        assert np.array_equal(augment(grey, fixed(operation, 0.4), 0), grey)
    values = grey.astype(np.float64)
    brighter = np.clip(values * 1.4, 0, 255)
    assert np.abs(augment(grey, fixed("random_brightness", 1.4), 0) - brighter).max() <= 0.51
    means = values.mean(axis=(2, 3, 4), keepdims=True)
    assert np.abs(augment(grey, fixed("random_contrast", 0.5), 0) - (0.5 * values + 0.5 * means)).max() <= 0.51


def loop_resize(frame: np.ndarray, x: int, y: int, w: int, h: int) -> NDArray[np.float64]:
    """Resize a box of a frame bilinearly to the frame's size, one pixel after the other."""
    height, width, _ = frame.shape
    result = np.empty(frame.shape)
    for row, column in np.ndindex(height, width):
        v = min(max((row + 0.5) * h / height - 0.5, 0), h - 1)
        u = min(max((column + 0.5) * w / width - 0.5, 0), w - 1)
        top, left = int(v), int(u)
        below, beside = min(top + 1, h - 1), min(left + 1, w - 1)
        a, b = v - top, u - left
        upper = frame[y + top, x + left] * (1 - b) + frame[y + top, x + beside] * b
        lower = frame[y + below, x + left] * (1 - b) + frame[y + below, x + beside] * b
        result[row, column] = upper * (1 - a) + lower * a
    return result


@pytest.mark.parametrize("box", [(0, 0, 20, 24), (3, 5, 15, 17), (19, 23, 1, 1), (0, 1, 7, 23)])
def test_a_crop_is_resized_as_a_loop_over_pixels_does_it(box: tuple[int, int, int, int]) -> None:
    frame = pictures(1, 1)[0, 0]
    values = torch.from_numpy(frame).permute(2, 0, 1)[None, None].float() / 255
    found = resized_crop(values, *(torch.tensor([float(number)]) for number in box))[0, 0]
    assert np.abs(found.permute(1, 2, 0).numpy() * 255 - loop_resize(frame, *box)).max() < 0.01


def test_a_crop_is_resized_to_albumentations_pixels() -> None:
    config = AugmentationConfig(augmentation="random_resized_crop")
    pipeline = albumentations_of(config, (24, 20))
    for frames in pictures(6, 1):
        record = pipeline(image=frames[0].astype(np.float32))
        x, y, right, bottom = record["replay"]["transforms"][0]["params"]["crop_coords"]
        values = torch.from_numpy(frames).permute(0, 3, 1, 2)[None].float()
        found = resized_crop(values, *(torch.tensor([float(n)]) for n in (x, y, right - x, bottom - y)))
        assert np.abs(found[0, 0].permute(1, 2, 0).numpy() - record["image"]).max() < 0.01


def loop_shift(frame: np.ndarray, down: int, right: int, pad: int) -> np.ndarray:
    """DrQ: repeat the edges, then crop at (down, right)."""
    padded = np.pad(frame, ((pad, pad), (pad, pad), (0, 0)), mode="edge")
    return padded[down : down + frame.shape[0], right : right + frame.shape[1]]


def test_the_shift_is_padding_by_repeated_edges_and_a_crop() -> None:
    config = AugmentationConfig(augmentation="drq", random_shift=3)
    window = pictures(40, 2)
    parts = {"front": torch.from_numpy(window)}
    drawn = draw(40, config, torch_generator(0, "test"), parts)
    found = apply(parts, drawn, config)["front"].numpy()
    for frames, result, uniforms in zip(window, found, drawn["front"].numpy(), strict=True):
        down, right = (int(number * 7) for number in uniforms)
        for frame, shifted in zip(frames, result, strict=True):
            assert np.array_equal(shifted, loop_shift(frame, down, right, 3))


def test_every_shift_of_drq_is_equally_likely() -> None:
    config = AugmentationConfig(augmentation="drq", random_shift=1)
    frame = pictures(1, 1)[0, 0]
    known = {loop_shift(frame, down, right, 1).tobytes(): (down, right) for down in range(3) for right in range(3)}
    found = augment(np.repeat(frame[None, None], 1800, axis=0), config, 3)
    counts = np.zeros((3, 3))
    for window in found:
        counts[known[window[0].tobytes()]] += 1
    assert ((counts - 200) ** 2 / 200).sum() < 26.1  # chi squared, 8 degrees of freedom, p = 0.001


@pytest.mark.parametrize("config", [NOTHING, AugmentationConfig(augmentation="drq", random_shift=0)])
def test_neutral_parameters_change_nothing(config: AugmentationConfig) -> None:
    window = np.random.default_rng(0).integers(0, 256, (5, 2, 16, 16, 3), np.uint8)
    assert np.array_equal(augment(window, config, 0), window)


# ---- the same distribution ----


def boxes_of_albumentations(config: AugmentationConfig, height: int, width: int, count: int) -> np.ndarray:
    crop = albumentations_of(config, (height, width)).transforms[0]
    shape = {"shape": (height, width, 3)}
    found = [crop.get_params_dependent_on_data(shape, {})["crop_coords"] for _ in range(count)]
    return np.array([(x, y, right - x, bottom - y) for x, y, right, bottom in found], np.float64)


@pytest.mark.parametrize(
    ("size", "ratio", "scale"),
    [((64, 64), (0.9, 1.1), (0.8, 1.0)), ((48, 64), (0.9, 1.1), (0.8, 1.0)), ((64, 64), (0.5, 2.0), (0.3, 1.0))],
)
def test_crops_have_albumentations_geometry(
    size: tuple[int, int], ratio: tuple[float, float], scale: tuple[float, float]
) -> None:
    """The second picture's own ratio is not allowed: most boxes do not fit, and some samples end with the centre."""
    config = AugmentationConfig(augmentation="bridge", random_resized_crop_ratio=ratio, random_resized_crop_scale=scale)
    count = 6000
    theirs = boxes_of_albumentations(config, *size, count)
    uniforms = torch.rand(count, 40, generator=torch_generator(0, "boxes"))
    ours = torch.stack(crop_boxes(uniforms, *size, scale, ratio), dim=1).double().numpy()
    for column in range(4):
        assert ks_distance(ours[:, column], theirs[:, column]) < ks_bound(count)
    assert ks_distance(ours[:, 2] * ours[:, 3], theirs[:, 2] * theirs[:, 3]) < ks_bound(count)
    assert np.abs(np.cov(ours.T) - np.cov(theirs.T)).max() < 0.12 * np.cov(theirs.T).max()
    assert (ours[:, 0] >= 0).all() and (ours[:, 0] + ours[:, 2] <= size[1]).all()  # noqa: PT018
    assert (ours[:, 1] >= 0).all() and (ours[:, 1] + ours[:, 3] <= size[0]).all()  # noqa: PT018


def ks_distance(a: np.ndarray, b: np.ndarray) -> float:
    """Return the largest distance between two samples' distribution functions."""
    places = np.concatenate([a, b])
    return float(
        np.abs(
            np.searchsorted(np.sort(a), places, side="right") / len(a)
            - np.searchsorted(np.sort(b), places, side="right") / len(b)
        ).max()
    )


def ks_bound(count: int) -> float:
    """Return the distance that two samples of `count` from one distribution exceed once in a thousand times."""
    return math.sqrt(-math.log(0.001 / 2) / count)


def statistics_of(windows: np.ndarray) -> dict[str, np.ndarray]:
    """Return what is compared of augmented frames [b, 1, H, W, 3]: means, spreads, a corner and grey levels."""
    values = windows[:, 0].astype(np.float64)
    found = {}
    for channel, name in enumerate(("red", "green", "blue")):
        plane = values[..., channel]
        found[f"mean of {name}"] = plane.mean(axis=(1, 2))
        found[f"spread of {name}"] = plane.std(axis=(1, 2))
        found[f"corner of {name}"] = plane[:, 0, 0]
        found[f"dark {name}"] = np.quantile(plane, 0.1, axis=(1, 2))
        found[f"bright {name}"] = np.quantile(plane, 0.9, axis=(1, 2))
    found["red less blue"] = (values[..., 0] - values[..., 2]).mean(axis=(1, 2))
    return found


@pytest.mark.parametrize(
    "config",
    [
        BRIDGE,
        AugmentationConfig(
            augmentation="bridge", augment_order=("random_hue", "random_contrast"), random_hue=(-0.5, 0.5)
        ),
        AugmentationConfig(augmentation="drq"),
    ],
    ids=["bridge", "colours first", "drq"],
)
def test_the_distribution_is_albumentations(config: AugmentationConfig) -> None:
    count = 2500
    window = np.repeat(pictures(1, 1, (16, 16)), count, axis=0)
    pipeline, scaled = albumentations_of(config, (16, 16)), window[0, 0].astype(np.float32) / 255
    made = np.stack([pipeline(image=scaled)["image"] for _ in range(count)])
    theirs = statistics_of(np.rint(made * 255).astype(np.uint8)[:, None])
    ours = statistics_of(augment(window, config, 2))
    for name, reference in theirs.items():
        found = ours[name]
        squares = [(values - reference.mean()) ** 2 for values in (found, reference)]
        for a, b in ((found, reference), squares):  # first and second moments, by their standard errors
            assert abs(a.mean() - b.mean()) < 4 * math.sqrt((a.var() + b.var()) / count) + 0.02, name
        rounded = np.round(found), np.round(reference)  # drq gives few values: ties by float noise are no difference
        assert ks_distance(*rounded) < 1.3 * ks_bound(count), name


def test_parameters_are_independent_of_each_other() -> None:
    """One random stream for every operation would make the crop follow the brightness."""
    config = AugmentationConfig(
        augmentation="bridge",
        augment_order=("random_resized_crop", "random_brightness"),
        random_resized_crop_scale=(0.2, 1.0),
        random_resized_crop_ratio=(1.0, 1.0),
    )
    frame = np.zeros((1, 1, 32, 32, 3), np.uint8)
    frame[..., 0], frame[..., 1] = 100, np.linspace(0, 100, 32).astype(np.uint8)
    found = augment(np.repeat(frame, 1500, axis=0), config, 0).astype(np.float64)
    brightness = found[..., 0].mean(axis=(1, 2, 3))
    extent = np.ptp(found[..., 1], axis=(1, 2, 3)) / brightness  # the crop's width
    assert abs(np.corrcoef(brightness, extent)[0, 1]) < 0.1


# ---- replay, sharing ----


def test_equal_frames_of_a_window_stay_equal_and_samples_differ() -> None:
    window = np.repeat(np.repeat(pictures(1, 1), 3, axis=1), 4, axis=0)
    found = augment(window, BRIDGE, 0)
    assert (found == found[:, :1]).all()
    assert len({sample.tobytes() for sample in found}) == 4


@pytest.mark.parametrize("apart", [False, True])
def test_a_goal_and_what_comes_next_share_their_observations_parameters_unless_told_otherwise(apart: bool) -> None:
    config = BRIDGE.model_copy(update={"augment_next_obs_goal_differently": apart})
    frame = torch.from_numpy(pictures(1, 1)[0]).expand(2, 4, -1, -1, -1)
    seen = {"front": frame, "goal/front": frame, "state": torch.ones(2, 4, 3)}
    batch = augment_batch({"observations": seen, "next_observations": seen}, config, [0, 1], 9)
    found, after = batch["observations"], batch["next_observations"]
    assert torch.equal(found["front"], found["goal/front"]) is not apart
    assert torch.equal(found["front"], after["front"]) is not apart
    assert torch.equal(found["goal/front"], after["goal/front"])
    assert torch.equal(found["state"], torch.ones(2, 4, 3))
    alone = augment_batch({"observations": frame, "next_observations": frame}, config, [0, 1], 9)
    assert torch.equal(alone["observations"], alone["next_observations"]) is not apart


@pytest.mark.parametrize("alike", [False, True])
def test_cameras_have_parameters_of_their_own_unless_told_otherwise(alike: bool) -> None:
    config = BRIDGE.model_copy(update={"augment_cameras_alike": alike})
    frame = torch.from_numpy(pictures(1, 1)[0]).expand(1, 4, -1, -1, -1)
    found = augment_batch({"observations": {"front": frame, "wrist": frame}}, config, [0], 0)["observations"]
    assert torch.equal(found["front"], found["wrist"]) is alike


@pytest.mark.parametrize("augmentation", ["bridge", "drq"])
def test_saliency_is_cropped_with_its_picture_where_asked_and_else_left_alone(augmentation: Any) -> None:
    colour = (1.0, 1.0)
    config = AugmentationConfig(
        augmentation=augmentation,
        augment_saliency=True,
        random_brightness=colour,
        random_contrast=colour,
        random_saturation=colour,
        random_hue=(0.0, 0.0),
    )
    frame = torch.from_numpy(np.repeat(pictures(4, 1, channels=1)[:, 0], 3, axis=-1))[None]
    batch = {"observations": {"front": frame}, "saliency/front": frame[..., :1].float() / 255}
    found = augment_batch(batch, config, [3], 2)
    assert not torch.equal(found["observations"]["front"], frame)
    assert (found["saliency/front"] * 255 - found["observations"]["front"][..., :1].float()).abs().max() < 0.52
    left = augment_batch(batch, config.model_copy(update={"augment_saliency": False}), [3], 2)
    assert torch.equal(left["saliency/front"], batch["saliency/front"])


# ---- layouts, determinism, members ----


def test_a_history_on_channels_is_augmented_as_the_same_history_in_sequence() -> None:
    window = torch.from_numpy(pictures(4, 3))[None]
    channels = window.movedim(2, 4).flatten(4)
    in_sequence = augment_batch({"observations": {"pixels": window}}, BRIDGE, [4], 1, obs_horizon=3)
    on_channels = augment_batch({"observations": channels}, BRIDGE, [4], 1, obs_horizon=3)
    assert torch.equal(on_channels["observations"], in_sequence["observations"]["pixels"].movedim(2, 4).flatten(4))


def test_members_and_workers_get_what_they_would_get_alone() -> None:
    frames = torch.from_numpy(pictures(12, 1)[:, 0]).unflatten(0, (2, 6))
    together = augment_batch({"observations": frames}, BRIDGE, [5, 8], 3)["observations"]
    again = augment_batch({"observations": frames}, BRIDGE, [5, 8], 3)["observations"]
    other_step = augment_batch({"observations": frames}, BRIDGE, [5, 8], 4)["observations"]
    assert torch.equal(together, again)
    assert not torch.equal(together, other_step)
    alone = augment_batch({"observations": frames[1:]}, BRIDGE, [8], 3)["observations"]
    assert torch.equal(together[1:], alone)
    shares = [
        augment_batch({"observations": frames[:, 3 * rank : 3 * rank + 3]}, BRIDGE, [5, 8], 3, rank=rank, world=2)
        for rank in range(2)
    ]
    assert torch.equal(torch.cat([share["observations"] for share in shares], dim=1), together)


def test_the_batch_given_is_left_as_it_was() -> None:
    frames = torch.from_numpy(pictures(4, 1)[:, 0])[None]
    before = frames.clone()
    augment_batch({"observations": frames}, BRIDGE, [0], 0)
    assert torch.equal(frames, before)


@pytest.mark.parametrize("augmentation", ["bridge", "drq"])
def test_augmentation_runs_under_vmap(augmentation: Any) -> None:
    config = AugmentationConfig(augmentation=augmentation)
    frames = torch.from_numpy(pictures(6, 1)[:, 0]).unflatten(0, (2, 3))
    drawn = [draw(3, config, torch_generator(seed, "test"), {"pixels": frames}) for seed in (0, 1)]
    stacked = torch.stack([numbers["pixels"] for numbers in drawn])
    together = vmap(lambda part, uniforms: apply({"pixels": part}, {"pixels": uniforms}, config)["pixels"])
    alone = torch.stack([apply({"pixels": frames[k]}, drawn[k], config)["pixels"] for k in range(2)])
    assert (together(frames, stacked).int() - alone.int()).abs().max() <= 1


# ---- the keys ----


def test_numbers_and_the_seeds_own_spelling_are_taken_as_ranges() -> None:
    config = AugmentationConfig.model_validate(
        {"augmentation": True, "random_brightness": [0.2], "random_contrast": 0.3, "random_hue": [0.1]}
    )
    assert config.augmentation == "bridge"
    keys = config.flat_parameters()
    assert keys["random_brightness"] == (0.8, 1.2)
    assert keys["random_contrast"] == (0.7, 1.3)
    assert keys["random_hue"] == (-0.1, 0.1)
    assert AugmentationConfig(augmentation="none", augment_order=("random_hue",)).operations == ()


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"augmentation": "brige"}, "did you mean 'bridge'"),
        ({"augmentation": "random_hues"}, "did you mean 'random_hue'"),
        ({"augmentation": ["random_shift", "random_hues"]}, "did you mean 'random_hue'"),
        ({"augmentation": ["random_hue", "random_hue"]}, "twice"),
        ({"augmentation": ["random_hue"], "augment_order": ["random_hue"]}, "leave augment_order out"),
        ({"augment_order": ["random_hues"]}, "did you mean 'random_hue'"),
        ({"augment_order": ["random_hue", "random_hue"]}, "twice"),
        ({"random_hue": 0.6}, "within -0.5 to 0.5"),
        ({"random_resized_crop_scale": [0.9, 0.8]}, "must rise"),
        ({"random_resized_crop_ratio": [0, 1]}, "must rise"),
        ({"random_brightness": -0.2}, "cannot be negative"),
    ],
)
def test_wrong_values_are_one_line(values: dict[str, Any], words: str) -> None:
    with pytest.raises(SpecError, match=words) as raised:
        validate(AugmentationConfig, {"augmentation": "bridge", **values})
    assert "\n" not in str(raised.value)


def test_operations_are_chosen_by_a_preset_an_order_or_their_names() -> None:
    assert AugmentationConfig(augmentation="bridge", augment_order=("random_hue",)).order == ("random_hue",)
    assert AugmentationConfig(augmentation="random_shift").order == ("random_shift",)
    named = AugmentationConfig(augmentation=["random_shift", "random_hue"], random_shift=2)
    assert [operation.name for operation in named.operations] == ["random_shift", "random_hue"]
    assert AugmentationConfig(**named.model_dump(mode="json")) == named
    assert AugmentationConfig().model_dump() == AugmentationConfig(random_hue=0.2).model_dump() == {}


def test_pictures_that_cannot_be_augmented_are_named_before_work_starts() -> None:
    BRIDGE.check({"state": (9,), "front": (64, 64, 6), "goal/front": (64, 64, 3)}, obs_horizon=2)
    BRIDGE.check({"front": (2, 64, 64, 1)}, obs_horizon=2)
    with pytest.raises(UserError, match="depth has 2 channels"):
        BRIDGE.check({"depth": (64, 64, 2)})
    with pytest.raises(UserError, match="the policy sees none"):
        BRIDGE.check((17,))
    AugmentationConfig(augmentation="drq").check({"depth": (64, 64, 2)})
