"""One call each that writes to a run in MLflow: begin it, send metrics, tags and a dataset, end it."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from understudy.errors import TrackingError
from understudy.tracking.addresses import absolute_address, artifact_root, check_reachable, run_url
from understudy.tracking.client import client, tracking_errors, untyped
from understudy.tracking.facts import printable, source_tags, tag_texts
from understudy.tracking.shipping import Point
from understudy.tracking.turns import our_turn

if TYPE_CHECKING:
    from mlflow import MlflowClient

Status = Literal["FINISHED", "FAILED", "KILLED"]
log = logging.getLogger("understudy")

MODEL_TRAINING = {"mlflow.experimentKind": "custom_model_development"}
"""Makes MLflow open an experiment with its runs and charts, not with its pages for language models."""
KEY_TAG = "understudy.key"
STATE_TAG = "state"
"""How a run stands, where MLflow's own statuses do not say it: a pruned and an interrupted run are both KILLED."""
STATES: dict[Status, str] = {"FINISHED": "finished", "FAILED": "failed", "KILLED": "interrupted"}
NOTE_TAG = "mlflow.note.content"
"""A run's description: Markdown."""


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
        tags = {**(tags or {}), STATE_TAG: "running"}
        if run is None:
            first = {tag: value for tag, value in links.items() if value} | source_tags()
            run = store.create_run(experiment_id, run_name=name, tags=first)
        else:
            store.update_run(run.info.run_id, status="RUNNING")
            if parent_run_id:  # the store was away when the run began: its parent had no id yet
                tags["mlflow.parentRunId"] = parent_run_id
        held = run.data.params
        _log_facts(
            store,
            run.info.run_id,
            {k: v for k, v in printable(params or {}).items() if k not in held},
            tag_texts(tags),
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


def holds(tracking_uri: str, run_id: str | None) -> bool:
    """Return whether the store has a run of that id, deleted by its user or not; StoreAway where it does not answer."""
    from mlflow.exceptions import MlflowException

    tracking_uri = absolute_address(tracking_uri)
    check_reachable(tracking_uri)
    with tracking_errors(tracking_uri):
        try:
            client(tracking_uri).get_run(run_id or "none")
        except MlflowException as error:
            if error.error_code in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
                return False
            raise
    return True


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
        _log_facts(client(tracking_uri), run_id, {}, tag_texts(tags))


def log_dataset(tracking_uri: str, run_id: str, name: str, content_hash: str, source: str) -> None:
    """Make a dataset, known by its name and the hash of its content, an input of a run."""
    from mlflow.entities import Dataset, DatasetInput, InputTag

    dataset = Dataset(
        name=name[:500], digest=content_hash[:36], source_type="local", source=json.dumps({"uri": source})
    )
    tags = [InputTag("mlflow.data.context", "training")]
    with tracking_errors(tracking_uri), our_turn(tracking_uri):
        client(tracking_uri).log_inputs(run_id, datasets=[DatasetInput(dataset, tags)])


def finish(tracking_uri: str, run_id: str, status: Status = "FINISHED", state: str = "") -> None:
    """End a run; `state` is what its tag says, where that is more than the status does ("pruned")."""
    with tracking_errors(tracking_uri), our_turn(tracking_uri):
        client(tracking_uri).set_tag(run_id, STATE_TAG, state or STATES[status])
        client(tracking_uri).set_terminated(run_id, status, int(time.time() * 1000))
