"""Write a folder of Minari's with minari's own storage classes."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from gymnasium import spaces

from understudy.envs.files.hdf5 import unfailing
from understudy.envs.sources.minari.files import DESCRIBE, KEPT, METADATA
from understudy.envs.sources.minari.observed import OBSERVATIONS, Observed, final_of
from understudy.envs.sources.task import Episode, Settings
from understudy.envs.store.episode import prepare_episode
from understudy.envs.store.form import Form
from understudy.envs.store.store import IMAGES
from understudy.errors import DatasetError
from understudy.files import storage_errors
from understudy.folders import replaced_folder, restore_folder
from understudy.observations import STATE

if TYPE_CHECKING:
    from minari.data_collector import EpisodeBuffer


def write_episodes(
    path: Path,
    episodes: Iterable[Episode],
    name: str,
    settings: Settings,
    description: str,
    forms: Mapping[str, Any] | None = None,
) -> None:
    """Write a dataset's folder beside its place and put it there when it is whole; an older one there is replaced.

    `forms` are what was done to columns when they were imported (`provenance["forms"]`); that is undone.
    """
    from minari import __version__ as version
    from minari.dataset.minari_storage import MinariStorage
    from minari.serialization import deserialize_space

    feed = iter(episodes)
    first = next(feed, None)
    if first is None:
        raise DatasetError(f"{name}: no episodes, nothing to write")
    given = {key: deserialize_space(settings[key]) for key in ("observation_space", "action_space") if key in settings}
    undone = {column: Form.from_json(form) for column, form in (forms or {}).items()}
    observed = _observed(first, given.get("observation_space"))
    acted = given.get("action_space") or _box(np.asarray(first["actions"]))
    facts = {key: settings[key] for key in KEPT if key in settings and not key.endswith("_space")}
    facts |= {"description": description} if description else {}
    with _data_place(path) as temporary, storage_errors(path), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of what a dataset should say about its author
        storage = MinariStorage.new(temporary, observed.space, acted, data_format="hdf5", jpeg_encoding=False)
        storage.update_metadata({"dataset_id": name, "minari_version": version, **facts})
        with unfailing(temporary / "main_data.hdf5") as file:
            storage._file_path = file  # pyright: ignore[reportAttributeAccessIssue]
            storage.update_episodes(
                _buffer(*item, observed, acted, undone) for item in file.checked(_numbered(first, feed))
            )


@contextmanager
def _data_place(path: Path) -> Iterator[Path]:
    """Give a folder to fill, which becomes `path/data` when the block ends well; other things in `path` stay.

    Where there is a `data` of something else, it is refused.
    """
    place = path / "data"
    if path.exists() and not path.is_dir():
        raise DatasetError(f"{path}: is a file; {DESCRIBE}")
    if restore_folder(place).exists() and not (place / METADATA).is_file():
        raise DatasetError(f"{place}: is there and no Minari dataset; choose another folder")
    with replaced_folder(place if path.exists() else path) as folder:
        inside = folder if path.exists() else folder / "data"
        inside.mkdir(exist_ok=True)
        yield inside


def _numbered(first: Episode, rest: Iterator[Episode]) -> Iterator[tuple[int, Episode]]:
    yield 0, first
    yield from enumerate(rest, 1)


def _observed(first: Episode, given: spaces.Space | None) -> Observed:
    """Return how observations are to be written: by the space that is given, where it has the episode's cameras."""
    cameras = {name.removeprefix(IMAGES): np.asarray(first[name]) for name in first if name.startswith(IMAGES)}
    if given is not None and set(Observed.of(given).cameras) == set(cameras):
        return Observed.of(given)
    seen = {STATE: _box(np.asarray(first[OBSERVATIONS]))} if OBSERVATIONS in first else {}
    if not cameras:
        return Observed.of(given or seen[STATE], cameras=False)
    return Observed.of(spaces.Dict({**seen, **{name: _box(rows) for name, rows in cameras.items()}}))


def _buffer(
    number: int, episode: Episode, observed: Observed, acted: spaces.Space, undone: Mapping[str, Form]
) -> EpisodeBuffer:
    from minari.data_collector import EpisodeBuffer

    prepare_episode(episode, number)
    looks, actions = {}, np.asarray(episode["actions"])
    for column, shape in observed.shapes.items():
        if column not in episode or final_of(column) not in episode:
            raise DatasetError(f"episode {number}: has no final observation ({final_of(column)}), which Minari needs")
        rows = np.concatenate([episode[column], np.asarray(episode[final_of(column)])[None]])
        rows = undone[column].undo(rows) if column in undone else rows
        if int(np.prod(rows.shape[1:])) != int(np.prod(shape)):
            raise DatasetError(f"episode {number}: {column} {rows.shape[1:]}, the environment's are {shape}")
        looks[column] = rows
    if actions.shape[1:] != acted.shape:
        raise DatasetError(f"episode {number}: actions {actions.shape[1:]}, the environment's are {acted.shape}")
    terminated = np.asarray(episode["terminals"]) != 0
    last = np.arange(len(terminated)) == len(terminated) - 1
    return EpisodeBuffer(
        id=number,
        observations=observed.rows(looks),
        actions=actions.astype(acted.dtype),  # pyright: ignore[reportArgumentType]
        rewards=np.asarray(episode["rewards"], np.float32),  # pyright: ignore[reportArgumentType]
        terminations=terminated,  # pyright: ignore[reportArgumentType]
        truncations=last & ~terminated,  # pyright: ignore[reportArgumentType]
    )


def _box(rows: np.ndarray) -> spaces.Box:
    if rows.dtype == np.uint8:
        return spaces.Box(0, 255, rows.shape[1:], np.uint8)
    return spaces.Box(-np.inf, np.inf, rows.shape[1:], np.float32)
