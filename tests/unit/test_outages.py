"""A store that is away is waited for; a fault that waiting does not mend is said, and the end is not a silent 0."""

from __future__ import annotations

import errno
import getpass
import os
import sqlite3
import time
from pathlib import Path

import pytest

from understudy.errors import StoreAway, TrackingError, UserError
from understudy.files import home
from understudy.tracking import default_tracking_uri, prepare, track
from understudy.tracking.addresses import check_reachable
from understudy.tracking.client import tracking_errors
from understudy.tracking.outages import is_away
from understudy.tracking.recording import start_run
from understudy.tracking.shipping import CURSOR_FILE, Shipper


class ReadTimeoutError(Exception):
    """As botocore's and urllib3's: no kin of Python's own."""


class OperationalError(Exception):
    """As psycopg2's."""


class ServerError(Exception):
    """As MLflow's own error, made of a server's answer."""

    def __init__(self, status: int) -> None:
        super().__init__("answer")
        self.status = status

    def get_http_status_code(self) -> int:
        return self.status


def wrapped(inner: Exception) -> Exception:
    """Return an error as MLflow raises it: its own around the database's."""
    try:
        try:
            raise inner
        except Exception as error:
            raise ServerError(503) from error
    except ServerError as outer:
        return outer


@pytest.mark.parametrize(
    "error",
    [
        ConnectionRefusedError(),
        TimeoutError(),
        OSError(errno.EHOSTUNREACH, "no route"),
        sqlite3.OperationalError("database is locked"),
        wrapped(sqlite3.OperationalError("database table is locked")),
        wrapped(ReadTimeoutError("read timed out")),
        OperationalError("server closed the connection unexpectedly"),
        ServerError(502),
        ServerError(429),
        StoreAway("away"),
    ],
)
def test_what_waiting_mends_is_away(error: Exception) -> None:
    assert is_away(error, served=True)


@pytest.mark.parametrize(
    "error",
    [
        KeyError("getpwuid(): uid not found: 12345"),
        PermissionError(errno.EACCES, "Permission denied"),
        OSError(errno.ENOSPC, "No space left on device"),
        wrapped(sqlite3.OperationalError("attempt to write a readonly database")),
        wrapped(sqlite3.OperationalError("database or disk is full")),
        sqlite3.DatabaseError("database disk image is malformed"),
        OperationalError('FATAL: password authentication failed for user "ada"'),
        ServerError(403),
        ServerError(400),
        ModuleNotFoundError("No module named 'boto3'"),
        TypeError("unexpected keyword"),
    ],
)
def test_what_waiting_does_not_mend_is_a_fault(error: Exception) -> None:
    assert not is_away(error, served=True)
    assert not is_away(ServerError(500)), "a local store has no server that could be in trouble"
    with pytest.raises(TrackingError) as raised, tracking_errors("http://host"):
        raise error
    assert not isinstance(raised.value, StoreAway)
    assert "\n" not in str(raised.value)


def test_a_fault_is_said_once_and_tried_again_only_when_the_end_is_waited_for(tmp_path: Path, caplog) -> None:
    tries: list[int] = []

    def task() -> None:
        tries.append(1)
        if len(tries) < 3:
            raise PermissionError(errno.EACCES, "Permission denied")

    shipper = Shipper([], lambda points: None, tmp_path / CURSOR_FILE, interval=0.01)
    shipper.submit(task)
    deadline = time.monotonic() + 600
    while shipper.fault is None and time.monotonic() < deadline:
        time.sleep(0.01)
    assert shipper.fault == "PermissionError: [Errno 13] Permission denied"
    assert not shipper.away
    time.sleep(0.1)
    assert len(tries) == 1, "nothing is tried again by itself"
    assert not shipper.flush(60)
    assert shipper.flush(60), "what was mended meanwhile is sent"
    assert shipper.fault is None
    assert shipper.close(60)
    assert sum("not tracked: PermissionError" in record.message for record in caplog.records) == 1


def test_a_store_that_is_unfit_is_refused_before_the_work_and_one_that_is_away_is_not(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    (tmp_path / "mlflow.db").write_text("these are notes\n" * 100)
    with pytest.raises(TrackingError, match="cannot be written"):
        track(default_tracking_uri(tmp_path), folder, experiment="e", name="n")
    tracked = track("http://127.0.0.1:9", folder, experiment="e", name="n")
    assert (tracked.answers, tracked.fault) == (False, None)
    with pytest.raises(StoreAway):
        check_reachable("postgresql://127.0.0.1:9/db")


def test_a_database_that_becomes_unwritable_is_no_store_that_is_away(tmp_path: Path) -> None:
    uri = default_tracking_uri(tmp_path)
    prepare(uri)
    folder = tmp_path / "run"
    folder.mkdir()
    tracked = track(uri, folder, experiment="e", name="n", sources=[(folder / "train.csv", "train/")])
    assert tracked.flush(60)
    with sqlite3.connect(tmp_path / "mlflow.db") as connection:
        connection.execute("drop table metrics")
    (folder / "train.csv").write_text("step,loss\n1,0.5\n")
    assert not tracked.close("FINISHED", timeout=60)
    assert tracked.fault is not None
    assert "no such table" in tracked.fault


@pytest.mark.parametrize("error", [KeyError("getpwuid(): uid not found: 12345"), OSError("No username set")])
def test_a_user_that_has_a_number_only_is_tracked_by_it(tmp_path: Path, monkeypatch, error: Exception) -> None:
    def nameless() -> str:
        raise error

    monkeypatch.setattr(getpass, "getuser", nameless)
    uri = default_tracking_uri(tmp_path)
    prepare(uri)
    run = start_run(uri, "e", "n")
    with sqlite3.connect(tmp_path / "mlflow.db") as connection:
        query = "select value from tags where key = 'mlflow.user' and run_uuid = ?"
        assert connection.execute(query, (run.run_id,)).fetchone() == (str(os.getuid()),)


def test_a_user_without_a_home_folder_is_told_to_name_one(monkeypatch) -> None:
    monkeypatch.delenv("UNDERSTUDY_HOME")

    def nowhere(_path: Path) -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "expanduser", nowhere)
    with pytest.raises(UserError, match="set UNDERSTUDY_HOME"):
        home()
