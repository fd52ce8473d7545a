"""Pictures in robomimic's HDF5 files: `obs/<camera>_image` [T, H, W, 3] uint8, and the same in `next_obs`.

A file's `next_obs` would hold every picture a second time. Those written here are HDF5 virtual datasets over `obs` and
the one picture that follows the last action (`last_obs`); h5py and robomimic read them as any other.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from understudy.envs.files.reading import damage, read_dataset
from understudy.envs.sources.task import Episode
from understudy.envs.store.episode import steps_of_final
from understudy.envs.store.store import FINAL, IMAGES
from understudy.errors import DatasetError

SUFFIX = "_image"


def cameras_of(path: Path, group: Any) -> dict[str, tuple[int, int]]:
    """Return the cameras of a demonstration's `obs` with their pictures' (height, width)."""
    import h5py

    found = {}
    for name, values in group.items() if isinstance(group, h5py.Group) else ():
        if name.endswith(SUFFIX) and isinstance(values, h5py.Dataset):
            if values.ndim != 4 or values.dtype.kind not in "uif":
                said = f"{values.dtype} {values.shape}"
                raise DatasetError(f"{path}: {values.name} holds {said}, pictures are numbers [T, H, W, C]")
            found[name.removesuffix(SUFFIX)] = _size(values.shape[1:])
    return found


def _size(shape: tuple[int, ...]) -> tuple[int, int]:
    """Return the height and width of a picture, whose channels may be first."""
    first = shape[0] in (1, 3) and shape[2] not in (1, 3)
    return (int(shape[1]), int(shape[2])) if first else (int(shape[0]), int(shape[1]))


def read_pictures(path: Path, file: Any, demo: str, sizes: Mapping[str, tuple[int, int]]) -> Episode:
    """Return a demonstration's picture columns, and where there are `next_obs` the pictures after the last action."""
    columns = {}
    steps = len(file[f"{demo}/actions"])
    for camera, size in sizes.items():
        for group in ("obs", "next_obs"):
            name = f"{demo}/{group}/{camera}{SUFFIX}"
            if group == "next_obs" and name not in file:
                continue
            frames = read_dataset(path, file, name) if group == "obs" else _last(path, file, name)
            rows = file[name].shape[0]
            if rows != steps or _size(frames.shape[-3:]) != size:
                said = f"{frames.dtype} {file[name].shape}"
                raise DatasetError(f"{path}: {name} holds {said}, {steps} pictures of {size} are expected")
            columns[f"{IMAGES if group == 'obs' else FINAL + IMAGES}{camera}"] = frames
    return columns


def write_pictures(demo: Any, rows: Mapping[str, np.ndarray]) -> None:
    """Write a prepared episode's pictures into its group."""
    import h5py

    for name in [name for name in rows if name.startswith(IMAGES)]:
        key = f"{name.removeprefix(IMAGES)}{SUFFIX}"
        frame = (1, *rows[name].shape[1:])
        # a checksum for each picture: damage is noticed, and a picture is read alone
        now = demo.create_dataset(f"obs/{key}", data=rows[name], chunks=frame, fletcher32=True)
        if FINAL + name not in rows:
            continue
        last = demo.create_dataset(f"last_obs/{key}", data=rows[FINAL + name])
        layout = h5py.VirtualLayout(now.shape, now.dtype)
        if len(now) > 1:
            layout[:-1] = h5py.VirtualSource(".", now.name, now.shape)[1:]  # "." is this file, whatever its name
        layout[-1:] = h5py.VirtualSource(".", last.name, last.shape)
        demo.create_virtual_dataset(f"next_obs/{key}", layout)


def is_picture_column(name: str) -> bool:
    """Return whether an episode's column holds pictures, of its steps or of its end."""
    return (steps_of_final(name) or name).startswith(IMAGES)


def sizes_of(episode: Episode) -> dict[str, tuple[int, int]]:
    """Return the cameras of an episode with their pictures' (height, width)."""
    pictures = {name: np.shape(value) for name, value in episode.items() if name.startswith(IMAGES)}
    return {name.removeprefix(IMAGES): (shape[1], shape[2]) for name, shape in pictures.items() if len(shape) == 4}


def _last(path: Path, file: Any, name: str) -> np.ndarray:
    """Return the last picture [H, W, C] of a dataset without reading the others."""
    values = file[name]
    with damage(path, "HDF5"):
        sources = [source.dset_name for source in values.virtual_sources()] if values.is_virtual else []
        if not all(source in file for source in sources):  # HDF5 would give a black picture
            raise DatasetError(f"{path}: {name} is made of {' and '.join(sources)}, which are not all there")
        return np.asarray(values[-1])
