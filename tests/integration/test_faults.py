"""Break what a run or a sweep stands on, for real, and compare with one that was left alone.

The promise is in docs/reliability.md: the same weights and csv rows, each metric in MLflow once, no traceback.
"""

from __future__ import annotations

import csv
import json
import os
import resource
import signal
import socket
import sqlite3
import subprocess
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
import torch
from tests.integration.commands import SMALL, kill_when, run, start

from understudy import tracking

pytestmark = [pytest.mark.slow, pytest.mark.timeout(280)]

RUN = (
    *("train", *SMALL, "training_steps=3000", "log_interval=50", "eval_interval=1000"),
    *("save_interval=1000", "checkpoint_seconds=0.2"),
)
SWEEP = (
    *("sweep", *SMALL, "lr=1e-3,1e-4", "flow_steps=2,5", "seeds=[0,1]", "sampler=grid", "scheduler=none"),
    *("max_concurrent=1", "training_steps=2000", "eval_interval=500", "log_interval=50", "checkpoint_seconds=0.2"),
    *("final_episodes=2", "register_as=none"),
)


def only(root: Path, marker: str = "flags.json") -> Path:
    """Return the one run (or, with sweep.json, sweep) below a folder."""
    (found,) = [path.parent for path in root.rglob(marker) if not {"mlartifacts", "best"} & set(path.parts)]
    return found


@pytest.fixture(scope="module")
def undisturbed(hopper_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Train one run that nothing happens to; return its folder."""
    root = tmp_path_factory.mktemp("undisturbed")
    run(*RUN, "save_dir=runs", cwd=root)
    return only(root)


@pytest.fixture(scope="module")
def undisturbed_sweep(hopper_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Run one sweep that nothing happens to; return its folder."""
    root = tmp_path_factory.mktemp("undisturbed")
    run(*SWEEP, "save_dir=runs", cwd=root)
    return only(root, "sweep.json")


def step_of(root: Path) -> int:
    """Return the last step of the one run's train.csv, 0 before there is one."""
    for file in root.rglob("train.csv"):
        lines = file.read_text().splitlines()
        if len(lines) > 1:
            return int(lines[-1].split(",")[0])
    return 0


def checkpoints(folder: Path) -> list[Path]:
    """Return the rolling checkpoints below a folder, oldest first."""
    return sorted(folder.rglob("resume/step_*.pt"), key=lambda path: int(path.stem.split("_")[1]))


def wait_for(process: subprocess.Popen[str], ready: Callable[[], object], seconds: float = 150) -> None:
    deadline = time.monotonic() + seconds
    while not ready():
        if process.poll() is None and time.monotonic() > deadline:
            os.killpg(process.pid, signal.SIGKILL)
        if process.poll() is not None:
            raise AssertionError(f"ended before what was waited for: {process.communicate()}")
        time.sleep(0.02)


def ended(process: subprocess.Popen[str], code: int = 0) -> str:
    """Wait for the end of a command; return what it said, which is never a traceback."""
    try:
        out, err = process.communicate(timeout=120)
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


class Server:
    """An MLflow server that can be killed, and started again at the same port."""

    def __init__(self, folder: Path) -> None:
        self.store = folder / "mlflow.db"
        self._uri = tracking.default_tracking_uri(folder)
        tracking.prepare(self._uri)
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self._port = probe.getsockname()[1]
        self.address = f"http://127.0.0.1:{self._port}"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it and wait until it answers."""
        argv, environment = tracking.ui_command(self._uri, self._port)
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        self._process = subprocess.Popen(argv, env={**os.environ, **environment}, start_new_session=True, **quiet)
        deadline = time.monotonic() + 100
        while True:
            try:
                urllib.request.urlopen(f"{self.address}/health", timeout=2).close()
                return
            except OSError:
                assert time.monotonic() < deadline
                time.sleep(0.1)

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


# ---- a run ----


def test_a_killed_rollout_process_has_its_evaluation_played_again(undisturbed: Path, tmp_path: Path) -> None:
    process = start(*RUN, "eval_processes=true", "save_dir=runs", cwd=tmp_path)

    def workers() -> list[psutil.Process]:
        children = psutil.Process(process.pid).children(recursive=True)
        return [child for child in children if "spawn_main" in " ".join(child.cmdline())]

    wait_for(process, workers)
    workers()[0].kill()
    said = ended(process)
    assert said.count("died with exit code -9; the evaluation begins again") == 1
    assert_same(only(tmp_path), undisturbed)
    assert_each_metric_once(store_of(only(tmp_path)), store_of(undisturbed))


def test_a_disk_that_is_full_for_a_while_costs_the_work_since_the_last_checkpoint(
    undisturbed: Path, tmp_path: Path
) -> None:
    process = start(*RUN, "save_dir=runs", cwd=tmp_path)
    wait_for(process, lambda: step_of(tmp_path) >= 1200 and checkpoints(tmp_path))
    resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (4000, 4000))  # what is beyond that "does not fit"
    out, err = process.communicate(timeout=100)
    assert process.returncode == 1, out + err
    assert [line for line in err.splitlines() if "no space left while writing" in line]
    assert "Traceback" not in err
    folder = only(tmp_path)
    assert checkpoints(folder)
    ended(start("resume", str(folder), cwd=tmp_path))
    assert_same(folder, undisturbed)
    assert_each_metric_once(store_of(folder), store_of(undisturbed))


JUMPING_CLOCK = """
import os, pathlib, time
_real = {"time": time.time, "time_ns": time.time_ns}
_file = pathlib.Path(os.environ["CLOCK_JUMP"])
def _jump():
    try:
        return float(_file.read_text() or 0)
    except (OSError, ValueError):
        return 0.0
time.time = lambda: _real["time"]() + _jump()
time.time_ns = lambda: _real["time_ns"]() + int(_jump() * 1e9)
"""


@pytest.mark.parametrize("seconds", [-86400, 86400])
def test_a_wall_clock_that_jumps_by_a_day_changes_nothing(undisturbed: Path, tmp_path: Path, seconds: int) -> None:
    (tmp_path / "clock").mkdir()
    (tmp_path / "clock" / "sitecustomize.py").write_text(JUMPING_CLOCK)
    path = os.pathsep.join([str(tmp_path / "clock"), os.environ.get("PYTHONPATH", "")])
    clock = {"PYTHONPATH": path, "CLOCK_JUMP": str(tmp_path / "jump")}
    process = start(*RUN, "save_dir=runs", cwd=tmp_path, **clock)
    wait_for(process, lambda: step_of(tmp_path) >= 500)
    before = checkpoints(tmp_path)
    (tmp_path / "jump").write_text(str(seconds))
    wait_for(process, lambda: checkpoints(tmp_path)[-1:] > before[-1:])  # intervals go on as before
    ended(process)
    assert_same(only(tmp_path), undisturbed)
    assert_each_metric_once(store_of(only(tmp_path)), store_of(undisturbed))


def test_an_mlflow_server_that_is_killed_during_a_run_ends_with_every_row_once(
    undisturbed: Path, server: Server, tmp_path: Path
) -> None:
    server.start()
    process = start(*RUN, "save_dir=runs", f"tracking_uri={server.address}", cwd=tmp_path)
    wait_for(process, lambda: step_of(tmp_path) >= 300)
    server.kill()
    wait_for(process, lambda: step_of(tmp_path) >= 1500)
    server.start()
    ended(process)
    said = ended(start("sync", str(only(tmp_path)), cwd=tmp_path))  # nothing, where it came back before the end
    assert "nothing to send" in said or "FINISHED" in said
    assert_same(only(tmp_path), undisturbed)
    assert_each_metric_once(server.store, store_of(undisturbed))


def test_a_run_whose_server_went_for_good_is_sent_by_sync_once_it_is_back(
    undisturbed: Path, server: Server, tmp_path: Path
) -> None:
    server.start()
    process = start(*RUN, "save_dir=runs", f"tracking_uri={server.address}", cwd=tmp_path)
    wait_for(process, lambda: step_of(tmp_path) >= 300)
    server.kill()
    assert "`understudy sync` sends it once that is back" in ended(process)
    folder = only(tmp_path)
    said = ended(start("sync", "runs", cwd=tmp_path), code=1)
    assert said.startswith(f"understudy: no MLflow server answers at {server.address}")
    assert len(said.splitlines()) == 1
    server.start()
    said = ended(start("sync", "runs", cwd=tmp_path))
    assert f"{folder}: " in said
    assert "metric values, " in said
    assert said.strip().endswith("FINISHED")
    assert "nothing to send" in ended(start("sync", "runs", cwd=tmp_path))
    assert_same(folder, undisturbed)
    assert_each_metric_once(server.store, store_of(undisturbed))
    shown = tracking.run_details(tracking.default_tracking_uri(server.store.parent), folder.name)
    assert {"flags.json", "train.csv", "final_model.pt"} <= set(shown["artifacts"])


def test_a_killed_ray_train_worker_is_replaced_and_the_run_ends_the_same(hopper_data: Path, tmp_path: Path) -> None:
    words = (*RUN, "training_steps=800", "eval_interval=400", "launcher=ray", "num_workers=2")
    run(*words, "save_dir=whole", "tracking_uri=none", cwd=tmp_path)
    process = start(*words, "save_dir=runs", cwd=tmp_path)
    wait_for(process, lambda: checkpoints(tmp_path / "runs"))
    workers = [child for child in psutil.Process(process.pid).children(recursive=True) if "TrainWorker" in named(child)]
    assert len(workers) == 2
    workers[1].kill()
    ended(process)
    assert_same(only(tmp_path / "runs"), only(tmp_path / "whole"))
    store = store_of(only(tmp_path / "runs"))
    assert_each_metric_once(store, store)


def named(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return ""


# ---- a sweep ----


def test_a_killed_trial_is_started_again_and_goes_on_from_its_own_checkpoint(
    undisturbed_sweep: Path, tmp_path: Path
) -> None:
    process = start(*SWEEP, "save_dir=runs", cwd=tmp_path)
    wait_for(process, lambda: any(tmp_path.rglob("trials/0001/resume/step_*.pt")))
    trial = only(tmp_path, "sweep.json") / "trials" / "0001"
    psutil.Process(json.loads((trial / "run.json").read_text())["pid"]).kill()
    assert "trial 0001: its process or its node died; it is started again" in ended(process)
    assert_same_sweep(only(tmp_path, "sweep.json"), undisturbed_sweep)


def test_a_killed_sweep_with_a_truncated_checkpoint_goes_on_in_one_process_however_often_it_is_resumed(
    undisturbed_sweep: Path, tmp_path: Path
) -> None:
    process = start(*SWEEP, "save_dir=runs", cwd=tmp_path)
    kill_when(process, lambda: len(list(tmp_path.rglob("trials/0001/resume/step_*.pt"))) >= 2)
    sweep = only(tmp_path, "sweep.json")
    newest = checkpoints(sweep / "trials" / "0001")[-1]
    newest.write_bytes(newest.read_bytes()[:-100])
    first = start("resume", str(sweep), cwd=tmp_path)
    wait_for(first, lambda: str(first.pid) in (sweep / ".lock").read_text())
    said = ended(start("resume", str(sweep), cwd=tmp_path), code=2)
    assert f"process {first.pid}" in said
    assert len(said.strip().splitlines()) == 1
    ended(first)
    assert_same_sweep(sweep, undisturbed_sweep)


def test_the_trials_of_a_node_that_is_lost_go_on_at_another(undisturbed_sweep: Path, tmp_path: Path) -> None:
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    try:
        nodes = [cluster.add_node(num_cpus=1) for _ in range(2)]
        process = start(*SWEEP, "save_dir=runs", cwd=tmp_path, RAY_ADDRESS=cluster.address)
        wait_for(process, lambda: any(tmp_path.rglob("trials/*/resume/step_*.pt")))
        pid = json.loads(next(tmp_path.rglob("trials/*/run.json")).read_text())["pid"]
        raylet = next(parent for parent in psutil.Process(pid).parents() if "raylet" in parent.name())
        assert raylet.pid in [node.all_processes["raylet"][0].process.pid for node in nodes]
        for lost in [raylet, *raylet.children(recursive=True)]:
            lost.send_signal(signal.SIGKILL)
        ended(process)
        assert_same_sweep(only(tmp_path, "sweep.json"), undisturbed_sweep)
    finally:
        cluster.shutdown()
