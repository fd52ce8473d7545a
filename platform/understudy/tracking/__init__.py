"""Track runs in MLflow: what a run's files hold is sent in the background; a store that is away stops nothing.

`addresses`, `facts` and `tailing` know no mlflow; `client` reaches a store, `preparing` makes one ready (`fresh` has
the tables of a new one, `upgrading` brings an older one to them), `recording` has one function for each call that
writes to a run, `artifacts` those for its files; `shipping` sends csv rows once, `tracked` is what a run or a sweep
holds, `listing` is what `understudy runs` shows.
"""

from understudy.tracking.addresses import (
    OFF,
    check_port,
    default_tracking_uri,
    run_url,
    ui_command,
)
from understudy.tracking.listing import list_runs, run_details
from understudy.tracking.preparing import prepare
from understudy.tracking.recording import Status, holds, start_run
from understudy.tracking.tracked import Tracked, metric_sources, track, track_run

__all__ = [
    "OFF",
    "Status",
    "Tracked",
    "check_port",
    "default_tracking_uri",
    "holds",
    "list_runs",
    "metric_sources",
    "prepare",
    "run_details",
    "run_url",
    "start_run",
    "track",
    "track_run",
    "ui_command",
]
