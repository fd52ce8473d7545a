"""An HDF5 file that holds episodes as the store names their columns: what gym-hil's demonstrations are kept in.

gym-hil has no files of its own; those that are recorded with it are LeRobot's, whose videos are not what was seen, bit
for bit. `episodes/<n>/<column>` is a dataset with a row a step, or one row an episode; `language` is text. Pictures are
compressed without loss, one at a time. Attributes: `environment` (JSON, what `make_env` takes) and `made_by`.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from understudy.envs.files.hdf5 import new_hdf5
from understudy.envs.files.reading import damage, open_hdf5
from understudy.envs.sources.task import Episode
from understudy.envs.store.episode import check_same_columns, is_episode_column, prepare_episode
from understudy.errors import DatasetError

FORMAT = "understudy episodes 1"
EXACT = ("qpos", "qvel")
"""Columns of the simulator that keep their precision."""
FINAL = ("final_observation", "final_observations")


def write_columns(path: Path, episodes: Iterable[Episode], provenance: Mapping[str, Any]) -> None:
    """Write episodes; DatasetError for those that do not fit together, and then nothing is left."""
    first: dict[str, np.ndarray] = {}
    count = 0
    with new_hdf5(path) as (file, check):
        groups = file.create_group("episodes")
        for number, episode in enumerate(episodes):
            rows = prepare_episode(episode, number)
            first = first or {name: array[:1] for name, array in rows.items()}
            check_same_columns(rows, first, number)
            group, count = groups.create_group(str(number)), number + 1
            for name, array in rows.items():
                exact = np.asarray(episode[name], np.float64) if name in EXACT else array
                _write(group, name, exact[0] if is_episode_column(name) else exact)
            check()
        if not count:
            raise DatasetError(f"{path}: no episodes, nothing to write")
        file.attrs["format"] = FORMAT
        for name, value in (("environment", provenance.get("environment")), ("made_by", provenance.get("made_by"))):
            if value:
                file.attrs[name] = value if isinstance(value, str) else json.dumps(value, sort_keys=True)


def read_columns(path: Path, wanted: Mapping[str, tuple[int, ...]], task: str) -> Iterator[Episode]:
    """Yield the episodes in numeric order; whatever is wrong with the file is a DatasetError.

    `wanted` are columns with the shapes that their rows must have, else it is the file of another task.
    """
    with open_hdf5(path) as file, damage(path, "HDF5"):
        groups = file.get("episodes")
        names = [str(number) for number in range(len(groups or ()))]
        if not names or any(not hasattr(groups.get(name), "visititems") for name in names):
            raise DatasetError(f"{path}: no episodes (episodes/0, ...); is it a file of another kind?")
        for number, name in enumerate(names):
            rows: dict[str, Any] = {}
            groups[name].visititems(lambda key, item, rows=rows: rows.update(_read(key, item)))
            episode = {FINAL[0] if key == FINAL[1] else key: value for key, value in rows.items()}
            steps = prepare_episode(episode, number)
            for column, shape in wanted.items():
                found = steps[column].shape[1:] if column in steps else None
                if found != shape:
                    has = f"{column} {found}" if found else f"no {column!r}"
                    raise DatasetError(f"{path}: episode {name} has {has}, {task} has {shape}; is it of another task?")
            yield episode


def read_notes(path: Path) -> dict[str, Any]:
    """Return what a file says about itself: `environment`, parsed, and `made_by`, where they are there."""
    with open_hdf5(path) as file, damage(path, "HDF5"):
        found = {name: str(file.attrs[name]) for name in ("environment", "made_by") if name in file.attrs}
        environment = json.loads(found["environment"]) if "environment" in found else None
    if environment is not None and not isinstance(environment, dict):
        raise DatasetError(f"{path}: environment is JSON, but no object with names and values")
    return {**found, **({"environment": environment} if environment else {})}


def _write(group: Any, name: str, array: np.ndarray) -> None:
    if array.dtype.kind == "U":
        group.create_dataset(name, data=str(array))
    elif array.dtype == np.uint8 and array.ndim == 4:
        group.create_dataset(name, data=array, chunks=(1, *array.shape[1:]), compression="gzip", compression_opts=1)
    else:
        group.create_dataset(name, data=array)


def _read(name: str, item: Any) -> dict[str, Any]:
    """Return {name: array or text} of a dataset, nothing of a group."""
    if not hasattr(item, "dtype"):
        return {}
    value = item[()]
    return {name: value.decode() if isinstance(value, bytes) else np.asarray(value)}
