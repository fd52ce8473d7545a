"""Open the store that a run names, importing its files first where they are new."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from understudy.envs.sources.source import Source, source_for
from understudy.envs.store.origins import is_of
from understudy.envs.store.store import JPEG, MANIFEST, EpisodeStore, Manifest, find_store, store_path
from understudy.envs.store.transfer import import_file
from understudy.errors import UserError
from understudy.spec.run import RunSpec

log = logging.getLogger("understudy")


def open_named(spec: RunSpec) -> EpisodeStore:
    """Open the run's dataset; one whose name says where its files lie is imported when they are new or have changed."""
    target = store_path(spec.env_name, spec.datasets)
    try:
        source = source_for(spec.env_name)  # a name that nobody knows gets the nearest known one
        folder = source.local(spec.env_name)
    except UserError:
        if not (target / MANIFEST).is_file():
            raise
        return find_store(spec.env_name, spec.datasets)  # of a name of one's own, or whose files lie elsewhere
    if folder is not None and not is_of(target, source.files(folder)):
        _import_as_before(source, folder, spec.env_name, spec.datasets)
    return find_store(spec.env_name, spec.datasets)


def open_imported(file: Path, env_name: str, target: Path) -> EpisodeStore:
    """Open the file's store below `target`, importing the file first when it is new or holds something else now."""
    folder = store_path(file.stem, target)
    if is_of(folder, [file]):
        return EpisodeStore.open(folder)
    log.info("importing %s", file)
    return import_file("ogbench", file, env_name, target, name=file.stem, overwrite=True)


def _import_as_before(source: Source, path: Path, env_name: str, data_dir: Path) -> None:
    """Import files in the way that the store that is there was made: its encoding of pictures, options, changes."""
    folder, options = store_path(env_name, data_dir), {}
    if (folder / MANIFEST).is_file():
        options = _ways_of(Manifest.read(folder))
        log.warning("%s: its files have changed; importing them again", env_name)
    else:
        log.info("%s: importing %s", env_name, path)
    import_file(source.name, path, env_name, data_dir, overwrite=True, **options)


def _ways_of(manifest: Manifest) -> dict[str, Any]:
    """Return the arguments of `import_file` that a store was made with."""
    from understudy.envs.sources.bridge.relabelling import relabelled

    known, options = manifest.provenance, {}
    if JPEG in [column.encoding for column in manifest.columns.values()]:
        options |= {"image_encoding": JPEG, "jpeg_quality": int(known.get("jpeg_quality", 95))}
    if known.get("relabel_actions"):
        options |= {"change": relabelled, "notes": {"relabel_actions": True}}
    if known.get("reading"):
        options |= {"reading": known["reading"]}
    return options
