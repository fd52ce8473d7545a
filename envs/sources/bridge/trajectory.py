"""One raw BridgeData trajectory as an episode, or the reason why it is left out.

A folder of `images<k>/im_<t>.jpg` for t from 0 to T, `obs_dict.pkl` (`full_state` and `time_stamp`, T + 1 each),
`policy_out.pkl` (T actions), `lang.txt` and, where asked for, `saliency_map.pkl` [T + 1, 1, 480, 640].
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from understudy.envs.sources.bridge.relabelling import relabel_actions
from understudy.envs.sources.bridge.unpickling import unpickle
from understudy.envs.store.episode import prepare_episode
from understudy.envs.store.store import FINAL, IMAGES, SALIENCY
from understudy.errors import DatasetError

MAIN_CAMERA = "images0"
"""The camera that every trajectory must have where none are asked for, and that saliency maps are of."""
CAMERA = re.compile(r"images\d+")
LARGEST_PICTURE = 50_000_000
"""Pixels; a JPEG's header may claim 65535 x 65535."""
Load = Callable[[bytes], np.ndarray | None]
"""Makes a resized picture uint8 [im_size, im_size, 3] of a JPEG's bytes; None where they are none."""


@dataclass(frozen=True)
class Reading:
    """How trajectories become episodes; all of it changes what is in the store."""

    im_size: int = 128
    """Height and width of the pictures, which are resized and not cropped."""
    saliency: bool = False
    cameras: tuple[str, ...] = (MAIN_CAMERA,)
    relabel_actions: bool = False
    exact: bool = False
    """Decode and resize with Pillow, as upstream does; the quick way's pictures differ from these by 1 at most."""


def cameras_of(folder: Path) -> set[str]:
    """Return the cameras that have a folder here; depth cameras (`depth_images0`) are none."""
    try:
        return {path.name for path in folder.iterdir() if CAMERA.fullmatch(path.name) and path.is_dir()}
    except OSError:  # reading it says so
        return set()


def read_trajectory(folder: Path, is_late: bool, reading: Reading) -> dict[str, Any]:
    """Return the episode, or raise DatasetError with the reason in one line; paths in it are below the folder.

    Where pictures are late, the first observation and the last action are left out.
    """
    first = int(is_late)
    states, stamps = _observed(folder)
    actions = _actions(folder)
    count = len(actions)
    if len(states) != count + 1 or len(stamps) != count + 1:
        raise DatasetError(f"{count} actions, {len(states)} states and {len(stamps)} time stamps: one more is needed")
    if count - first < 1:
        raise DatasetError("has no steps")
    load = loader(reading.im_size, reading.exact)
    episode: dict[str, Any] = {}
    for camera in reading.cameras:
        frames = _pictures(folder, camera, count + 1, first, load)
        episode[IMAGES + camera], episode[FINAL + IMAGES + camera] = frames[:-1], frames[-1]
    if reading.saliency:
        episode[SALIENCY + MAIN_CAMERA] = _saliency(folder, count + 1, reading.im_size)[first:-1]
    states, actions = states[first:], actions[: count - first]
    episode |= {
        "observations": states[:-1],
        "final_observation": states[-1],
        "time_stamp": stamps[first:-1],
        "actions": relabel_actions(actions, states) if reading.relabel_actions else actions,
        "rewards": np.zeros(count - first, np.float32),
        "terminals": np.zeros(count - first, np.uint8),
        "language": _language(folder),
    }
    try:
        prepare_episode(episode, 0)
    except DatasetError as error:
        raise DatasetError(str(error).removeprefix("episode 0: ")) from error
    return episode


def _observed(folder: Path) -> tuple[np.ndarray, np.ndarray]:
    found = _load(folder, "obs_dict.pkl")
    if not isinstance(found, Mapping):
        raise DatasetError(f"obs_dict.pkl: holds {type(found).__name__}, a dict is needed")
    for key in ("full_state", "time_stamp"):
        if key not in found:
            raise DatasetError(f"obs_dict.pkl: has no {key!r}")
    states = _numbers(found["full_state"], "obs_dict.pkl: full_state", 2)
    return states, _numbers(found["time_stamp"], "obs_dict.pkl: time_stamp", 1).astype(np.float64)


def _actions(folder: Path) -> np.ndarray:
    found = _load(folder, "policy_out.pkl")
    if isinstance(found, list) and found and isinstance(found[0], Mapping):
        if not all(isinstance(step, Mapping) and "actions" in step for step in found):
            raise DatasetError("policy_out.pkl: not every step has 'actions'")
        found = [step["actions"] for step in found]
    return _numbers(found, "policy_out.pkl", 2)


def _numbers(value: Any, what: str, dims: int) -> np.ndarray:
    try:
        array = np.asarray(value)
    except ValueError as error:
        raise DatasetError(f"{what}: rows of different lengths") from error
    if array.dtype.kind not in "biuf" or array.ndim != dims or array.size == 0:
        raise DatasetError(f"{what}: holds {array.dtype} of shape {array.shape}, numbers of {dims} dims are needed")
    return array


def _load(folder: Path, name: str) -> Any:
    file = folder / name
    if not file.is_file():
        raise DatasetError(f"{name} is missing")
    try:
        return unpickle(file)
    except DatasetError as error:
        raise DatasetError(str(error).replace(str(file), name)) from error


def _language(folder: Path) -> str:
    """Return the lines of lang.txt that do not say how sure its writer was."""
    file = folder / "lang.txt"
    if not file.is_file():
        return ""
    lines = [line.strip() for line in file.read_text(errors="replace").splitlines()]
    return "\n".join(line for line in lines if line and "confidence" not in line)


def _pictures(folder: Path, camera: str, count: int, first: int, load: Load) -> np.ndarray:
    """Return the resized frames `first` to `count` - 1, uint8 [n, im_size, im_size, 3]."""
    place = folder / camera
    if not place.is_dir():
        raise DatasetError(f"{camera} is missing")
    present = sum(1 for path in place.iterdir() if path.name.startswith("im_") and path.name.endswith(".jpg"))
    if present != count:
        raise DatasetError(f"{camera}: {present} pictures, {count} states")
    return np.stack([_picture(place / f"im_{t}.jpg", f"{camera}/im_{t}.jpg", load) for t in range(first, count)])


def _picture(file: Path, name: str, load: Load) -> np.ndarray:
    try:
        data = file.read_bytes()
    except OSError as error:
        raise DatasetError(f"{name} is missing or cannot be read ({error.strerror})") from error
    height, width = _jpeg_size(data[:65536])
    whole = b"\xff\xd9" in data[-1024:]  # decoders fill up what is missing with grey
    picture = load(data) if whole and 0 < height * width <= LARGEST_PICTURE else None
    if picture is None:
        raise DatasetError(f"{name}: not a readable JPEG, truncated or damaged")
    return picture


def _jpeg_size(data: bytes) -> tuple[int, int]:
    """Return height and width as the frame header says, (0, 0) where there is none."""
    place = 2
    while data[:2] == b"\xff\xd8" and place + 9 <= len(data) and data[place] == 0xFF:
        marker = data[place + 1]
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            return int.from_bytes(data[place + 5 : place + 7]), int.from_bytes(data[place + 7 : place + 9])
        place += 2 + int.from_bytes(data[place + 2 : place + 4])
    return 0, 0


def _saliency(folder: Path, count: int, im_size: int) -> np.ndarray:
    """Return maps float32 [count, im_size, im_size, 1] in [0, 1], resized bilinearly with the area that shrinks."""
    import torch
    from torch.nn.functional import interpolate

    found = _load(folder, "saliency_map.pkl")
    if not isinstance(found, np.ndarray) or found.dtype.kind != "f" or found.ndim != 4 or found.shape[1] != 1:
        what = f"{found.dtype} {found.shape}" if isinstance(found, np.ndarray) else type(found).__name__
        raise DatasetError(f"saliency_map.pkl: holds {what}, float32 [T, 1, H, W] is needed")
    if len(found) != count or 0 in found.shape:
        raise DatasetError(f"saliency_map.pkl: {len(found)} maps, {count} states")
    if not (found.min() >= 0 and found.max() <= 1):
        raise DatasetError("saliency_map.pkl: values must lie in [0, 1]")
    size = (im_size, im_size)
    maps = [torch.from_numpy(one[None].astype(np.float32)) for one in found]
    small = [interpolate(one, size=size, mode="bilinear", antialias=True)[0, 0].clamp(0, 1).numpy() for one in maps]
    return np.stack(small)[..., None]


def loader(im_size: int, exact: bool) -> Load:
    """Return what makes pictures of JPEGs: squeezed to a square by Lanczos, over the area that shrinks."""
    import cv2
    import torch
    from torch.nn.functional import interpolate

    size = (im_size, im_size)

    def by_pillow(data: bytes) -> np.ndarray | None:
        from PIL import Image, UnidentifiedImageError

        try:
            picture = Image.open(io.BytesIO(data)).convert("RGB")
        except (UnidentifiedImageError, OSError, SyntaxError):
            return None
        return np.asarray(picture.resize(size, Image.Resampling.LANCZOS))

    def quickly(data: bytes) -> np.ndarray | None:
        colour = cv2.IMREAD_COLOR_RGB | cv2.IMREAD_IGNORE_ORIENTATION
        picture = cv2.imdecode(np.frombuffer(data, np.uint8), colour)
        if picture is None:
            return None
        planes = torch.from_numpy(picture).permute(2, 0, 1)[None]
        small = interpolate(planes, size=size, mode="lanczos", antialias=True)
        return small[0].permute(1, 2, 0).contiguous().numpy()

    if exact:
        return by_pillow
    try:
        interpolate(torch.zeros(1, 3, 4, 4, dtype=torch.uint8), size=(2, 2), mode="lanczos", antialias=True)
    except (NotImplementedError, ValueError, RuntimeError):  # torch before 2.13 or so
        return by_pillow
    return quickly
