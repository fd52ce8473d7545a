"""Send what MLflow has not got of a sweep: its parent run, its trials, its best policy."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from understudy import tracking
from understudy.errors import StoreAway
from understudy.runs.directory import RunDir
from understudy.runs.sync import Shipped, check_sent, sync
from understudy.sweeping.best import read_best, register_best
from understudy.sweeping.directory import SweepDir
from understudy.sweeping.run import registered, send_best, track_sweep


def sync_sweep(sweep: SweepDir) -> Iterator[tuple[Path, Shipped]]:
    """Send the trials and then the sweep itself, and yield what was sent of each that had something left.

    Raises UserError when a driver is at work (it ships its own), TrackingError when MLflow does not take it.
    """
    with sweep.held():
        spec, state = sweep.spec(), sweep.state()
        left = [folder for folder in sorted((sweep.path / "trials").glob("*")) if not _whole(folder)]
        status = state.get("status", "running")
        own = not state.get("shipped", status == "finished")
        if spec.base.placement.tracking() == tracking.OFF or not (left or own):
            return
        tracked = track_sweep(spec, sweep.path, state.get("run_id"))
        if tracked.run_id is None:
            raise StoreAway(f"MLflow went away while {sweep.path} was sent: `understudy sync` again sends the rest")
        sweep.update_state(run_id=tracked.run_id)
        for folder in left:
            sent = sync(RunDir(folder), tracked.run_id)
            if sent:
                yield folder, sent
        policy, files = read_best(sweep.path), 0
        if policy is not None:
            files = send_best(sweep.path, policy, tracked)
            policy = register_best(sweep.path, spec, policy, tracked)
        ended: tracking.Status = {"finished": "FINISHED", "failed": "FAILED"}.get(status, "KILLED")  # type: ignore[assignment]
        whole = tracked.close(ended)
        sweep.update_state(shipped=whole and (policy is None or registered(spec, policy)))
        check_sent(sweep.path, tracked, whole)
        yield sweep.path, Shipped(tracked.sent, files, ended)


def _whole(folder: Path) -> bool:
    """Return whether a trial has nothing to send: all is sent, or it was never begun."""
    state = RunDir(folder).state()
    return not RunDir(folder).flags.is_file() or state.get("shipped", state.get("status") in ("finished", "stopped"))
