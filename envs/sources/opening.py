"""Open the store that a run names, importing its files first where they are new."""

from __future__ import annotations

import hashlib
import logging
import shlex
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from understudy.envs.sources.getting import missing_dataset, unknown_dataset
from understudy.envs.sources.source import task_of
from understudy.envs.sources.task import Task
from understudy.envs.store.columns import RAW_PICTURES, PictureEncoding
from understudy.envs.store.finding import find_store, store_name, store_path
from understudy.envs.store.origins import is_of
from understudy.envs.store.store import JPEG, MANIFEST, EpisodeStore, Manifest
from understudy.envs.store.transfer import ImportOptions, import_file
from understudy.errors import DatasetError, UnknownName, UserError
from understudy.registry import sources
from understudy.spec.run import RunSpec

log = logging.getLogger("understudy")


def open_named(spec: RunSpec) -> EpisodeStore:
    """Open the run's dataset.

    One whose name says where its files lie is imported when they are new or have changed. Of the others, one that is
    not here is imported from where its own tools have left it, or fetched where the run says so (`download=true`).
    """
    name, target = spec.env_name, store_path(spec.env_name, spec.placement.datasets)
    here = (target / MANIFEST).is_file()
    try:
        task = task_of(name)
        folder = task.local() or _in_data_path(task, spec, here)
    except UnknownName:
        if not here:
            raise unknown_dataset(name, spec.placement.datasets) from None
        return find_store(name, spec.placement.datasets)  # of a name of one's own
    except UserError:
        if not here:
            raise
        return find_store(name, spec.placement.datasets)  # whose files lie elsewhere
    if folder is not None:
        bring_up_to_date(task, folder, spec.placement.datasets)
    elif not here:
        _get(task, spec)
    return find_store(name, spec.placement.datasets)


def bring_up_to_date(task: Task, folder: Path, data_dir: Path) -> None:
    """Import a dataset whose name says that its files lie in `folder`, when they are new or have changed."""
    if not is_of(store_path(task.env_name, data_dir), task.source.files(folder)):
        _import_as_before(task, folder, data_dir)


def _in_data_path(task: Task, spec: RunSpec, here: bool) -> Path | None:
    """Return where the run's `data_path` has the dataset's files; DatasetError where they are needed and not there."""
    if not spec.placement.data_path:
        return None
    root = Path(spec.placement.data_path)
    found = task.below(root) if root.is_dir() else None
    if found is None and not here:
        what = "has no files of it" if root.is_dir() else "is no folder"
        raise DatasetError(f"{task.env_name}: data_path={root} {what}{task.like_in(root) if root.is_dir() else ''}")
    return found


def open_if_here(spec: RunSpec) -> EpisodeStore | None:
    """Open the run's dataset if it is imported, changed files or not; UserError for a name that nobody knows."""
    name, folder = spec.env_name, spec.placement.datasets
    if (store_path(name, folder) / MANIFEST).is_file():
        return find_store(name, folder)
    try:
        task_of(name).local()
    except UnknownName:
        raise unknown_dataset(name, folder) from None
    return None


def open_buffer(spec: RunSpec) -> EpisodeStore:
    """Open the run's expert buffer, importing it first where it is new or has changed.

    DatasetError for one that is not there, and for one whose next observations are its observations: s' alone would
    tell such demonstrations from what a policy does.
    """
    source, place = sources.get("expert_buffer"), Path(str(spec.data.expert_data))
    file = source.files(place)[0]
    if not file.is_file():
        source.environment_in(place)  # says how to make it
    origin = hashlib.blake2b(str(file).encode(), digest_size=6).hexdigest()
    target = spec.placement.datasets / f"{store_name(spec.env_name)}.files" / origin
    known = task_of(spec.env_name)
    store = _opened(file, known if known.source is source else source.task(f"expert:{known.env_id}"), target)
    if "next_observations" in store.manifest.provenance:
        raise DatasetError(
            f"{file}: each next observation is the observation itself, and nothing can be learned from what follows:"
            f" collect it again with `understudy expert --env {shlex.quote(spec.env_name)}`"
        )
    return store


def _get(task: Task, spec: RunSpec) -> None:
    """Import a dataset that is not here yet from where its files are, or fetch it first; else say how to get it."""
    name, path = task.env_name, task.found()
    if path is None and spec.placement.download and task.downloadable:
        log.info("%s: fetching it", name)
        path = task.download(spec.placement.datasets / "raw", _told(name))
    if path is None:
        also = "download=true" if task.downloadable else ""
        raise missing_dataset(task, spec.placement.datasets, also)
    _import_as_before(task, path, spec.placement.datasets)


def _told(name: str) -> Callable[[int, int], None]:
    """Return a progress that logs a line each tenth of a download."""
    said = [0]

    def progress(done: int, total: int) -> None:
        tenth = 10 * done // total if total else done // 10**8
        if tenth > said[0]:
            said[0] = tenth
            log.info("%s: %.0f MB%s", name, done / 1e6, f" of {total / 1e6:.0f}" if total else "")

    return progress


def open_imported(file: Path, env_name: str, target: Path) -> EpisodeStore:
    """Open the file's store below `target`, importing the file first when it is new or holds something else now."""
    return _opened(file, task_of(env_name), target)


def _opened(file: Path, task: Task, target: Path) -> EpisodeStore:
    folder = store_path(file.stem, target)
    if is_of(folder, [file]):
        return EpisodeStore.open(folder)
    log.info("importing %s", file)
    return import_file(task, file, target, ImportOptions(name=file.stem, overwrite=True))


def _import_as_before(task: Task, path: Path, data_dir: Path) -> None:
    """Import files in the way that the store that is there was made: its encoding of pictures, options, changes."""
    folder, options = store_path(task.env_name, data_dir), ImportOptions()
    if (folder / MANIFEST).is_file():
        options = _options_of(Manifest.read(folder))
        log.warning("%s: its files have changed; importing them again", task.env_name)
    else:
        log.info("%s: importing %s", task.env_name, path)
    import_file(task, path, data_dir, replace(options, overwrite=True))


def _options_of(manifest: Manifest) -> ImportOptions:
    """Return the options that a store was imported with."""
    from understudy.envs.sources.bridge.relabelling import RELABELLED

    known, asked = manifest.provenance, manifest.provenance.get("asked")
    is_jpeg = any(column.encoding == JPEG for column in manifest.columns.values())
    return ImportOptions(
        pictures=PictureEncoding(JPEG, int(known.get("jpeg_quality", 95))) if is_jpeg else RAW_PICTURES,
        change=RELABELLED if known.get(RELABELLED.name) else None,
        reading=known.get("reading") or {},
        asked=asked if isinstance(asked, dict) else {},
    )
