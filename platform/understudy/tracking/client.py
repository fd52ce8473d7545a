"""One call each into MLflow. With understudy.models the only place that imports it, and only inside functions.

Importing mlflow takes seconds, so nothing here may be needed to parse a command line.
"""

from __future__ import annotations

import getpass
import json
import logging
import os
import socket
import subprocess
import tempfile
import time
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

from understudy import __version__
from understudy.errors import StoreAway, TrackingError, UnderstudyError
from understudy.tracking.addresses import (
    OFF,
    absolute_address,
    artifact_root,
    check_reachable,
    is_secret,
    reachable_artifacts,
    run_url,
    sqlite_path,
    without_secrets,
)
from understudy.tracking.outages import is_away
from understudy.tracking.shipping import Point
from understudy.tracking.turns import our_turn

if TYPE_CHECKING:
    from mlflow import MlflowClient

Status = Literal["FINISHED", "FAILED", "KILLED"]
log = logging.getLogger("understudy")

MODEL_TRAINING = {"mlflow.experimentKind": "custom_model_development"}
"""Makes MLflow open an experiment with its runs and charts, not with its pages for language models."""
KEY_TAG = "understudy.key"
GIT_SECONDS = 5.0
"""How long git may take to say where a run's code is at."""
LONGEST_PARAM = 500
"""Characters of a parameter's value: what every MLflow server takes."""
_DEFAULTS = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_ENABLE_ASYNC_LOGGING": "false",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    # Ours to retry, in the background: MLflow's own 7 retries of 120 s would hold a run for minutes.
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
    "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "20",
}
IMPATIENT = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0", "MLFLOW_HTTP_REQUEST_TIMEOUT": "5"}
"""Has mlflow's http client try once, for a few seconds."""
_TEXT_FILES = frozenset({".json", ".yaml", ".txt", ".toml"})
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
    with _environment(**({"_MLFLOW_SERVER_ARTIFACT_ROOT": root} if root else {})):
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
        kind = StoreAway if is_away(error, served=tracking_uri.startswith("http")) else TrackingError
        raise kind(f"MLflow at {without_secrets(tracking_uri)}: {without_secrets(reason[:300])}") from error


def _is_mlflows(error: Exception) -> bool:
    """Return whether an error says by itself what went wrong, as MLflow's and databases' do and KeyError does not."""
    return type(error).__module__.split(".")[0] in ("mlflow", "sqlalchemy", "requests")


def prepare(tracking_uri: str) -> None:
    """Create or migrate the store, once, before any worker starts; TrackingError within seconds if it is unfit."""
    if tracking_uri == OFF:
        return
    tracking_uri = absolute_address(tracking_uri)
    check_reachable(tracking_uri)
    path = sqlite_path(tracking_uri)
    if path is None:
        with tracking_errors(tracking_uri), _environment(**IMPATIENT):
            untyped(client(tracking_uri)).search_experiments(max_results=1)
        return
    from understudy.tracking.migrating import migrated

    with migrated(path), tracking_errors(tracking_uri):
        untyped(client(tracking_uri)).search_experiments(max_results=1)


@contextmanager
def _environment(**changes: str) -> Generator[None]:
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


# ---- one call each ----


@dataclass(frozen=True)
class TrackedRun:
    """A run in MLflow."""

    run_id: str
    experiment_id: str
    url: str
    artifact_uri: str
    newest: Mapping[str, int] = field(default_factory=dict[str, int])
    """The last step that it held of each metric when it was opened."""


def start_run(
    tracking_uri: str,
    experiment: str,
    name: str,
    *,
    parent_run_id: str | None = None,
    run_id: str | None = None,
    key: str | None = None,
    params: Mapping[str, Any] | None = None,
    tags: Mapping[str, Any] | None = None,
) -> TrackedRun:
    """Create a run, or go on with `run_id` (or with the run that was created under `key`); it is RUNNING after."""
    tracking_uri = absolute_address(tracking_uri)
    check_reachable(tracking_uri)
    store = client(tracking_uri)
    with tracking_errors(tracking_uri), our_turn(tracking_uri):
        experiment_id = experiment_named(tracking_uri, experiment)
        run = _existing(store, experiment_id, run_id, key)
        links = {"mlflow.parentRunId": parent_run_id, KEY_TAG: key}
        if run is None:
            first = {tag: value for tag, value in links.items() if value} | _source_tags()
            run = store.create_run(experiment_id, run_name=name, tags=first)
        else:
            store.update_run(run.info.run_id, status="RUNNING")
            if parent_run_id:  # the store was away when the run began: its parent had no id yet
                tags = {**(tags or {}), "mlflow.parentRunId": parent_run_id}
        held = run.data.params
        _log_facts(
            store,
            run.info.run_id,
            {k: v for k, v in printable(params or {}).items() if k not in held},
            _tag_texts(tags or {}),
        )
    info = run.info
    url = run_url(tracking_uri, info.experiment_id, info.run_id)
    newest = {metric.key: metric.step for metric in untyped(run.data)._metric_objs}
    return TrackedRun(info.run_id, info.experiment_id, url, info.artifact_uri or "", newest)


def _existing(store: MlflowClient, experiment_id: str, run_id: str | None, key: str | None) -> Any:
    from mlflow.exceptions import MlflowException

    if run_id:
        try:
            run = store.get_run(run_id)
        except MlflowException as error:
            if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                raise
            log.warning("run %s is no longer in MLflow: a new run gets all of its rows", run_id)
            return None
        if run.info.lifecycle_stage == "deleted":
            store.restore_run(run_id)
        return run
    found: list[Any] = store.search_runs([experiment_id], f"tags.`{KEY_TAG}` = '{key}'", max_results=1) if key else []
    return found[0] if found else None


def experiment_named(tracking_uri: str, name: str) -> str:
    """Return the id of an experiment, creating it when missing, whoever else is creating it at the moment."""
    from mlflow.exceptions import MlflowException

    store = client(tracking_uri)
    held = store.get_experiment_by_name(name)
    if held is None:
        try:
            return store.create_experiment(name, artifact_root(tracking_uri), tags=MODEL_TRAINING)
        except MlflowException as error:
            held = store.get_experiment_by_name(name)
            if held is None or error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
    if held.lifecycle_stage == "deleted":
        raise TrackingError(
            f"experiment {name!r} was deleted in MLflow: choose another project=, or restore it with"
            f" `mlflow experiments restore -x {held.experiment_id}`"
        )
    return held.experiment_id


def _log_facts(store: MlflowClient, run_id: str, params: Mapping[str, str], tags: Mapping[str, str]) -> None:
    from mlflow.entities import Param, RunTag

    items = [Param(key, value) for key, value in params.items()]
    for start in range(0, max(1, len(items)), 100):
        chosen = [RunTag(key, value) for key, value in tags.items()] if start == 0 else []
        store.log_batch(run_id, params=items[start : start + 100], tags=chosen)


def _source_tags() -> dict[str, str]:
    return {
        "mlflow.user": _user(),
        "mlflow.source.name": "understudy",
        "understudy.host": socket.gethostname(),
        "understudy.version": __version__,
        **_git_tags(os.getcwd()),
    }


@lru_cache(maxsize=8)
def _git_tags(folder: str) -> dict[str, str]:
    """Return the commit that the working folder is at, and whether files differ from it; nothing without git."""

    def git(*words: str) -> str:
        done = subprocess.run(["git", "-C", folder, *words], capture_output=True, text=True, timeout=GIT_SECONDS)
        return done.stdout.strip() if done.returncode == 0 else ""

    try:
        commit = git("rev-parse", "HEAD")
        if not commit:
            return {}
        dirty = str(bool(git("status", "--porcelain", "--untracked-files=no"))).lower()
    except (OSError, subprocess.TimeoutExpired):
        return {}
    return {"mlflow.source.git.commit": commit, "git_commit": commit, "git_dirty": dirty}


def _user() -> str:
    """Return the user's name, its number where it has none (containers run as any number)."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # the first before Python 3.13
        return str(os.getuid())


def printable(params: Mapping[str, Any]) -> dict[str, str]:
    """Return params as MLflow takes them: nested keys joined by dots, secrets hidden, long values cut."""
    flat: dict[str, str] = {}
    for key, value in params.items():
        if isinstance(value, Mapping):
            nested = printable(cast("Mapping[str, Any]", value))
            flat |= {f"{key}.{inner}": text for inner, text in nested.items()}
            continue
        text = "***" if is_secret(key) and value else without_secrets(_typed(value))
        if len(text) > LONGEST_PARAM:
            text = f"{text[: LONGEST_PARAM - 40]}... ({len(text)} characters)"
        flat[key[:250]] = text
    return flat


def _typed(value: Any) -> str:
    """Return a parameter as JSON has it (`true`, `null`, `[0, 1]`), so that its type can be read back; texts stay."""
    if isinstance(value, bool | int | float | list | tuple | None):
        return json.dumps(value, default=str)
    return str(value)


def _tag_texts(tags: Mapping[str, Any]) -> dict[str, str]:
    return {key[:250]: without_secrets(str(value))[:5000] for key, value in tags.items()}


def log_points(tracking_uri: str, run_id: str, points: Sequence[Point]) -> None:
    """Send at most 1000 metric values in one request."""
    with tracking_errors(tracking_uri), our_turn(tracking_uri):
        _send_batch(client(tracking_uri), run_id, points)


def _send_batch(store: MlflowClient, run_id: str, points: Sequence[Point]) -> None:
    from mlflow.entities import Metric

    store.log_batch(run_id, [Metric(p.key, p.value, p.time_ms, p.step) for p in points])


def set_tags(tracking_uri: str, run_id: str, tags: Mapping[str, Any]) -> None:
    """Set tags of a run."""
    with tracking_errors(tracking_uri), our_turn(tracking_uri):
        _log_facts(client(tracking_uri), run_id, {}, _tag_texts(tags))


def log_dataset(tracking_uri: str, run_id: str, name: str, content_hash: str, source: str) -> None:
    """Make a dataset, known by its name and the hash of its content, an input of a run."""
    from mlflow.entities import Dataset, DatasetInput, InputTag

    dataset = Dataset(
        name=name[:500], digest=content_hash[:36], source_type="local", source=json.dumps({"uri": source})
    )
    tags = [InputTag("mlflow.data.context", "training")]
    with tracking_errors(tracking_uri), our_turn(tracking_uri):
        client(tracking_uri).log_inputs(run_id, datasets=[DatasetInput(dataset, tags)])


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


def finish(tracking_uri: str, run_id: str, status: Status = "FINISHED") -> None:
    """End a run."""
    with tracking_errors(tracking_uri), our_turn(tracking_uri):
        client(tracking_uri).set_terminated(run_id, status, int(time.time() * 1000))
