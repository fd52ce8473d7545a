"""This process's client of an MLflow store, and its errors. With its neighbours here and
understudy.models the only place that imports mlflow, and only inside functions.

Importing mlflow takes seconds, so nothing here may be needed to parse a command line.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Generator
from contextlib import contextmanager
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from understudy.errors import StoreAway, StoreFull, TrackingError, UnderstudyError
from understudy.files import has_room
from understudy.secrecy import without_secrets
from understudy.tracking.addresses import artifact_root, sqlite_path
from understudy.tracking.outages import is_away

if TYPE_CHECKING:
    from mlflow import MlflowClient

_DEFAULTS = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_ENABLE_ASYNC_LOGGING": "false",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    # Ours to retry, in the background: MLflow's own 7 retries of 120 s would hold a run for minutes.
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "20",
}
IMPATIENT = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0", "MLFLOW_HTTP_REQUEST_TIMEOUT": "5"}
"""Has mlflow's http client try once, for a few seconds."""
STORE_BYTES = 1 << 20
"""What a new SQLite store needs; with less room there is none for what is sent to one either."""
_QUIET = {
    "mlflow": logging.WARNING,
    "mlflow.store.db.utils": logging.CRITICAL,
    "alembic": logging.WARNING,
    "urllib3.connectionpool": logging.ERROR,
}


@lru_cache(maxsize=8)
def client(tracking_uri: str) -> MlflowClient:
    """Return this process's client for a store, which is also its model registry; imports mlflow on first use."""
    for name, value in _DEFAULTS.items():
        os.environ.setdefault(name, value)
    from mlflow import MlflowClient

    for name, level in _QUIET.items():
        logging.getLogger(name).setLevel(level)
    # A new store writes the place of its Default experiment's artifacts as raw SQL: an address has no quotes in it,
    # the current folder (which it would be) may have.
    root = artifact_root(tracking_uri)
    with environment(**({"_MLFLOW_SERVER_ARTIFACT_ROOT": root} if root else {})):
        return MlflowClient(tracking_uri=tracking_uri, registry_uri=tracking_uri)


def untyped(store: object) -> Any:
    """Return an object of mlflow's whose methods have types in part only, or none."""
    return store


@contextmanager
def tracking_errors(tracking_uri: str) -> Generator[None]:
    """Turn what mlflow raises into one TrackingError line with no password in it; StoreAway where the store is away."""
    try:
        yield
    except UnderstudyError:
        raise
    except Exception as error:  # MlflowException, requests', sqlalchemy's: mlflow lets all of them through
        lines = (line for line in str(error).splitlines() if line.strip())
        reason = next((line for line in lines if not line.startswith("(raised as a result of")), "")
        if reason.endswith(":"):  # what it announces is on the next line
            reason = f"{reason} {next(lines, '').strip()}"
        if not _is_mlflows(error):
            reason = f"{type(error).__name__}: {reason}".removesuffix(": ")
        kind = _kind_of(error, tracking_uri)
        raise kind(f"MLflow at {without_secrets(tracking_uri)}: {without_secrets(reason[:300])}") from error


def _kind_of(error: Exception, tracking_uri: str) -> type[TrackingError]:
    """Return what an error is: a store that is away, one whose disk is full, or a fault that nothing else mends."""
    if is_away(error, served=tracking_uri.startswith("http")):
        return StoreAway
    path = sqlite_path(tracking_uri)
    return StoreFull if path is not None and not has_room(path.parent, STORE_BYTES) else TrackingError


def _is_mlflows(error: Exception) -> bool:
    """Return whether an error says by itself what went wrong, as MLflow's and databases' do and KeyError does not."""
    return type(error).__module__.split(".")[0] in ("mlflow", "sqlalchemy", "requests")


@contextmanager
def environment(**changes: str) -> Generator[None]:
    """Set variables of the environment while the block runs."""
    held = {name: os.environ.get(name) for name in changes}
    os.environ |= changes
    try:
        yield
    finally:
        for name, value in held.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
