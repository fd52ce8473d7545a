"""Find the stores of a data directory, and open one by its dataset's name."""

from __future__ import annotations

import os
from pathlib import Path

from understudy.envs.store.store import MANIFEST, EpisodeStore, Manifest
from understudy.errors import DatasetError, UserError, did_you_mean
from understudy.files import LONGEST_NAME, user_path
from understudy.folders import restore_folder, restore_folders


def list_stores(data_dir: str | Path) -> list[Manifest]:
    """Return the manifests of the stores in `data_dir`, by name; those that cannot be read are left out."""
    return [found for found in read_stores(data_dir) if isinstance(found, Manifest)]


def read_stores(data_dir: str | Path) -> list[Manifest | DatasetError]:
    """Return the manifest of each store in `data_dir`, or what is wrong with it: one bad neighbour hides no other."""
    found: list[Manifest | DatasetError] = []
    for folder in store_folders(data_dir):
        try:
            found.append(Manifest.read(folder))
        except DatasetError as error:
            found.append(error)
    return found


def store_folders(data_dir: str | Path) -> list[Path]:
    """Return the folders of `data_dir` that hold a manifest, sorted; half-written ones start with a dot."""
    root = user_path(data_dir)
    if not root.is_dir():
        return []
    restore_folders(root)
    return sorted(p for p in root.iterdir() if not p.name.startswith(".") and (p / MANIFEST).is_file())


def store_path(name: str, data_dir: str | Path) -> Path:
    """Return the folder of a dataset's store, after bringing back what a killed import had set aside."""
    return restore_folder(user_path(data_dir) / store_name(name))


def store_name(name: str) -> str:
    """Return what a dataset's folder is called: its name, with `__` for the slashes of names like minari:D4RL/x-v1.

    UserError for a name that no folder can have.
    """
    folder = name.replace("/", "__")
    if len(os.fsencode(folder)) > LONGEST_NAME:
        raise UserError(f"{name[:60]}...: over {LONGEST_NAME} bytes, too long for the name of a dataset's folder")
    return folder


def find_store(env_name: str, data_dir: str | Path) -> EpisodeStore:
    """Open the store of `env_name`; DatasetError when there is none (`sources.getting` says how to get it)."""
    root = user_path(data_dir)
    path = store_path(env_name, root)
    if (path / MANIFEST).is_file():
        return EpisodeStore.open(path)
    raise DatasetError(
        f"no dataset {env_name!r} in {root}{did_you_mean(env_name, (p.name for p in store_folders(root)))}"
    )
