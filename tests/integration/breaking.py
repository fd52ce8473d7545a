"""What the tests of faults share: a run and a sweep to break, undisturbed ones to compare with, a server to kill."""

from __future__ import annotations

import csv
import json
import os
import signal
import sqlite3
import subprocess
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
import torch
from tests.integration.commands import SMALL, Process, free_port, run

from understudy import tracking
from understudy.errors import UserError

RUN = (
    *("train", *SMALL, "training_steps=2000", "log_interval=10", "eval_interval=1000"),
    *("save_interval=1000", "checkpoint_seconds=0.2"),
)
SWEEP = (
    *("sweep", *SMALL, "lr=interval(1e-4,1e-2)", "horizon_length=1,3", "flow_steps=2,5", "seeds=[0,1]", "num_trials=2"),
    *(
        "scheduler=none",
        "with_default=false",
        "max_concurrent=1",
        "training_steps=1200",
        "eval_interval=400",
        "log_interval=10",
        "checkpoint_seconds=0.2",
    ),
    *("final_episodes=2", "register_as=none"),
)


def only(root: Path, marker: str = "flags.json") -> Path:
    """Return the one run (or, with sweep.json, sweep) below a folder."""
    (found,) = [path.parent for path in root.rglob(marker) if not {"mlartifacts", "best"} & set(path.parts)]
    return found


def weights(file: Path) -> dict[str, torch.Tensor]:
    """Return the weights in a model's file or a checkpoint."""
    return torch.load(file, weights_only=True)["weights"]


@pytest.fixture(scope="session")
def undisturbed(hopper_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Train one run that nothing happens to; return its folder."""
    root = tmp_path_factory.mktemp("undisturbed")
    run(*RUN, "save_dir=runs", cwd=root)
    return only(root)


@pytest.fixture(scope="session")
def undisturbed_sweep(hopper_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Run one sweep that nothing happens to; return its folder."""
    root = tmp_path_factory.mktemp("undisturbed")
    run(*SWEEP, "save_dir=runs", cwd=root)
    return only(root, "sweep.json")


def step_of(root: Path) -> int:
    """Return the last step in a run's train.csv (any seed's), 0 before there is one."""
    for file in root.rglob("train.csv"):
        lines = file.read_text().splitlines()
        if len(lines) > 1:
            return int(lines[-1].split(",")[0])
    return 0


def checkpoints(folder: Path) -> list[Path]:
    """Return the rolling checkpoints below a folder, oldest first."""
    return sorted(folder.rglob("resume/step_*.pt"), key=lambda path: int(path.stem.split("_")[1]))


def wait_for(process: Process, ready: Callable[[], object], seconds: float = 600) -> None:
    deadline = time.monotonic() + seconds
    while not ready():
        if process.poll() is None and time.monotonic() > deadline:
            os.killpg(process.pid, signal.SIGKILL)
        if process.poll() is not None:
            raise AssertionError(f"ended before what was waited for: {process.communicate()}")
        time.sleep(0.02)


def ended(process: Process, code: int = 0) -> str:
    """Wait for the end of a command; return what it said, which is never a traceback."""
    try:
        out, err = process.communicate(timeout=600)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        raise AssertionError(f"never ended: {process.communicate()}") from None
    assert process.returncode == code, f"exit {process.returncode}:\n{out}\n{err}"
    assert "Traceback" not in out + err
    return out + err


def assert_same(mine: Path, other: Path) -> None:
    """Compare every csv row (but the times) and every model of two run directories, bit for bit."""
    names = [path.relative_to(other) for path in other.rglob("*.csv") if path.name != "timing.csv"]
    assert names
    for name in names:
        assert (mine / name).read_text() == (other / name).read_text(), name
    models = [path.relative_to(other) for path in other.rglob("*.pt")]
    assert any(name.name == "final_model.pt" for name in models)
    for name in models:
        pair = [torch.load(folder / name, weights_only=True)["weights"] for folder in (mine, other)]
        assert all(torch.equal(pair[0][key], pair[1][key]) for key in pair[1]), name
    assert not (mine / "resume").exists()


def assert_same_sweep(mine: Path, other: Path) -> None:
    """Compare two sweeps: their trials, each run directory, their parent run's and trials' metrics."""
    tables = []
    for sweep in (mine, other):
        with open(sweep / "summary.csv", newline="") as file:
            rows = [{key: row[key] for key in row if key != "steps_per_sec"} for row in csv.DictReader(file)]
        tables.append(sorted(rows, key=lambda row: row["trial"]))
    assert tables[0] == tables[1]
    for trial in sorted((other / "trials").iterdir()):
        assert_same(mine / "trials" / trial.name, trial)
    assert_each_metric_once(store_of(mine), store_of(other))


def store_of(folder: Path) -> Path:
    return next(parent / "mlflow.db" for parent in folder.parents if (parent / "mlflow.db").is_file())


def metrics(store: Path) -> list[tuple]:
    with sqlite3.connect(store) as connection:
        rows = connection.execute("select key, step, value from metrics order by key, step, value").fetchall()
    return [row for row in rows if not row[0].startswith("timing/")]


def assert_each_metric_once(mine: Path, other: Path) -> None:
    with sqlite3.connect(mine) as connection:
        count = "select run_uuid, key, step, count(*) from metrics group by run_uuid, key, step having count(*) > 1"
        assert connection.execute(count).fetchall() == []
        statuses = connection.execute("select status from runs").fetchall()
    assert set(statuses) == {("FINISHED",)}
    assert metrics(mine) == metrics(other)


def step_in(checkpoint: Path) -> int:
    return int(checkpoint.stem.split("_")[1])


def assert_little_was_repeated(folder: Path, checkpoint: Path, reached: int) -> None:
    """Check that the run went on once, from that checkpoint or a later one; print how many steps were done twice."""
    (resumed,) = json.loads((folder / "run.json").read_text())["resumed_at"]
    print(f"repeated {max(0, reached - resumed)} steps of {reached}")
    assert resumed >= step_in(checkpoint)


class Server:
    """An MLflow server that can be killed, and started again at the same port."""

    def __init__(self, folder: Path) -> None:
        self.store = folder / "mlflow.db"
        self._uri = tracking.default_tracking_uri(folder)
        tracking.prepare(self._uri)
        self._port = free_port()
        self.address = f"http://127.0.0.1:{self._port}"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it and wait until it answers."""
        deadline = time.monotonic() + 600
        while True:
            try:
                argv, environment = tracking.ui_command(self._uri, self._port)
                break
            except UserError:  # the system has not taken down all connections of the one that was killed
                assert time.monotonic() < deadline
                time.sleep(0.2)
        self._process = subprocess.Popen(
            argv,
            env={**os.environ, **environment},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        while True:
            try:
                urllib.request.urlopen(f"{self.address}/health", timeout=2).close()
                return
            except OSError:
                assert time.monotonic() < deadline
                time.sleep(0.1)

    def hang(self) -> None:
        """Stop it with its workers: it still takes connections and never answers."""
        assert self._process is not None
        os.killpg(self._process.pid, signal.SIGSTOP)

    def kill(self) -> None:
        """Kill -9 it with its workers."""
        if self._process is not None:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
            self._process = None


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    """Prepare a server that is not started yet; whatever the test does, it is dead afterwards."""
    folder = tmp_path / "server"
    folder.mkdir()
    server = Server(folder)
    try:
        yield server
    finally:
        server.kill()


def named(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return ""
