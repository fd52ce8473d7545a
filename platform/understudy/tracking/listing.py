"""What `understudy runs list` and `understudy runs show` print: plain dicts read from MLflow."""

from __future__ import annotations

from typing import Any

from understudy.errors import UnknownName, did_you_mean
from understudy.tracking.addresses import absolute_address, check_reachable, run_url, sqlite_path
from understudy.tracking.artifacts import artifact_names
from understudy.tracking.client import client, tracking_errors, untyped
from understudy.tracking.preparing import ready
from understudy.tracking.reading import read_runs

SHORTEST_ID = 6
"""Characters of a run id that are enough to name it."""


def list_runs(tracking_uri: str, experiment: str | None = None, limit: int = 50) -> list[dict[str, Any]]:
    """Return the newest runs of one experiment, or of all, newest first.

    Keys: run_id, name, experiment, status, start (unix seconds), seconds (None while running), parent_run_id, metrics,
    params, tags, url. Raises UnknownName for an experiment that is not there.
    """
    tracking_uri = absolute_address(tracking_uri)
    check_reachable(tracking_uri)
    path = sqlite_path(tracking_uri)
    read = read_runs(path, experiment, limit) if path is not None else None
    if read is not None:
        return [{**row, "url": run_url(tracking_uri, row.pop("experiment_id"), row["run_id"])} for row in read]
    ready(tracking_uri)
    with tracking_errors(tracking_uri):
        names = _experiments(tracking_uri)
        runs: list[Any] = []
        if experiment is not None and experiment not in names.values():
            raise UnknownName(f"unknown experiment {experiment!r}{did_you_mean(experiment, names.values())}")
        chosen = [key for key, name in names.items() if experiment in (None, name)]
        if chosen:
            runs = client(tracking_uri).search_runs(chosen, max_results=limit, order_by=["attributes.start_time DESC"])
        return [_row(tracking_uri, run, names) for run in runs]


def run_details(tracking_uri: str, run: str) -> dict[str, Any]:
    """Return one run, named by its id, the beginning of its id, or its name, with its artifacts and child runs."""
    found = _find(list_runs(tracking_uri, limit=1000), run)
    tracking_uri = absolute_address(tracking_uri)
    with tracking_errors(tracking_uri):
        store = client(tracking_uri)
        entity = store.get_run(found["run_id"])
        children = store.search_runs(
            [entity.info.experiment_id], f"tags.`mlflow.parentRunId` = '{found['run_id']}'", max_results=1000
        )
        names = {entity.info.experiment_id: found["experiment"]}
        return {
            **found,
            "artifact_uri": entity.info.artifact_uri,
            "artifacts": artifact_names(tracking_uri, entity),
            "children": [_row(tracking_uri, child, names) for child in children],
        }


def _find(rows: list[dict[str, Any]], run: str) -> dict[str, Any]:
    matches = [row for row in rows if run in (row["run_id"], row["name"], row["name"].partition(" ")[2])]
    if not matches and len(run) >= SHORTEST_ID:
        matches = [row for row in rows if row["run_id"].startswith(run)]
    if not matches:
        raise UnknownName(f"unknown run {run!r}{did_you_mean(run, [row['name'] for row in rows])}")
    if len(matches) > 1:
        ids = ", ".join(row["run_id"] for row in matches[:5])
        raise UnknownName(f"{len(matches)} runs are called {run!r}: name one by its id: {ids}")
    return matches[0]


def _experiments(tracking_uri: str) -> dict[str, str]:
    """Return the names of all experiments by their ids."""
    names: dict[str, str] = {}
    page: str | None = None
    while True:
        found = untyped(client(tracking_uri)).search_experiments(max_results=1000, page_token=page)
        names |= {item.experiment_id: item.name for item in found}
        page = found.token
        if not page:
            return names


def _row(tracking_uri: str, run: Any, names: dict[str, str]) -> dict[str, Any]:
    info, ended = run.info, run.info.end_time
    return {
        "run_id": info.run_id,
        "name": info.run_name or info.run_id,
        "experiment": names.get(info.experiment_id, info.experiment_id),
        "status": info.status,
        "start": info.start_time / 1000,
        "seconds": (ended - info.start_time) / 1000 if ended else None,
        "parent_run_id": run.data.tags.get("mlflow.parentRunId"),
        "metrics": dict(run.data.metrics),
        "params": dict(run.data.params),
        "tags": {key: value for key, value in run.data.tags.items() if not key.startswith("mlflow.")},
        "url": run_url(tracking_uri, info.experiment_id, info.run_id),
    }
