"""Send what a run's csv files hold to a tracking store: later, in batches, once. Must not import mlflow.

A store that is away (outages.py) is tried again until it is back. Any other error stays: it is said once, and tried
again only when somebody waits for the end.

The files are the truth. A daemon thread reads new whole rows, and a cursor file says how far it got, so a run that is
killed, resumed, or trained while the store was away ends with the same points in the store as one that was not.

Why a point is never there twice: before a batch is sent, the cursor file holds its extent and its timestamps. If
the process dies between the sending and the next cursor, the same batch goes out again with the same (key, time,
step, value), which MLflow's SQL stores keep once.
"""

from __future__ import annotations

import json
import logging
import os
import re
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from understudy.errors import UnderstudyError
from understudy.files import parse_json
from understudy.tracking.outages import is_away
from understudy.tracking.shown import is_shown
from understudy.tracking.tailing import TIMING_FILE, CsvTail, Extent, Row, StepTimes

log = logging.getLogger(__name__)

CURSOR_FILE = ".shipped.json"
BATCH_METRICS = 1000
"""MLflow's limit for one log_batch."""
LONGEST_WAIT = 60.0
_NOT_IN_A_KEY = re.compile(r"[^\w\-. :/]", re.ASCII)


class Point(NamedTuple):
    """One metric value; `time_ms` is unix time in milliseconds."""

    key: str
    value: float
    time_ms: int
    step: int


Send = Callable[[Sequence[Point]], None]


class Cursor:
    """How far each file was sent, and the batch under way; one small JSON file, replaced atomically."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.data: dict[str, Any] = {"format_version": 1, "files": {}, "pending": {}}
        try:
            self.data |= _checked(parse_json(path.read_bytes()))
        except FileNotFoundError:
            return
        except (OSError, ValueError) as error:
            log.warning("%s cannot be read (%s): every row is sent again", path, error)

    @property
    def files(self) -> dict[str, Extent]:
        """What was sent of each file."""
        return self.data["files"]

    @property
    def pending(self) -> dict[str, Any]:
        """The batch under way: for each file {extent, times}, one time in milliseconds per row."""
        return self.data["pending"]

    def save(self) -> None:
        """Write to a temporary file beside the place and rename it."""
        beside = self.path.with_name(f"{self.path.name}.{os.getpid()}.tmp")
        beside.write_text(json.dumps(self.data, separators=(",", ":")))
        beside.replace(self.path)

    def belongs_to(self, run_id: str) -> None:
        """Start from the first row if the rows so far went to another run."""
        if self.data.get("run_id") not in (None, run_id):
            self.data |= {"files": {}, "pending": {}}
        if self.data.get("run_id") != run_id:
            self.data["run_id"] = run_id
            self.save()


def _checked(held: Any) -> dict[str, Any]:
    """Return what a cursor's file holds; ValueError where that is not what `save` writes."""

    def is_extent(value: Any) -> bool:
        counts = (value["offset"], value["rows"])
        return all(type(one) is int and one >= 0 for one in counts) and isinstance(value["header"], str)

    try:
        extents = [*held.get("files", {}).values(), *(one["extent"] for one in held.get("pending", {}).values())]
        times = [one["times"] for one in held.get("pending", {}).values()]
        right = all(map(is_extent, extents)) and all(isinstance(one, list) for one in times)
    except (AttributeError, KeyError, TypeError):
        right = False
    if not right:
        raise ValueError("it was changed")
    return held


class Shipper:
    """A thread that sends the rows of csv files (path, metric prefix) through `send`, and runs tasks in order.

    `send` gets at most 1000 points and raises when the store is away: the batch is kept and tried again after 1, 2,
    4, ... 60 seconds. What it raises for any other reason is a `fault`: tried again by `flush` and `close`.
    Empty, NaN, infinite and non-numeric cells are not sent.
    """

    def __init__(
        self,
        sources: Sequence[tuple[Path, str]],
        send: Send,
        cursor: Cursor | Path,
        *,
        interval: float = 3.0,
        store: str = "the tracking store",
        paused: bool = False,
    ) -> None:
        self.cursor = cursor if isinstance(cursor, Cursor) else Cursor(cursor)
        self.interval = interval
        self._send = send
        self._store = store
        root = self.cursor.path.parent
        self._tails = {os.path.relpath(path, root): CsvTail(path, prefix) for path, prefix in sources}
        self._clocks: dict[Path, StepTimes] = {}
        self._tasks: deque[Callable[[], None]] = deque()
        self._wake = threading.Event()
        self._stopping = False
        self._state = threading.Condition()
        self._started = self._clean = self._failed = 0
        self._away = False
        self.fault: str | None = None
        """Why the store cannot take what it is given, where waiting does not mend that."""
        self._thread = threading.Thread(target=self._loop, name="understudy-shipper", daemon=True)
        if not paused:
            self.start()

    @property
    def away(self) -> bool:
        """Whether the last attempt failed."""
        return self._away

    def start(self) -> None:
        """Start the thread of a shipper that was made paused."""
        self._thread.start()

    def submit(self, task: Callable[[], None]) -> None:
        """Queue a call for the thread; it is repeated until it does not raise, then the next one runs."""
        self._tasks.append(task)
        self._wake.set()

    def flush(self, timeout: float = 30.0) -> bool:
        """Wait until everything that was there when called is sent; False when time ran out or at a fault."""
        deadline = time.monotonic() + timeout
        with self._state:
            target = self._started + 1
            while self._clean < target and self._failed < target and self._thread.is_alive():
                left = deadline - time.monotonic()
                if left <= 0:
                    return False
                self._wake.set()
                self._state.wait(min(left, 0.5))
            return self._clean >= target

    def close(self, timeout: float = 30.0) -> bool:
        """Flush, then end the thread; return whether everything was sent."""
        done = not self._thread.is_alive() or self.flush(timeout)
        self._stopping = True
        self._wake.set()
        self._thread.join(1.0)
        return done

    def _loop(self) -> None:
        wait: float | None = 0.0
        while not self._stopping:
            self._wake.wait(wait)
            self._wake.clear()
            with self._state:
                self._started += 1
                number = self._started
            try:
                self._work()
            except Exception as error:  # noqa: BLE001 - whatever the client raises, training goes on; it is said below
                if is_away(error):
                    wait = min(max(1.0, 2 * wait), LONGEST_WAIT) if self._away and wait else 1.0
                    self.note_away(error)
                else:
                    wait = None
                    self._note_fault(error, number)
                continue
            wait = self.interval
            self._say_back()
            with self._state:
                self._clean = number
                self._state.notify_all()

    def _work(self) -> None:
        """Run the tasks, then send batch after batch until no file has a new row."""
        while self._tasks:
            self._tasks[0]()
            self._tasks.popleft()
        while points := self._batch_under_way() or self._new_batch():
            for start in range(0, len(points), BATCH_METRICS):
                self._send(points[start : start + BATCH_METRICS])
            for name, part in self.cursor.pending.items():
                self.cursor.files[name] = part["extent"]
            self.cursor.pending.clear()
            self.cursor.save()

    def _batch_under_way(self) -> list[Point]:
        """Return the points of a batch that may or may not have arrived, with the timestamps it had."""
        points: list[Point] = []
        for name, part in self.cursor.pending.items():
            if tail := self._tails.get(name):
                rows = tail.rows(self.cursor.files.get(name), until=part["extent"]["rows"])
                for row, time_ms in zip(rows, part["times"], strict=False):
                    points += points_of(row, tail.prefix, time_ms)
        return points

    def _new_batch(self) -> list[Point]:
        """Return up to about a thousand points of new rows, after writing their extent and times to the cursor file."""
        self.cursor.pending.clear()
        points: list[Point] = []
        for name, tail in self._tails.items():
            clock = self._clock(tail.path)
            times: list[int] = []
            for row in tail.rows(self.cursor.files.get(name)):
                new = points_of(row, tail.prefix, clock.at(row.step))
                if points and len(points) + len(new) > BATCH_METRICS:
                    self.cursor.save()
                    return points
                times.append(new[0].time_ms if new else 0)
                points += new
                self.cursor.pending[name] = {"extent": row.extent, "times": times}
        if points:
            self.cursor.save()
        return points

    def _clock(self, path: Path) -> StepTimes:
        """Return the times of the csv file's own folder, else those of the run's folder (the files of its seeds)."""
        own = path.with_name(TIMING_FILE)
        place = own if own.exists() else self.cursor.path.with_name(TIMING_FILE)
        return self._clocks.setdefault(place, StepTimes(place))

    def note_away(self, error: Exception) -> None:
        """Say, once until it is back, that the store is away."""
        if not self._away:
            self._away = True
            reason = (str(error).splitlines() or [type(error).__name__])[0][:200]
            log.warning("%s is away (%s): the run goes on, what is missing is sent later", self._store, reason)

    def _note_fault(self, error: Exception, number: int) -> None:
        """Keep why the store cannot take what it is given, log it once, and wake what waits."""
        text = str(error).splitlines()[0] if str(error) else ""
        reason = text if isinstance(error, UnderstudyError) else f"{type(error).__name__}: {text}".removesuffix(": ")
        if self.fault is None:
            log.warning("not tracked: %s: the run goes on, its files have everything", reason)
        with self._state:
            self._away, self.fault, self._failed = False, reason, number
            self._state.notify_all()

    def _say_back(self) -> None:
        if self._away or self.fault:
            self._away, self.fault = False, None
            log.info("%s is back: everything was sent", self._store)


def points_of(row: Row, prefix: str, time_ms: int) -> list[Point]:
    """Return the row's numbers that are shown as points; the column `time` is the points' time, not a metric."""
    return [
        Point(_NOT_IN_A_KEY.sub("_", prefix + column)[:250], value, time_ms, row.step)
        for column, value in row.values.items()
        if column != "time" and is_shown(prefix + column)
    ]
