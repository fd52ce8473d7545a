"""Open a run's dataset: one store, or the files of `ogbench_dataset_dir` in turn."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np

from understudy.envs.importing import import_file
from understudy.envs.source import source_for
from understudy.envs.store import MANIFEST, EpisodeStore, find_store
from understudy.envs.windows import Windows
from understudy.errors import DatasetError
from understudy.normaliser import Mode, Normaliser
from understudy.spec import RunSpec


class Data:
    """The stores of one run as windows. With several files, step s reads file (s - 1) // interval, cyclically."""

    def __init__(self, spec: RunSpec, stores: list[EpisodeStore]) -> None:
        self._interval = spec.dataset_replace_interval
        self._windows = [
            Windows(
                store,
                horizon=spec.config.chunk_length,
                proportion=spec.dataset_proportion,
                proportion_order=spec.proportion_order,
                sparse=spec.sparse,
            )
            for store in stores
        ]
        hashes = "/".join(store.manifest.content_hash for store in stores)
        self.content_hash = hashlib.blake2b(hashes.encode(), digest_size=16).hexdigest()

    def windows(self, step: int) -> Windows:
        """Return the windows that update number `step` (from 1) samples."""
        if self._interval <= 0:
            return self._windows[0]
        return self._windows[(step - 1) // self._interval % len(self._windows)]

    def normaliser(self, mode: Mode) -> Normaliser:
        """Fit the normaliser to the selected training episodes of the first file."""
        first = self._windows[0]
        if mode == "none":
            return Normaliser.identity(first.observation_shape)
        return Normaliser.fit(np.asarray(first.observations_all()), mode)


def open_data(spec: RunSpec) -> Data:
    """Open what `spec` trains on; every problem is a DatasetError before any work starts."""
    if spec.ogbench_dataset_dir is None:
        if not (spec.datasets / spec.env_name / MANIFEST).is_file():
            source_for(spec.env_name)  # a name that nobody knows gets the nearest known one
        return Data(spec, [find_store(spec.env_name, spec.datasets)])
    folder = Path(spec.ogbench_dataset_dir).expanduser()
    files = sorted(path for path in folder.glob("*.npz") if not path.stem.endswith("-val"))
    if not files:
        raise DatasetError(f"ogbench_dataset_dir={folder}: no .npz files there (files named *-val.npz are not counted)")
    # One place for each source folder: files of the same name in two folders are two datasets.
    origin = hashlib.blake2b(str(folder).encode(), digest_size=6).hexdigest()
    target = spec.datasets / f"{spec.env_name}.files" / origin
    return Data(spec, [_imported(file, spec.env_name, target) for file in files])


def _imported(file: Path, env_name: str, target: Path) -> EpisodeStore:
    """Open the file's store below `target`, importing the file first when it is new or was written since."""
    manifest = target / file.stem / MANIFEST
    if manifest.is_file() and manifest.stat().st_mtime >= file.stat().st_mtime:
        return EpisodeStore.open(manifest.parent)
    return import_file("ogbench", file, env_name, target, name=file.stem, overwrite=True)
