"""Turn a source's file into an episode store, and a store back into episodes."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from understudy.envs.files.reading import damage
from understudy.envs.store.columns import RAW_PICTURES, PictureEncoding
from understudy.envs.store.finding import store_path
from understudy.envs.store.incoming import Incoming
from understudy.envs.store.origins import check_unchanged, record
from understudy.envs.store.store import JPEG, EpisodeStore
from understudy.envs.store.writer import StoreWriter
from understudy.errors import DatasetError, UserError, did_you_mean
from understudy.files import user_path
from understudy.folders import restore_folder
from understudy.registry import sources

if TYPE_CHECKING:
    from understudy.envs.sources.task import Episode, Task

OnEpisode = Callable[[int, int], None]
"""Called with (episodes so far, transitions so far)."""


@dataclass(frozen=True)
class Change:
    """Something done to every episode that is imported; the store's provenance says so under `name`."""

    name: str
    apply: Callable[[Episode], Episode]


@dataclass(frozen=True)
class ImportOptions:
    """How a file becomes a store, and what is said of it that it does not say itself."""

    name: str = ""
    """The store's name; default the dataset's."""
    overwrite: bool = False
    pictures: PictureEncoding = RAW_PICTURES
    made_by: str = ""
    """How the data were made, for files that do not say it."""
    change: Change | None = None
    reading: Mapping[str, Any] = field(default_factory=dict[str, Any])
    """Options of the task's own `read`, such as LeRobot's `tolerance_s`."""
    asked: Mapping[str, str] = field(default_factory=dict[str, str])
    """What columns are, where that cannot be told (`data import --as NAME=WORDS`)."""
    environment: Task | None = None
    """The environment that policies of the data are evaluated in, where it is another than the data's own."""


PLAIN = ImportOptions()


def import_file(
    task: Task,
    path: str | Path,
    data_dir: str | Path,
    options: ImportOptions = PLAIN,
    progress: OnEpisode | None = None,
) -> EpisodeStore:
    """Import a file (or a folder, where the source takes one) of the task's data as a store and open it.

    The store is `<data_dir>/<the task's name>`, or that of `options.name`.
    """
    name, source, pictures = options.name or task.env_name, task.source, options.pictures
    reading = _checked_reading(task, options.reading)
    path = restore_folder(user_path(path))
    with damage(path, "data"):
        there = path.exists()
    if not there:
        raise DatasetError(f"{path}: no such file")
    if not source.matches(name) and (Path(name).name != name or name.startswith(".")):
        raise DatasetError(f"dataset name {name!r}: must be a plain name, it becomes a folder of the data directory")
    target = store_path(name, data_dir)
    writer = StoreWriter(
        target,
        name=name,
        source=source.name,
        env_id="",
        overwrite=options.overwrite,
        pictures=pictures,
    )
    transitions = 0
    with writer:
        writer.incoming = Incoming(task.declared(path), options.asked)
        files = source.files(path)
        records = [record(file) for file in files]
        writer.provenance = {
            **({"made_by": options.made_by} if options.made_by else {}),
            "env_name": task.env_name,
            "files": records,
            **_provenance(task, path, reading),
            **_of_environment(options.environment),
            **({options.change.name: True} if options.change else {}),
            **({"reading": reading} if reading else {}),
            **({"jpeg_quality": pictures.quality} if pictures.name == JPEG else {}),
        }
        writer.env_id = (options.environment or task).env_id_in(writer.provenance)
        for episode in task.read(path, **reading):
            writer.add_episode(options.change.apply(episode) if options.change else episode)
            transitions += len(episode["actions"])
            if progress is not None:
                progress(writer.num_episodes, transitions)
        check_unchanged(files, records)
    return EpisodeStore.open(target)


def _provenance(task: Task, path: Path, reading: Mapping[str, Any]) -> dict[str, Any]:
    """Return what the task says of a file that is read with these options, of which it may take some."""
    taken = inspect.signature(task.provenance).parameters
    return task.provenance(path, **{name: value for name, value in reading.items() if name in taken})


def _of_environment(environment: Task | None) -> dict[str, Any]:
    return {"env_name": environment.env_name, "environment": None} if environment else {}


def _checked_reading(task: Task, reading: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options that a source reads with, after a check that it takes them."""
    options = [item for item in inspect.signature(task.read).parameters.values() if item.kind is item.KEYWORD_ONLY]
    for name in reading:
        if name not in [item.name for item in options]:
            known = did_you_mean(name, [item.name for item in options]) or "; it takes none"
            raise UserError(f"{task.source.name} is read without an option {name!r}{known}")
    return dict(reading)


def episodes_of(store: EpisodeStore) -> Iterator[Episode]:
    """Yield a store's episodes as sources read and write them: views of the mapped columns, pictures decoded."""
    manifest = store.manifest
    pictures = [name for name, column in manifest.columns.items() if column.encoding]
    final_pictures = [name for name, column in manifest.episode_columns.items() if column.encoding]
    texts = {name: store.texts(name) for name, column in manifest.episode_columns.items() if column.dtype == "str"}
    columns = {name: store.column(name) for name in manifest.columns if name not in pictures}
    plain = [name for name in manifest.episode_columns if name not in texts and name not in final_pictures]
    ends = {name: store.episode_column(name) for name in plain}
    for number, (start, length) in enumerate(zip(store.starts, store.lengths, strict=True)):
        rows = np.arange(int(start), int(start + length))
        episode: dict[str, Any] = {name: values[start : start + length] for name, values in columns.items()}
        episode |= {name: store.frames(name).gather(rows) for name in pictures}
        episode |= {name: values[number] for name, values in ends.items()}
        episode |= {name: store.frames(name).gather(np.array([number]))[0] for name in final_pictures}
        episode |= {name: values[number] for name, values in texts.items()}
        if "final_observations" in episode:
            episode["final_observation"] = episode.pop("final_observations")
        yield episode


def export_store(
    store: EpisodeStore,
    path: str | Path,
    format_name: str,
    *,
    settings: Mapping[str, Any] | None = None,
    overwrite: bool = False,
    progress: OnEpisode | None = None,
) -> Path:
    """Write a store as a file (or folder) of a source's format and return where it is.

    A format that is one file gets the store's name in a `path` that is a folder, or ends with a slash.
    `settings` are the format's own, and go before what the store's provenance says of them.
    """
    source = sources.get(format_name)
    target = user_path(path)
    if source.suffix and (target.is_dir() or str(path).endswith("/")):
        target = target / f"{store.path.name}{source.suffix}"
    if restore_folder(target).exists() and not overwrite:
        raise DatasetError(f"{target} exists already; choose another place, or give --overwrite")
    provenance = {**store.manifest.provenance, **(settings or {})}

    def counted() -> Iterator[Episode]:
        transitions = 0
        for number, episode in enumerate(episodes_of(store), start=1):
            yield episode
            transitions += len(episode["actions"])
            if progress is not None:
                progress(number, transitions)

    source.write(target, counted(), str(provenance.get("env_name") or store.name), provenance)
    return target
