"""Send MLflow what it lacks of a sweep: its parent run, its trials, its best policy; register that by name."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

from understudy import tracking
from understudy.errors import StoreAway, UserError
from understudy.files import typed
from understudy.runs.directory import RunDir
from understudy.runs.launch import sent_state
from understudy.runs.registering import store_of
from understudy.runs.sync import Shipped, all_sent, check_sent, sync
from understudy.spec.model_names import check_model_name, default_model_name
from understudy.spec.run import RunSpec
from understudy.sweeping.best import BestPolicy, read_best, register_best
from understudy.sweeping.directory import SweepDir
from understudy.sweeping.noting import send_best, track_sweep
from understudy.sweeping.run import registered
from understudy.sweeping.unchanged import check_best


def sync_sweep(sweep: SweepDir) -> Iterator[tuple[Path, Shipped]]:
    """Send the trials and then the sweep itself, and yield what was sent of each that had something left.

    Raises UserError when a driver is at work (it ships its own), NotTracked or TrackingError when MLflow does not
    take it.
    """
    with sweep.held():
        spec, state = sweep.spec(), sweep.state()
        if spec.base.placement.tracking() == tracking.OFF:
            return
        status = state.get("status", "running")
        left = [folder for folder in sorted((sweep.path / "trials").glob("*")) if not _whole(folder, spec.base)]
        if not left and all_sent(state, spec.base):
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
            files = send_best(sweep, spec, policy, tracked)
            policy = register_best(sweep.path, spec, policy, tracked)
        ended: tracking.Status = {"finished": "FINISHED", "failed": "FAILED"}.get(status, "KILLED")  # type: ignore[assignment]
        whole = tracked.close(ended)
        sweep.update_state(shipped=whole and (policy is None or registered(spec, policy)))
        check_sent(sweep.path, tracked, whole)
        yield sweep.path, Shipped(tracked.sent, files, ended)


def _whole(folder: Path, base: RunSpec) -> bool:
    """Return whether a trial has nothing to send: all is sent, or it was never begun."""
    return not RunDir(folder).flags.is_file() or all_sent(RunDir(folder).state(), base)


def register_sweep(
    sweep: SweepDir, name: str | None, *, tracking_uri: str, poll: Callable[[], None] | None = None
) -> BestPolicy:
    """Register the best policy of a finished sweep, under the sweep's own name for it unless another is given.

    Raises UserError, before anything is registered, for a sweep that has not finished or is damaged and for a name that
    cannot be.
    """
    spec, state = sweep.spec(), sweep.state()
    name = name or spec.model_name or default_model_name(spec.base.algo, spec.base.env_name)
    check_model_name(name, "--as")
    best = read_best(sweep.path)
    if best is None or state.get("status") != "finished":
        raise UserError(f"{sweep.path} has not finished: `understudy resume {typed(sweep.path)}` goes on with it")
    check_best(sweep.path)
    base = store_of(spec.base, tracking_uri, sweep.path)
    tracking.prepare(base.placement.tracking())
    spec = spec.model_copy(update={"run": {**spec.run, "tracking_uri": base.placement.tracking_uri}})
    with sweep.held():
        tracked = track_sweep(spec, sweep.path, state.get("run_id"))
        if tracked.run_id is None:
            raise StoreAway(f"MLflow went away while {sweep.path} was registered: try again once it is back")
        try:
            send_best(sweep, spec, best, tracked)
            best = register_best(sweep.path, spec, best, tracked, name=name, poll=poll)
        finally:
            whole = tracked.close("FINISHED")
        sweep.update_state(**sent_state(RunDir(sweep.path), tracked, whole))
        check_sent(sweep.path, tracked, whole)
    return best
