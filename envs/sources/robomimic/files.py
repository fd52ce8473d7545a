"""robomimic's HDF5 layout: `data/demo_<n>` with actions, rewards, dones, states, obs/<key> and next_obs/<key>.

`data` carries env_args (JSON) and the total of the samples; `mask/<filter key>` lists names of demonstrations. The
XML of each demonstration's MuJoCo model, which the published files hold, is neither read nor written.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from understudy.envs.files.hdf5 import new_hdf5
from understudy.envs.files.reading import damage, open_hdf5, read_dataset
from understudy.envs.sources.robomimic.images import cameras_of, is_picture_column, read_pictures, write_pictures
from understudy.envs.sources.task import Episode
from understudy.envs.store.episode import MASK, check_same_columns, prepare_episode
from understudy.envs.store.store import IMAGES, TEXTS
from understudy.errors import DatasetError

DEMO = re.compile(r"demo_(\d+)")
ARM_KEYS = {"eef_pos": 3, "eef_quat": 4, "gripper_qpos": 2}
"""What each arm gives to an observation, with its numbers."""
KEPT = ("states", "executed_actions")
"""Columns beside the needed ones that are read where every demonstration has them, with the same dims."""


@dataclass(frozen=True)
class Layout:
    """What the observations of a task's files are: each arm's arrays and then `object`, or pictures in its place."""

    task: str
    """robosuite's name, for messages."""
    arms: int
    object_dims: int | None
    """The length of the array `object`; None where there are pictures in its place."""
    cameras: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    """Cameras that are read, with their pictures' (height, width)."""

    @property
    def keys(self) -> list[str]:
        """The keys whose arrays make the state."""
        arms = [f"robot{arm}_{key}" for arm in range(self.arms) for key in ARM_KEYS]
        return arms if self.object_dims is None else [*arms, "object"]


def demonstrations_in(path: Path) -> list[str]:
    """Return the names of a file's demonstrations in numeric order."""
    with open_hdf5(path) as file, damage(path, "HDF5"):
        return _demonstrations(path, _group(path, file, "data"))


def cameras_in(path: Path) -> dict[str, tuple[int, int]]:
    """Return the cameras of a file with their pictures' (height, width); none for a file without pictures."""
    with open_hdf5(path) as file, damage(path, "HDF5"):
        first = _demonstrations(path, _group(path, file, "data"))[0]
        return cameras_of(path, file[f"data/{first}"].get("obs"))


def read_attributes(path: Path) -> dict[str, Any]:
    """Return the attributes of `data` that matter here: env_args, parsed, and made_by, where they are there."""
    with open_hdf5(path) as file, damage(path, "HDF5"):
        attributes = _group(path, file, "data").attrs
        found = {name: attributes[name] for name in ("env_args", "made_by") if name in attributes}
    if "env_args" in found:
        try:
            found["env_args"] = json.loads(found["env_args"])
        except (ValueError, TypeError) as error:
            raise DatasetError(f"{path}: env_args is not JSON ({error})") from error
        if not isinstance(found["env_args"], dict):
            raise DatasetError(f"{path}: env_args is JSON, but no object with names and values")
    return found


def read_demonstrations(path: Path, layout: Layout) -> Iterator[Episode]:
    """Yield the demonstrations in numeric order (demo_2 before demo_10); rewards become the file's minus 1.

    Whatever is wrong with the file is a DatasetError.
    """
    with open_hdf5(path) as file, damage(path, "HDF5"):
        data = _group(path, file, "data")
        demos = _demonstrations(path, data)
        masks = _masks(path, file)
        kept = [name for name in KEPT if _alike(data, demos, name)]
        for demo in demos:
            episode = _demonstration(path, file, f"data/{demo}", layout.keys, kept)
            if layout.object_dims is not None:
                _check_object(path, file[f"data/{demo}/obs/object"], layout)
            pictures = read_pictures(path, file, f"data/{demo}", layout.cameras)
            chosen = {MASK + name: np.asarray(demo in those, np.uint8) for name, those in masks.items()}
            yield {**episode, **pictures, **chosen}


def _demonstrations(path: Path, data: Any) -> list[str]:
    demos = sorted((name for name in data if DEMO.fullmatch(name)), key=lambda name: int(name[5:]))
    if not demos:
        raise DatasetError(f"{path}: no demonstrations (data/demo_0, ...)")
    return demos


def _check_object(path: Path, values: Any, layout: Layout) -> None:
    if values.shape[1] != layout.object_dims:
        raise DatasetError(
            f"{path}: {values.name[1:]} has {values.shape[1]} dims, {layout.task} has {layout.object_dims}; "
            "is it the file of another task?"
        )


def write_demonstrations(
    path: Path, episodes: Iterable[Episode], layout: Layout, env_args: Mapping[str, Any], made_by: str | None = None
) -> None:
    """Write episodes as a file that robomimic's own tools load; rewards become the store's plus 1.

    The layout's cameras are those that every episode must have, with pictures of these sizes. States keep their
    precision. Raises DatasetError for episodes that do not fit, and then leaves nothing.
    """
    masks: dict[str, list[str]] = {}
    first: dict[str, np.ndarray] = {}
    total = count = 0
    with new_hdf5(path) as (file, check):
        data = file.create_group("data")
        for number, episode in enumerate(episodes):
            rows = prepare_episode(episode, number)
            name, count = f"demo_{number}", number + 1
            alike = {key: array[:1] for key, array in rows.items() if key != "states"}  # these may differ
            first = first or alike
            check_same_columns(alike, first, number)
            if "states" in episode:
                rows["states"] = np.asarray(episode["states"], np.float64)
            _write_demonstration(data.create_group(name), rows, layout, number)
            for key in (key for key in rows if key.startswith(MASK)):
                masks.setdefault(key, []).extend([name] if rows[key][0] else [])
            total += len(rows["actions"])
            check()
        if not count:
            raise DatasetError(f"{path}: no episodes, nothing to write")
        data.attrs["total"] = total
        data.attrs["env_args"] = json.dumps(env_args, indent=4)
        if made_by is not None:
            data.attrs["made_by"] = made_by
        for key, names in masks.items():
            file.create_dataset(key, data=np.array(names, dtype="S" if names else "S1"))


def _write_demonstration(demo: Any, rows: Mapping[str, np.ndarray], layout: Layout, number: int) -> None:
    observations = _checked_state(rows, layout, number)
    dims = [size for _ in range(layout.arms) for size in ARM_KEYS.values()]
    groups = {"obs": observations}
    if "final_observations" in rows:
        groups["next_obs"] = np.concatenate([observations[1:], rows["final_observations"]])
    for group, values in groups.items():
        for key, part in zip(layout.keys, np.split(values, np.cumsum(dims), axis=1), strict=False):
            demo.create_dataset(f"{group}/{key}", data=part)
    write_pictures(demo, rows)
    demo.create_dataset("rewards", data=rows["rewards"].astype(np.float64) + 1.0)
    demo.create_dataset("dones", data=rows["terminals"].astype(np.int64))
    others = ("observations", "final_observations", "rewards", "terminals", *TEXTS)
    for name in rows:
        if name not in others and not name.startswith(MASK) and not is_picture_column(name):
            demo.create_dataset(name, data=rows[name])
    demo.attrs["num_samples"] = len(observations)


def _checked_state(rows: Mapping[str, np.ndarray], layout: Layout, number: int) -> np.ndarray:
    """Return the states [T, O] of an episode that fits the layout."""
    observations = rows.get("observations")
    needed = sum(ARM_KEYS.values()) * layout.arms
    shape = None if observations is None else observations.shape[1:]
    if observations is None or observations.ndim != 2 or not _fits(observations.shape[1], needed, layout):
        rest = "and then the objects'" if layout.object_dims is not None else "and nothing else"
        raise DatasetError(
            f"episode {number}: observations have shape {shape}, robomimic's have {needed} numbers of the arms {rest}"
        )
    found = {name.removeprefix(IMAGES): tuple(rows[name].shape[1:3]) for name in rows if name.startswith(IMAGES)}
    if found != dict(layout.cameras):
        raise DatasetError(f"episode {number}: pictures {found}, {dict(layout.cameras) or 'none'} are expected")
    return observations


def _fits(dims: int, needed: int, layout: Layout) -> bool:
    return dims == needed if layout.object_dims is None else dims > needed


def _demonstration(path: Path, file: Any, demo: str, keys: Sequence[str], kept: Sequence[str]) -> Episode:
    actions = read_dataset(path, _group(path, file, demo).file, f"{demo}/actions")
    episode = {
        "observations": _observations(path, file, f"{demo}/obs", keys),
        "actions": actions,
        "rewards": read_dataset(path, file, f"{demo}/rewards") - 1.0,
        "terminals": read_dataset(path, file, f"{demo}/dones") != 0,
        **{name: read_dataset(path, file, f"{demo}/{name}") for name in kept},
    }
    said = file[demo].attrs.get("num_samples", len(actions))
    if len(actions) == 0 or said != len(actions):
        raise DatasetError(f"{path}: {demo} has {len(actions)} actions, its num_samples is {said}; is it cut short?")
    for name, array in episode.items():
        if len(array) != len(actions):
            raise DatasetError(f"{path}: {demo} has {len(actions)} actions but {len(array)} {name}")
    if f"{demo}/next_obs" in file:
        following = _observations(path, file, f"{demo}/next_obs", keys)
        if len(following) != len(actions):
            raise DatasetError(f"{path}: {demo} has {len(actions)} actions but {len(following)} next_obs")
        episode["final_observation"] = following[-1]
    return episode


def _observations(path: Path, file: Any, group: str, keys: Sequence[str]) -> np.ndarray:
    _group(path, file, group)
    parts = [read_dataset(path, file, f"{group}/{key}") for key in keys]
    if len({len(part) for part in parts}) != 1 or any(part.ndim != 2 for part in parts):
        shapes = ", ".join(f"{key} {part.shape}" for key, part in zip(keys, parts, strict=True))
        raise DatasetError(f"{path}: {group} has arrays that do not fit together: {shapes}")
    with np.errstate(over="ignore"):  # what float32 does not hold is found, and named, when the store is written
        return np.concatenate(parts, axis=1, dtype=np.float32)


def _masks(path: Path, file: Any) -> dict[str, set[str]]:
    """Return each filter key's demonstrations; names of demonstrations that were left out of the file are allowed."""
    import h5py

    found: dict[str, set[str]] = {}

    def add(name: str, item: Any) -> None:
        if isinstance(item, h5py.Dataset):
            names = np.atleast_1d(item[()]).tolist()
            if not all(isinstance(value, bytes) for value in names):
                raise DatasetError(f"{path}: {MASK}{name} holds {item.dtype}, not names of demonstrations")
            found[name] = {value.decode(errors="replace") for value in names}

    if MASK.rstrip("/") in file:
        _group(path, file, MASK.rstrip("/")).visititems(add)
    return found


def _alike(data: Any, demos: Sequence[str], name: str) -> bool:
    """Return whether every demonstration has this column, with the same dims."""
    shapes = {getattr(data[demo].get(name), "shape", None) if hasattr(data[demo], "get") else None for demo in demos}
    return len({shape and shape[1:] for shape in shapes}) == 1 and None not in shapes


def _group(path: Path, file: Any, name: str) -> Any:
    import h5py

    if name not in file:
        what = "no group 'data'; is it a robomimic file?" if name == "data" else f"no group {name!r}"
        raise DatasetError(f"{path}: {what}")
    if not isinstance(file[name], h5py.Group):
        raise DatasetError(f"{path}: {name} is a dataset, not a group; is it a robomimic file?")
    return file[name]
