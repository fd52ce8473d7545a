"""Files of runs in MLflow: upload them, list them, bring them back."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from understudy.secrecy import without_secrets
from understudy.tracking.addresses import reachable_artifacts
from understudy.tracking.client import client, tracking_errors, untyped

_TEXT_FILES = frozenset({".json", ".yaml", ".txt", ".toml"})


def log_artifacts(tracking_uri: str, run_id: str, *paths: Path) -> None:
    """Upload files, and folders with what is in them, to the run's artifacts; addresses lose their passwords."""
    with tracking_errors(tracking_uri), tempfile.TemporaryDirectory() as scratch:
        for root in paths:
            for path in [root] if root.is_file() else sorted(item for item in root.rglob("*") if item.is_file()):
                place = path.relative_to(root.parent).parent.as_posix()
                source = str(_shareable(path, Path(scratch)))
                untyped(client(tracking_uri)).log_artifact(run_id, source, None if place == "." else place)


def _shareable(path: Path, scratch: Path) -> Path:
    """Return the file, or a copy without passwords when it is a text that holds any: the store has other readers."""
    if path.suffix not in _TEXT_FILES:
        return path
    text = path.read_text(encoding="utf-8", errors="surrogateescape")
    if without_secrets(text) == text:
        return path
    copy = scratch / path.name
    copy.write_text(without_secrets(text), encoding="utf-8", errors="surrogateescape")
    return copy


def download(tracking_uri: str, artifact_uri: str, into: Path) -> Path:
    """Copy an artifact folder of this store (never a models:/ or runs:/ address) below `into`; return its path."""
    client(tracking_uri)  # sets how mlflow behaves, before it is used without a client
    from mlflow.artifacts import download_artifacts

    source = reachable_artifacts(tracking_uri, artifact_uri)
    return Path(download_artifacts(artifact_uri=source, dst_path=str(into), tracking_uri=tracking_uri))


def artifact_names(tracking_uri: str, run: Any) -> list[str]:
    """Return the names of a run's artifact files and folders, sorted."""
    client(tracking_uri)
    from mlflow.artifacts import list_artifacts

    source = reachable_artifacts(tracking_uri, run.info.artifact_uri or "")
    return sorted(Path(item.path).name for item in list_artifacts(artifact_uri=source, tracking_uri=tracking_uri))
