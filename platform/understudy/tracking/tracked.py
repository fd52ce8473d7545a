"""What a run, or a sweep, holds while it is tracked: its MLflow run and the thread that ships its files."""

from __future__ import annotations

import logging
import threading
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from understudy.errors import StoreAway
from understudy.secrecy import without_secrets
from understudy.tracking import checkpoints, recording
from understudy.tracking.addresses import OFF, absolute_address
from understudy.tracking.artifacts import log_artifacts
from understudy.tracking.recording import Status, TrackedRun
from understudy.tracking.shipping import BATCH_METRICS, CURSOR_FILE, Cursor, Point, Shipper
from understudy.tracking.tailing import TIMING_FILE

if TYPE_CHECKING:
    from understudy.spec.run import RunSpec

log = logging.getLogger("understudy")

NOT_UPLOADED = frozenset({"resume"})
"""Folders of a run directory that stay local, besides hidden files: rolling checkpoints are of no use elsewhere."""
AWAY_SECONDS = 10.0
"""How long the end of a run waits for a store that is away."""

Start = Callable[[str, str | None], TrackedRun]
"""Start or go on with an MLflow run, given (key, run id)."""


class Tracked:
    """A tracked folder. With tracking off every method does nothing, at once.

    `uri` is the store's address as given: it may hold a password, so it is not for showing.

    The MLflow run is opened by the first of `open` and the thread that succeeds; its id is kept in the folder, so that
    the next process goes on with the same one. Until then `run_id` and `url` are None.
    """

    def __init__(self, uri: str, folder: Path, sources: Sequence[tuple[Path, str]], start: Start | None) -> None:
        self.uri = uri
        self.folder = folder
        self._start = start
        self._opening = threading.Lock()
        self._run: TrackedRun | None = None
        self.sent = 0
        """Metric values sent by this process."""
        self._held: Mapping[str, int] = {}
        self._fault: str | None = None
        self._shipper: Shipper | None = None
        if start is not None:
            self._cursor = Cursor(folder / CURSOR_FILE)
            shown = f"MLflow at {without_secrets(uri)}"
            self._shipper = Shipper(sources, self._send, self._cursor, store=shown, paused=True)
            self._shipper.submit(self.open)

    @property
    def run_id(self) -> str | None:
        """The MLflow run's id."""
        return self._run.run_id if self._run else None

    @property
    def url(self) -> str | None:
        """The MLflow run's page."""
        return self._run.url if self._run else None

    def open(self) -> None:
        """Open the MLflow run, once; raises StoreAway when the store is away, TrackingError when it is unfit."""
        with self._opening:
            if self._run is not None or self._start is None:
                return
            data = self._cursor.data
            # Written first: if we die after the run was created, the next process finds it by this key.
            if "key" not in data:
                data["key"] = uuid.uuid4().hex
                self._cursor.save()
            run = self._start(data["key"], data.get("run_id"))
            self._cursor.belongs_to(run.run_id)
            if not self._cursor.files and not self._cursor.pending:
                # Another machine sent what it could; its notes are gone, and the times of new rows are not its.
                self._held = run.newest
            self._run = run

    def log_files(self, *paths: Path) -> int:
        """Upload files or folders as they are when their turn comes; returns how many files that are."""
        self.later(lambda uri, run_id: log_artifacts(uri, run_id, *paths))
        return sum(1 if path.is_file() else sum(item.is_file() for item in path.rglob("*")) for path in paths)

    @property
    def answers(self) -> bool:
        """Whether the store took what it was last given."""
        return self._shipper is None or not (self._shipper.away or self._shipper.fault)

    @property
    def fault(self) -> str | None:
        """Why the store has not got all of it, where that is not for being away: waiting does not mend it."""
        return self._shipper.fault if self._shipper else self._fault

    def log_folder(self, path: Path | None = None) -> int:
        """Upload what is in a run directory (the tracked folder), without hidden files and rolling checkpoints.

        Returns how many files that are.
        """
        root = path or self.folder
        children = [child for child in sorted(root.iterdir()) if child.name not in NOT_UPLOADED]
        return self.log_files(*(child for child in children if not child.name.startswith(".")))

    def set_tags(self, tags: Mapping[str, Any]) -> None:
        """Set tags of the MLflow run."""
        self.later(lambda uri, run_id: recording.set_tags(uri, run_id, tags))

    def log_dataset(self, name: str, content_hash: str, source: str) -> None:
        """Note the dataset that the run was trained on as its input, and its hash as a tag to filter by."""
        if content_hash:
            self.set_tags({"dataset_hash": content_hash})
            self.later(lambda uri, run_id: recording.log_dataset(uri, run_id, name, content_hash, source))

    def log_checkpoints(self, seeds: Sequence[int], last_step: int, facts: Mapping[str, Any], *, final: bool) -> None:
        """Make a logged model of each checkpoint that the folder keeps, linked to its step and its evaluation.

        `final`: of the last step's too.
        """
        known = (self.folder, seeds, last_step, facts, final)
        self.later(lambda uri, run_id: checkpoints.log_checkpoints(uri, run_id, *known))

    def log_points(self, points: Sequence[Point]) -> None:
        """Send values that are in no csv file: with the times that they had before where they are sent again."""
        for start in range(0, len(points), BATCH_METRICS):
            some = points[start : start + BATCH_METRICS]
            self.later(lambda uri, run_id, some=some: recording.log_points(uri, run_id, some))

    def later(self, call: Callable[[str, str], Any]) -> None:
        """Have `call` given the store's address and the run's id when its turn comes, until it does not raise."""
        if self._shipper is not None:
            self._shipper.submit(lambda: call(self.uri, self._id()))

    def flush(self, timeout: float = 30.0) -> bool:
        """Wait until all there is now has been sent; False when it could not be in `timeout` seconds."""
        return self._shipper is None or self._shipper.flush(timeout)

    def close(self, status: Status = "FINISHED", timeout: float = 300.0, state: str = "") -> bool:
        """Send the rest and end the MLflow run; False when the store is away, and then the files still have it all.

        A slow store is waited for up to `timeout` seconds, one that is away for ten. Tracking the folder again later
        (as resume does) sends what is missing.
        """
        shipper, self._shipper = self._shipper, None
        if shipper is None:
            return True
        ends = time.monotonic() + timeout
        sent = _drained(shipper, ends)
        if sent:
            shipper.submit(lambda: recording.finish(self.uri, self._id(), status, state))
            sent = _drained(shipper, max(ends, time.monotonic() + AWAY_SECONDS))
        shipper.close(0.0)
        self._fault = None if sent else shipper.fault
        if not sent and not shipper.fault:
            log.warning("not all of %s reached MLflow: `understudy sync` sends it once that is back", self.folder)
        return sent

    def _id(self) -> str:
        self.open()
        assert self._run is not None
        return self._run.run_id

    def _send(self, points: Sequence[Point]) -> None:
        run_id = self._id()
        new = [point for point in points if point.step > self._held.get(point.key, -1)]
        if new:
            recording.log_points(self.uri, run_id, new)
            self.sent += len(new)

    def begin(self) -> None:
        """Open the MLflow run now, so that its id is known; the thread tries on where the store is away.

        Raises TrackingError for a store that is unfit: nothing is lost by saying so before the work begins.
        """
        if self._shipper is None:
            return
        try:
            self.open()
        except StoreAway as error:
            self._shipper.note_away(error)
        self._shipper.start()


def _drained(shipper: Shipper, ends: float) -> bool:
    """Wait until all is sent; give up at `ends` (monotonic seconds), or AWAY_SECONDS after the store went away."""
    while (left := ends - time.monotonic()) > 0:
        if shipper.flush(min(left, AWAY_SECONDS)):
            return True
        if shipper.away or shipper.fault:
            break
    return False


def track(
    tracking_uri: str,
    folder: Path,
    *,
    experiment: str,
    name: str,
    sources: Sequence[tuple[Path, str]] = (),
    run_id: str | None = None,
    parent_run_id: str | None = None,
    params: Mapping[str, Any] | None = None,
    tags: Mapping[str, Any] | None = None,
) -> Tracked:
    """Track a folder's csv files (path, metric prefix) as one MLflow run, going on with the one it had."""
    if tracking_uri == OFF:
        return Tracked(OFF, folder, (), None)
    uri = absolute_address(tracking_uri)

    def start(key: str, known: str | None) -> TrackedRun:
        return recording.start_run(
            uri,
            experiment,
            name,
            parent_run_id=parent_run_id,
            run_id=run_id or known,
            key=key,
            params=params,
            tags=tags,
        )

    tracked = Tracked(uri, folder, sources, start)
    tracked.begin()
    return tracked


def track_run(
    spec: RunSpec,
    path: Path,
    *,
    name: str | None = None,
    run_id: str | None = None,
    parent_run_id: str | None = None,
) -> Tracked:
    """Track one run directory: its parameters, and the curves of every seed and of their mean."""
    seeds = spec.all_seeds
    return track(
        spec.placement.tracking(),
        path,
        experiment=spec.placement.project,
        name=name or run_name(spec.algo, path),
        sources=metric_sources(path, seeds),
        run_id=run_id,
        parent_run_id=parent_run_id,
        params=spec.flat(),
        tags={
            "algo": spec.algo,
            "env_name": spec.env_name,
            "run_group": spec.placement.run_group,
            "seeds": ",".join(map(str, seeds)),
            "fingerprint": spec.fingerprint(),
            "run_dir": path.absolute(),
            "algorithm": spec.algo,
            "environment": spec.env_name,
            **_trial_tags(path),
        },
    )


def run_name(algo: str, path: Path) -> str:
    """Return a run's name in MLflow: its algorithm and its folder's name, which commands take too."""
    return path.name if path.name.startswith(algo) else f"{algo} {path.name}"


def _trial_tags(path: Path) -> dict[str, Any]:
    """Return which sweep and which of its trials a run directory is of."""
    number = path.name.partition("_")[0]
    if path.absolute().parent.name != "trials":
        return {}
    return {"sweep": path.absolute().parent.parent.name, **({"trial": int(number)} if number.isdecimal() else {})}


def metric_sources(path: Path, seeds: Sequence[int]) -> list[tuple[Path, str]]:
    """Return a run directory's csv files and the prefixes of their metrics, like `sd001/train/`."""
    agents = {"offline_agent": "train", "online_agent": "train"}  # phases of runs that act, one curve
    kinds = {"train": "train", **agents, "env": "env", "eval": "eval", "pbt": "pbt", "eval_grid": "eval"}
    sources = [(path / f"{kind}.csv", f"{prefix}/") for kind, prefix in kinds.items()]
    if len(seeds) > 1:
        for seed in seeds:
            folder = f"sd{seed:03d}"
            own = {kind: prefix for kind, prefix in kinds.items() if kind != "eval_grid"}
            sources += [(path / folder / f"{kind}.csv", f"{folder}/{prefix}/") for kind, prefix in own.items()]
    return [*sources, (path / TIMING_FILE, "timing/")]
