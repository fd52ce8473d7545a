"""Read the newest runs of a SQLite store of MLflow by its tables: importing mlflow takes longer than anything else.

Only what `understudy runs list` and `understudy ui` show is read, and nothing is written. A store whose tables are not
those of the MLflow that is tested here is left to mlflow itself (None).
"""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any
from urllib.parse import quote

from understudy.errors import UnknownName, did_you_mean

RUNS = """
select r.run_uuid, r.name, r.status, r.start_time, r.end_time, e.name, r.experiment_id
from runs r join experiments e on e.experiment_id = r.experiment_id
where r.lifecycle_stage = 'active' and e.lifecycle_stage = 'active' and (? is null or e.name = ?)
order by r.start_time desc limit ?
"""


def read_runs(path: Path, experiment: str | None, limit: int) -> list[dict[str, Any]] | None:
    """Return the rows of `list_runs` without addresses, and each run's `experiment_id`; None for unknown tables.

    Raises UnknownName for an experiment that is not there.
    """
    try:
        with closing(sqlite3.connect(f"file:{quote(str(path))}?mode=ro", uri=True, timeout=5)) as store:
            names = [str(row[0]) for row in store.execute("select name from experiments")]
            if experiment is not None and experiment not in names:
                raise UnknownName(f"unknown experiment {experiment!r}{did_you_mean(experiment, names)}")
            rows = store.execute(RUNS, (experiment, experiment, limit)).fetchall()
            chosen = [str(row[0]) for row in rows]
            metrics = _of_runs(store, "latest_metrics", chosen)
            params, tags = _of_runs(store, "params", chosen), _of_runs(store, "tags", chosen)
    except sqlite3.Error:
        return None
    return [
        {
            "run_id": run_id,
            "name": name or run_id,
            "experiment": project,
            "experiment_id": str(number),
            "status": status,
            "start": (start or 0) / 1000,
            "seconds": (end - start) / 1000 if end and start else None,
            "parent_run_id": tags[run_id].get("mlflow.parentRunId"),
            "metrics": metrics[run_id],
            "params": params[run_id],
            "tags": {key: value for key, value in tags[run_id].items() if not key.startswith("mlflow.")},
        }
        for run_id, name, status, start, end, project, number in rows
    ]


def _of_runs(store: sqlite3.Connection, table: str, runs: list[str]) -> dict[str, dict[str, Any]]:
    """Return the keys and values that a table has of some runs."""
    found: dict[str, dict[str, Any]] = {run: {} for run in runs}
    for begin in range(0, len(runs), 500):  # SQLite takes so many values at once
        some = runs[begin : begin + 500]
        marks = ",".join("?" * len(some))
        for run, key, value in store.execute(
            f"select run_uuid, key, value from {table} where run_uuid in ({marks})", some
        ):
            found[run][key] = value
    return found
