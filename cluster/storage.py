"""Fetch a job's dataset from an object store beside the shared folder, by fsspec. Runs go back as they train.

Trials write to the shared folder, never to an object store: their files are appended to and renamed. Their copies in
the store are the runs' own business (checkpoint_storage).
"""

from __future__ import annotations

import logging
import secrets
import shutil
from pathlib import Path

from understudy.errors import StorageError
from understudy.files import read_object, storage_errors
from understudy.runs.storage import open_storage, read_stored_json, remote_errors

log = logging.getLogger("understudy")
MANIFEST = "manifest.json"


def fetch_dataset(uri: str, datasets: Path, name: str) -> None:
    """Copy the dataset `name` from <uri>/datasets where the nodes' folder lacks it; whole or not at all."""
    folder = name.replace("/", "__")  # as the episode store files it
    target, place = datasets / folder, f"{uri.rstrip('/')}/datasets/{folder}"
    if target.exists():
        _compare(target, place)
        return
    store, root = open_storage(place)
    partial = datasets / f".{folder}.{secrets.token_hex(4)}"
    try:
        with remote_errors(place):
            if not store.exists(root):
                return
            datasets.mkdir(parents=True, exist_ok=True)
            store.get(root, str(partial), recursive=True)
        with storage_errors(target):
            try:
                partial.rename(target)
            except OSError:
                if not target.exists():  # else another job has fetched it meanwhile
                    raise
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    log.info("fetched %s from %s", name, place)


def _compare(folder: Path, place: str) -> None:
    """Log a warning where the nodes' folder and the object store have different datasets of that name."""
    held = read_object(folder / MANIFEST) if (folder / MANIFEST).is_file() else {}
    try:
        offered = read_stored_json(place, MANIFEST) or {}
    except StorageError as error:
        log.warning("%s; the dataset in %s is used", error, folder)
        return
    here, there = held.get("content_hash", ""), offered.get("content_hash", "")
    if here and there and here != there:
        log.warning(
            "%s (hash %s) is not the dataset in %s (hash %s): the folder's is used; remove it to fetch the other",
            *(folder, here[:12], place, there[:12]),
        )
