"""Turn a source's file into an episode store, and a store back into an npz."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

from understudy.envs.source import Source
from understudy.envs.store import EpisodeStore, store_path
from understudy.envs.writing import StoreWriter
from understudy.errors import DatasetError
from understudy.files import sha256, write_atomic
from understudy.registry import sources

Progress = Callable[[int, int], None]
"""Called with (episodes so far, transitions so far)."""


def import_file(
    source_name: str,
    path: str | Path,
    env_name: str,
    data_dir: str | Path,
    *,
    name: str | None = None,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> EpisodeStore:
    """Import a file (or a folder, where the source takes one) as the store `<data_dir>/<env_name>` and open it.

    `env_name` says which task the data are of; `name` is the store's, when it should be another.
    """
    name = env_name if name is None else name
    source: Source = sources.get(source_name)
    path = Path(path).expanduser()
    if not path.exists():
        raise DatasetError(f"{path}: no such file")
    if not source.matches(name) and (not name or Path(name).name != name or name.startswith(".")):
        raise DatasetError(f"dataset name {name!r}: must be a plain name, it becomes a folder of the data directory")
    provenance = {
        "env_name": env_name,
        "files": [{"name": file.name, "sha256": sha256(file)} for file in source.files(path)],
        **source.provenance(path, env_name),
    }
    target = store_path(name, data_dir)
    env_id = source.env_id(env_name)
    writer = StoreWriter(
        target, name=name, source=source_name, env_id=env_id, provenance=provenance, overwrite=overwrite
    )
    transitions = 0
    with writer:
        for episode in source.read(path, env_name):
            writer.add_episode(episode)
            transitions += len(episode["actions"])
            if progress is not None:
                progress(writer.num_episodes, transitions)
    return EpisodeStore.open(target)


def export_npz(store: EpisodeStore, path: str | Path) -> Path:
    """Write a store as an OGBench-format npz: each trajectory ends with a row that is only its final state."""
    if "final_observations" not in store.manifest.episode_columns:
        raise DatasetError(f"{store.name}: has no final observations, which the OGBench format needs")
    target = Path(path).expanduser()
    ends = store.starts + store.lengths
    last = np.zeros(store.manifest.num_transitions + store.manifest.num_episodes, bool)
    last[ends + np.arange(len(ends))] = True
    arrays: dict[str, np.ndarray] = {"terminals": last}
    for name in store.manifest.columns:
        if name == "terminals":
            continue
        values = store.column(name)
        arrays[name] = np.zeros((len(last), *values.shape[1:]), values.dtype)
        arrays[name][~last] = values
        # the extra row repeats what has no final value: nothing reads it
        arrays[name][last] = store.episode_column("final_observations") if name == "observations" else values[ends - 1]
    write_atomic(target, lambda stream: np.savez(stream, allow_pickle=False, **arrays))
    return target
