"""Fetch a job's dataset from an object store beside the shared folder, by fsspec. Runs go back as they train.

Trials write to the shared folder, never to an object store: their files are appended to and renamed. Their copies in
the store are the runs' own business (checkpoint_storage).
"""

from __future__ import annotations

import logging
import secrets
import shutil
from pathlib import Path

from understudy.files import storage_errors
from understudy.runs.storage import open_storage, remote_errors

log = logging.getLogger("understudy")


def fetch_dataset(uri: str, datasets: Path, name: str) -> None:
    """Copy the dataset `name` from <uri>/datasets where the nodes' folder lacks it; whole or not at all."""
    folder = name.replace("/", "__")  # as the episode store files it
    target, place = datasets / folder, f"{uri.rstrip('/')}/datasets/{folder}"
    if target.exists():
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
            if not target.exists():  # another job may have fetched it meanwhile
                partial.rename(target)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    log.info("fetched %s from %s", name, place)
