"""Open the store that a run names, importing its files first where they are new."""

from __future__ import annotations

from pathlib import Path

from understudy.envs.sources.source import source_for
from understudy.envs.store.store import JPEG, MANIFEST, RAW, EpisodeStore, Manifest, find_store, store_path
from understudy.envs.store.transfer import import_file
from understudy.errors import UserError
from understudy.spec.run import RunSpec


def open_named(spec: RunSpec) -> EpisodeStore:
    """Open the run's dataset; one whose name says where its files lie is imported when they are new or have changed."""
    manifest = store_path(spec.env_name, spec.datasets) / MANIFEST
    try:
        source = source_for(spec.env_name)  # a name that nobody knows gets the nearest known one
        folder = source.local(spec.env_name)
    except UserError:
        if not manifest.is_file():
            raise
        return find_store(spec.env_name, spec.datasets)  # of a name of one's own, or whose files lie elsewhere
    if folder is not None and not _is_newer(manifest, source.files(folder)):
        kept = (
            [column.encoding for column in Manifest.read(manifest.parent).columns.values()] if manifest.exists() else []
        )
        encoding = JPEG if JPEG in kept else RAW
        import_file(source.name, folder, spec.env_name, spec.datasets, overwrite=True, image_encoding=encoding)
    return find_store(spec.env_name, spec.datasets)


def _is_newer(manifest: Path, files: list[Path]) -> bool:
    """Return whether there is a store that was written after its files."""
    return manifest.is_file() and manifest.stat().st_mtime >= max(file.stat().st_mtime for file in files)


def open_imported(file: Path, env_name: str, target: Path) -> EpisodeStore:
    """Open the file's store below `target`, importing the file first when it is new or was written since."""
    manifest = target / file.stem / MANIFEST
    if _is_newer(manifest, [file]):
        return EpisodeStore.open(manifest.parent)
    return import_file("ogbench", file, env_name, target, name=file.stem, overwrite=True)
