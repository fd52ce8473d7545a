"""Tracking against real MLflow stores: a SQLite file, processes that share it, a server that goes and comes back."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.integration.commands import free_port

import understudy
from understudy import models, tracking
from understudy.errors import TrackingError, UnknownName
from understudy.normaliser import Normaliser
from understudy.policy import Policy
from understudy.randomness import torch_generator
from understudy.registry import algorithms
from understudy.tracking.client import client
from understudy.tracking.recording import log_points
from understudy.tracking.shipping import CURSOR_FILE, Point

CHILD = {**os.environ, "PYTHONPATH": str(Path(understudy.__file__).parents[1]), "OMP_NUM_THREADS": "1"}
"""The environment of a child process that finds the package, installed or not."""


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> str:
    """One prepared SQLite store for the module: making its tables takes seconds."""
    uri = tracking.default_tracking_uri(tmp_path_factory.mktemp("store"))
    tracking.prepare(uri)
    return uri


def follow(uri: str, folder: Path, **settings: Any) -> tracking.Tracked:
    folder.mkdir(exist_ok=True)
    sources = tracking.metric_sources(folder, (0,))
    return tracking.track(uri, folder, experiment="e", name=folder.name, sources=sources, **settings)


def small_policy() -> Policy:
    kind = algorithms.get("flow_bc")
    algorithm = kind((5,), 2, kind.Config(hidden_dims=(8,)))
    weights = dict(algorithm.network(torch_generator(0, "weights")).named_parameters())
    return Policy(algorithm, [weights], Normaliser.identity((5,)), seeds=[4])


def write_rows(folder: Path, steps: range) -> None:
    for name, column in (("timing.csv", "time,steps_per_sec"), ("train.csv", "loss")):  # in the order of Logs.training
        path = folder / name
        if not path.exists():
            path.write_text(f"step,{column}\n")
        with path.open("a") as file:
            cells = "0.5" if name == "train.csv" else "1000000.25,9"
            file.writelines(f"{step},{cells}\n" for step in steps)


def points(uri: str, run_id: str, key: str) -> list[int]:
    return [metric.step for metric in client(uri).get_metric_history(run_id, key)]


def test_a_run_holds_its_rows_once_its_files_and_its_end(store: str, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    tracked = follow(store, folder, params={"lr": 1e-4}, tags={"algo": "flow_bc"})
    assert tracked.run_id
    write_rows(folder, range(10))
    (folder / "resume").mkdir()
    (folder / "resume" / "step_1.pt").write_text("x")
    (folder / "sd000").mkdir()
    (folder / "sd000" / "train.csv").write_text("step,loss\n")
    (folder / "flags.json").write_text('{"tracking_uri": "http://ada:pa55@host"}')
    tracked.log_folder()
    assert tracked.close("FINISHED")

    shown = tracking.run_details(store, "run")
    assert points(store, shown["run_id"], "train/loss") == list(range(10))
    assert (shown["status"], shown["params"], shown["tags"]["algo"]) == ("FINISHED", {"lr": "0.0001"}, "flow_bc")
    assert shown["artifacts"] == ["flags.json", "sd000", "timing.csv", "train.csv"]
    stored = client(store).download_artifacts(shown["run_id"], "flags.json", str(tmp_path))
    assert Path(stored).read_text() == '{"tracking_uri": "http://host"}'


def test_a_resumed_run_goes_on_in_the_same_mlflow_run(store: str, tmp_path: Path) -> None:
    folder = tmp_path / "resumed"
    first = follow(store, folder, params={"lr": 1})
    write_rows(folder, range(3))
    assert first.close("KILLED")
    again = follow(store, folder, params={"lr": 2, "added": 3})
    assert again.run_id == first.run_id
    assert tracking.run_details(store, "resumed")["status"] == "RUNNING"
    write_rows(folder, range(3, 5))
    assert again.close("FINISHED")
    shown = tracking.run_details(store, "resumed")
    assert points(store, shown["run_id"], "train/loss") == list(range(5))
    assert shown["params"] == {"lr": "1", "added": "3"}


def test_a_run_that_goes_on_at_another_machine_sends_only_what_the_first_had_not(store: str, tmp_path: Path) -> None:
    first = follow(store, tmp_path / "moved")
    write_rows(tmp_path / "moved", range(5))
    assert first.close("KILLED")
    (tmp_path / "moved" / CURSOR_FILE).unlink()
    (tmp_path / "moved" / "timing.csv").unlink()  # the other machine's times are not known here
    write_rows(tmp_path / "moved", range(5, 8))
    again = follow(store, tmp_path / "moved", run_id=first.run_id)
    assert again.close()
    assert points(store, str(first.run_id), "train/loss") == list(range(8))


def test_a_run_created_by_a_process_that_died_before_noting_its_id_is_found_again(store: str, tmp_path: Path) -> None:
    folder = tmp_path / "orphan"
    folder.mkdir()
    (folder / CURSOR_FILE).write_text('{"format_version": 1, "files": {}, "pending": {}, "key": "abc123"}')
    made = tracking.start_run(store, "e", "orphan", key="abc123")
    tracked = follow(store, folder)
    assert tracked.run_id == made.run_id
    tracked.close()


def test_a_run_deleted_in_mlflow_comes_back_when_it_is_resumed(store: str, tmp_path: Path) -> None:
    tracked = follow(store, tmp_path / "deleted")
    tracked.close()
    client(store).delete_run(str(tracked.run_id))
    again = follow(store, tmp_path / "deleted")
    assert again.run_id == tracked.run_id
    assert again.close()


def test_points_sent_twice_are_stored_once(store: str) -> None:
    run = tracking.start_run(store, "e", "twice")
    batch = [Point("loss", float(step), 1000 + step, step) for step in range(1000)]
    log_points(store, run.run_id, batch)
    log_points(store, run.run_id, batch)
    log_points(store, run.run_id, [*batch[500:], Point("loss", 7.0, 9999, 1000)])
    assert points(store, run.run_id, "loss") == list(range(1001))


def test_children_are_listed_under_their_parent(store: str) -> None:
    parent = tracking.start_run(store, "sweeps", "sweep")
    child = tracking.start_run(store, "sweeps", "trial", parent_run_id=parent.run_id)
    assert [row["run_id"] for row in tracking.run_details(store, "sweep")["children"]] == [child.run_id]
    assert {row["name"] for row in tracking.list_runs(store, "sweeps")} == {"sweep", "trial"}


def test_an_unknown_experiment_or_run_names_the_nearest(store: str) -> None:
    tracking.start_run(store, "bc_training", "sd000_20260101")
    with pytest.raises(UnknownName, match="did you mean 'bc_training'"):
        tracking.list_runs(store, "bc_trainig")
    with pytest.raises(UnknownName, match="did you mean 'sd000_20260101'"):
        tracking.run_details(store, "sd000_20260102")


def test_a_deleted_experiment_is_refused_with_the_way_back(store: str) -> None:
    tracking.start_run(store, "gone", "x")
    client(store).delete_experiment(client(store).get_experiment_by_name("gone").experiment_id)  # pyright: ignore[reportOptionalMemberAccess]
    with pytest.raises(TrackingError, match="mlflow experiments restore"):
        tracking.start_run(store, "gone", "y")


@pytest.mark.slow
def test_a_store_that_another_mlflow_made_newer_is_refused_in_one_line_and_left_as_it_was(
    store: str, tmp_path: Path
) -> None:
    made = Path(store.removeprefix("sqlite:///"))
    (tmp_path / "mlflow.db").write_bytes(made.read_bytes())
    with sqlite3.connect(tmp_path / "mlflow.db") as database:
        database.execute("UPDATE alembic_version SET version_num = 'fromthefuture'")
    database.close()
    before = (tmp_path / "mlflow.db").read_bytes()
    with pytest.raises(TrackingError, match="fromthefuture") as refused:
        tracking.prepare(tracking.default_tracking_uri(tmp_path))
    assert "\n" not in str(refused.value)
    assert (tmp_path / "mlflow.db").read_bytes() == before


WRITER = """
import sys
from understudy import tracking
from understudy.tracking.recording import finish, log_points
from understudy.tracking.shipping import Point
uri, name, batches = sys.argv[1], sys.argv[2], int(sys.argv[3])
run = tracking.start_run(uri, "many", name)
for batch in range(batches):
    log_points(uri, run.run_id, [Point(f"m{k}", 0.5, batch, 10 * batch + s) for k in range(10) for s in range(10)])
finish(uri, run.run_id)
"""


@pytest.mark.slow
def test_four_processes_write_one_sqlite_store_without_a_lock_error(store: str) -> None:
    command = [sys.executable, "-c", WRITER, store]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    writers = [subprocess.Popen([*command, f"w{k}", "20"], env=CHILD, **pipes) for k in range(4)]
    outcomes = [(*writer.communicate(timeout=600), writer.returncode) for writer in writers]
    assert [(err, code) for _, err, code in outcomes] == [("", 0)] * 4
    for row in tracking.list_runs(store, "many"):
        assert row["status"] == "FINISHED"
        assert len(points(store, row["run_id"], "m3")) == 200


PREPARE = "import sys; from understudy import tracking; tracking.prepare(sys.argv[1])"


@pytest.mark.slow
def test_drivers_that_start_together_prepare_one_new_store(tmp_path: Path) -> None:
    uri = tracking.default_tracking_uri(tmp_path)
    command = [sys.executable, "-c", PREPARE, uri]
    drivers = [subprocess.Popen(command, env=CHILD, stderr=subprocess.PIPE, text=True) for _ in range(3)]
    assert [(driver.communicate(timeout=600)[1], driver.returncode) for driver in drivers] == [("", 0)] * 3
    assert tracking.list_runs(uri) == []


# ---- a server ----


@contextmanager
def server(uri: str, port: int) -> Iterator[str]:
    """Run what `understudy ui` runs until the block ends."""
    argv, environment = tracking.ui_command(uri, port)
    process = subprocess.Popen(
        argv,
        env={**os.environ, **environment},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        while True:
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=10).close()
                break
            except OSError:
                assert process.poll() is None
                time.sleep(0.1)
        yield f"http://127.0.0.1:{port}"
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait(10)


@pytest.mark.slow
def test_a_server_that_goes_and_comes_back_ends_with_every_row_once(tmp_path: Path) -> None:
    uri = tracking.default_tracking_uri(tmp_path)
    tracking.prepare(uri)
    port = free_port()
    folder = tmp_path / "run"
    with server(uri, port) as address:
        tracking.prepare(address)
        tracked = follow(address, folder, params={"lr": 1})
        write_rows(folder, range(5))
        assert tracked.flush(600)
        page = urllib.request.urlopen(address, timeout=600).read().decode()
        assert "MLflow" in page

    write_rows(folder, range(5, 9))  # nobody listens now
    assert not tracked.flush(2)
    with pytest.raises(TrackingError, match="no MLflow server answers"):
        tracking.prepare(address)

    with server(uri, port):
        (folder / "video.mp4").write_bytes(b"frames")
        tracked.log_folder()
        run_id = str(tracked.run_id)
        assert tracked.close("FINISHED", timeout=600)
        policy = small_policy()
        models.register(run_id, policy.save(tmp_path / "policy"), "served", tracking_uri=address)
        loaded = models.load_policy("models:/served@best", tracking_uri=address)
        assert (loaded.act(np.ones((2, 5))) == policy.act(np.ones((2, 5)))).all()
    assert models.load_policy("models:/served/1", tracking_uri=uri).seeds == policy.seeds  # without the server
    shown = tracking.run_details(uri, run_id)
    assert points(uri, shown["run_id"], "train/loss") == list(range(9))
    assert shown["status"] == "FINISHED"
    assert "video.mp4" in shown["artifacts"]


@pytest.mark.slow
def test_a_run_that_starts_and_ends_while_the_server_is_away_is_tracked_when_it_is_resumed(tmp_path: Path) -> None:
    uri = tracking.default_tracking_uri(tmp_path)
    tracking.prepare(uri)
    port = free_port()
    folder = tmp_path / "run"
    address = f"http://127.0.0.1:{port}"
    tracked = follow(address, folder)
    assert tracked.run_id is None
    write_rows(folder, range(4))
    assert not tracked.close("FINISHED", timeout=3)
    with server(uri, port):
        again = follow(address, folder)
        again.log_folder()
        assert again.close("FINISHED", timeout=600)
    assert points(uri, str(again.run_id), "train/loss") == list(range(4))
    assert len(tracking.list_runs(uri)) == 1


@pytest.mark.slow
def test_a_server_that_stops_answering_after_it_was_checked_is_not_asked_for_minutes() -> None:
    """MLflow's own patience is 8 tries of 120 s each."""
    with _answering() as address:
        code = (
            "import sys; from understudy import tracking; tracking.prepare(sys.argv[1])\n"
            "from mlflow import environment_variables as held\n"
            "print(held.MLFLOW_HTTP_REQUEST_MAX_RETRIES.get(), held.MLFLOW_HTTP_REQUEST_TIMEOUT.get())"
        )
        without = {name: value for name, value in CHILD.items() if not name.startswith("MLFLOW_HTTP")}
        done = subprocess.run(
            [sys.executable, "-c", code, address], capture_output=True, text=True, check=False, env=without
        )
    assert done.stdout.split() == ["1", "20"], done.stderr


class _NoExperiments(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self._answer()

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self._answer()

    def _answer(self) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.end_headers()
        self.wfile.write(b"{}")

    def log_message(self, format: str, *args: object) -> None:
        """Write nothing."""


@contextmanager
def _answering() -> Iterator[str]:
    """Answer whatever is asked of an MLflow server with nothing found."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), _NoExperiments)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    server.server_close()
