"""Bring what a store holds of a run: its files, some of them, and its metrics. It waits seconds, never minutes."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from understudy.tracking.addresses import absolute_address, check_reachable, reachable_artifacts
from understudy.tracking.client import IMPATIENT, client, tracking_errors, untyped

DEEPEST = 3
"""Folders within folders of a run's files that are looked into."""


def be_impatient() -> None:
    """Have this process's requests to MLflow be tried once, for a few seconds: somebody waits for a page."""
    for name, value in IMPATIENT.items():
        os.environ[name] = value


def run_files(tracking_uri: str, run_id: str, wanted: Callable[[str], bool]) -> list[tuple[str, int]]:
    """Return (path, bytes) of a run's files; only folders and files that are `wanted`, by their path, are looked at.

    Raises StoreAway where the store does not answer, TrackingError where it holds no such run.
    """
    tracking_uri = absolute_address(tracking_uri)
    with tracking_errors(tracking_uri):
        from mlflow.artifacts import list_artifacts

        found: list[tuple[str, int]] = []
        root = _artifacts_of(tracking_uri, run_id)
        waiting = [("", 0)]
        while waiting:
            folder, depth = waiting.pop()
            items: Iterable[Any] = list_artifacts(
                artifact_uri=f"{root}/{folder}" if folder else root, tracking_uri=tracking_uri
            )
            for item in items:
                path = f"{folder}/{Path(str(item.path)).name}".lstrip("/")
                if not wanted(path):
                    continue
                if not item.is_dir:
                    found.append((path, int(item.file_size or 0)))
                elif depth < DEEPEST:
                    waiting.append((path, depth + 1))
        return sorted(found)


def bring_file(tracking_uri: str, run_id: str, path: str, into: Path) -> None:
    """Copy one of a run's files to `into`, whole or not at all; raises as `run_files`."""
    tracking_uri = absolute_address(tracking_uri)
    with tracking_errors(tracking_uri):
        from mlflow.artifacts import download_artifacts

        into.parent.mkdir(parents=True, exist_ok=True)
        scratch = into.with_name(f".{into.name}.part")
        scratch.mkdir(exist_ok=True)
        source = f"{_artifacts_of(tracking_uri, run_id)}/{path}"
        held = download_artifacts(artifact_uri=source, dst_path=str(scratch), tracking_uri=tracking_uri)
        os.replace(held, into)
        scratch.rmdir()


def histories(tracking_uri: str, run_id: str, keys: Iterable[str]) -> dict[str, dict[int, float]]:
    """Return every value of some metrics of a run by step; raises as `run_files`."""
    tracking_uri = absolute_address(tracking_uri)
    check_reachable(tracking_uri)
    with tracking_errors(tracking_uri):
        store = untyped(client(tracking_uri))
        return {key: {int(one.step): float(one.value) for one in store.get_metric_history(run_id, key)} for key in keys}


def _artifacts_of(tracking_uri: str, run_id: str) -> str:
    """Return where a run's files lie, checking first, and quickly, that the store answers."""
    check_reachable(tracking_uri)
    run = untyped(client(tracking_uri)).get_run(run_id)
    return reachable_artifacts(tracking_uri, str(run.info.artifact_uri or "")).rstrip("/")
