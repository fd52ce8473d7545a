"""Send what MLflow has not got of a run that is not being trained."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from understudy import tracking
from understudy.errors import NotTracked, StoreAway
from understudy.runs.directory import TRACKING_ERROR, RunDir
from understudy.runs.ended import check_ended
from understudy.runs.noting import note_finished
from understudy.spec.run import RunSpec

_ENDS: dict[str, tracking.Status] = {"finished": "FINISHED", "failed": "FAILED"}
"""MLflow's status for each final status in run.json; a run with any other was killed."""


@dataclass(frozen=True)
class Shipped:
    """What a sync sent: metric values, files, and the status that the MLflow run has now."""

    values: int
    files: int
    status: str


def sync(run: RunDir, parent_run_id: str | None = None) -> Shipped | None:
    """Send what MLflow has not got of a run that is not being trained; None when it has all of it.

    Raises UserError when a process holds the run (it ships its own), NotTracked or TrackingError when MLflow does not
    take it.
    """
    with run.locked():
        state, spec = run.state(), run.spec()
        status = state.get("status", "running")
        if spec.placement.tracking() == tracking.OFF or all_sent(state, spec):
            return None
        check_ended(run)
        tracked = tracking.track_run(
            spec, run.path, name=state.get("name"), run_id=state.get("run_id"), parent_run_id=parent_run_id
        )
        if state.get("error"):
            tracked.set_tags({"error": state["error"]})
        files = tracked.log_folder(run.path) if status in ("finished", "stopped") else 0
        if status == "finished":
            note_finished(run, tracked)
        ended: tracking.Status = _ENDS.get(status, "KILLED")
        sent = tracked.close(ended, state="pruned" if status == "stopped" else "")
        run.update_state(shipped=sent, run_id=tracked.run_id or state.get("run_id"), **{TRACKING_ERROR: tracked.fault})
        check_sent(run.path, tracked, sent)
        return Shipped(tracked.sent, files, ended)


def all_sent(state: Mapping[str, Any], spec: RunSpec) -> bool:
    """Return whether a run or a sweep has nothing left to send, and its store still has what was sent."""
    sent = state.get("shipped", state.get("status", "running") in ("finished", "stopped"))
    return bool(sent) and tracking.holds(spec.placement.tracking(), state.get("run_id"))


def check_sent(folder: Path, tracked: tracking.Tracked, sent: bool) -> None:
    """Raise StoreAway or NotTracked unless all of a folder was sent."""
    if tracked.fault:
        raise NotTracked(f"not all of {folder} was sent: {tracked.fault}")
    if not sent:
        raise StoreAway(f"MLflow went away while {folder} was sent: `understudy sync` again sends the rest")
