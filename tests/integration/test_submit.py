"""Jobs on a real cluster: a head with a token and two more nodes, each with an address of its own, on this machine.

The client is another process; it is killed, the head is killed. Metrics go to an MLflow server over HTTP.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest
from tests.integration.breaking import named
from tests.integration.commands import SMALL, free_port, kill_when, run, start

import understudy
from understudy import tracking
from understudy.cli.train import read_run
from understudy.cluster import ports
from understudy.cluster.code import code_hash
from understudy.cluster.job import make_job
from understudy.cluster.kinds import local
from understudy.cluster.profile import load_profile
from understudy.cluster.tokens import own_path
from understudy.runs.directory import read_csv
from understudy.tracking.client import client

pytestmark = [pytest.mark.slow, pytest.mark.faults]

SECRET = "pl4in-text-that-nobody-may-see"
PLUGIN = str(Path(__file__).with_name("cluster_plugin.py"))
PACKAGE: dict[str, Any] = {"PYTHONPATH": str(Path(understudy.__file__).parents[1])}
"""The environment of a child process that finds the package, installed or not."""
SWEEP = ("space=plugged", *SMALL, "seeds=[0,1]", "sampler=grid", "scheduler=none", "final_episodes=2")
LONG = ("training_steps=3000", "eval_interval=3000", "checkpoint_seconds=1000", "log_interval=50")
"""Trials that no checkpoint is written of before they are told to stop."""


@dataclass
class Head:
    """A running cluster of the tests, and the profile that leads to it."""

    name: str
    mlflow: str
    notes: Path
    runs: Path

    def command(self, *words: str, code: int = 0, **environment: str) -> str:
        """Run a client in a process of its own."""
        return run(*words, cwd=self.runs, code=code, **PACKAGE, **environment)

    @property
    def state(self) -> dict[str, Any]:
        """What `up` noted."""
        return json.loads((load_profile(self.name).state / "head.json").read_text())

    @property
    def token(self) -> str:
        """The head's token."""
        return own_path(load_profile(self.name)).read_text()

    def get(self, path: str, token: str | None = None) -> str:
        """Return what the head answers; urllib's HTTPError when it refuses."""
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        request = urllib.request.Request(f"{self.state['address']}{path}", headers=headers)
        with urllib.request.urlopen(request, timeout=600) as answer:
            return answer.read().decode()


def write_profile(home: Path, name: str, text: str) -> None:
    (home / "clusters").mkdir(parents=True, exist_ok=True)
    (home / "clusters" / f"{name}.yaml").write_text(text)


@pytest.fixture(scope="module")
def mlflow_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Run an MLflow server on a SQLite store; return its address."""
    port = free_port()
    uri = tracking.default_tracking_uri(tmp_path_factory.mktemp("mlflow"))
    tracking.prepare(uri)
    argv, environment = tracking.ui_command(uri, port)
    process = subprocess.Popen(
        argv,
        env={**os.environ, **environment},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    address = f"http://127.0.0.1:{port}"
    try:
        wait_until(lambda: answers(f"{address}/health"))
        yield address
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def answers(url: str) -> bool:
    try:
        urllib.request.urlopen(url, timeout=2).close()
    except OSError:
        return False
    return True


def wait_until(ready: Any, seconds: float = 600) -> None:
    deadline = time.monotonic() + seconds
    while not ready():
        assert time.monotonic() < deadline
        time.sleep(0.2)


@pytest.fixture(scope="module")
def head(
    understudy_home: Path, hopper_data: Path, mlflow_server: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Head]:
    """Bring up a head of one CPU and two nodes of two; take them down again, whatever the tests did."""
    notes, runs = tmp_path_factory.mktemp("notes"), tmp_path_factory.mktemp("runs")
    write_profile(
        understudy_home,
        "three",
        f"extends: local\nhead: {{cpus: 1}}\nworkers: {{cpu: {{count: 2, cpus: 2}}}}\nmlflow_uri: {mlflow_server}\n"
        f"secrets: [PLUGGED_PASSWORD]\nenvironment: {{PLUGGED_NOTES: {notes}}}\n",
    )
    cluster = Head("three", mlflow_server, notes, runs)
    refused = cluster.command("cluster", "up", "three", code=2)
    assert "not set in the environment here: PLUGGED_PASSWORD" in refused
    said = cluster.command("cluster", "up", "three", PLUGGED_PASSWORD=SECRET)
    assert "3 nodes" in said
    try:
        yield cluster
    finally:
        cluster.command("cluster", "down", "three")


def submit(head: Head, name: str, *words: str) -> Path:
    """Submit a sweep as users do; return its folder."""
    said = head.command("submit", "sweep", "-p", head.name, "--plugin", PLUGIN, "--name", name, *SWEEP, *words)
    return Path(next(line.split()[1] for line in said.splitlines() if line.startswith("folder")))


def test_a_submitted_sweep_ends_without_the_client_that_was_killed(head: Head) -> None:
    words = ("submit", "sweep", "-p", "three", "--plugin", PLUGIN, "--name", "first", "--follow", *SWEEP)
    # Trials of two CPUs: the head has one, so they are on other nodes than the driver.
    following = start(*words, "cpus=2", "training_steps=300", "eval_interval=100", cwd=head.runs, **PACKAGE)
    state = head.runs / "runs/fbc/bc_training/BC/hopper-medium-v2/first"
    seen: set[str] = set()

    def trial_began() -> bool:
        seen.update(command_lines())
        return (state / "trials" / "0000" / "flags.json").is_file()

    kill_when(following, trial_began)
    said = head.command("jobs", "logs", "first", "-p", "three", "-f")
    assert "3 configurations: 3 complete" in said
    listed = head.command("jobs", "list", "-p", "three")
    assert "finished" in listed

    # The plug-in came along, ran from the sent copy, and on more than one node.
    notes = [json.loads(path.read_text()) for path in head.notes.glob("*.json")]
    assert {note["secret"] for note in notes} == {hashlib.sha256(SECRET.encode()).hexdigest()}
    assert len({note["node"] for note in notes} - {""}) >= 2
    assert all("/_ray_pkg_" in note["code"] for note in notes)

    # Everything is in MLflow, over HTTP: the sweep and its trials, finished, each step once.
    store = client(head.mlflow)
    experiment = store.get_experiment_by_name("bc_training")
    assert experiment is not None
    found = store.search_runs([experiment.experiment_id])
    mine = [item for item in found if (item.info.run_name or "").endswith(" first")]
    assert [item.info.status for item in mine] == ["FINISHED"]
    children = [item for item in found if item.data.tags.get("mlflow.parentRunId") == mine[0].info.run_id]
    assert [item.info.status for item in children] == ["FINISHED"] * 3
    for child in children:
        steps = [point.step for point in store.get_metric_history(child.info.run_id, "eval/return")]
        assert steps == [100, 200, 300]

    # And the secret is in none of the places where others could read it.
    places = {
        "jobs": head.get("/api/jobs/", head.token),
        "output": said + listed + head.get("/api/jobs/first/logs", head.token),
        "command lines": "\n".join(seen),
        "parameters": "\n".join(str(item.to_dictionary()) for item in found),
        "files": "\n".join(texts(state)),
        "notes": "\n".join(texts(load_profile("three").state)),
    }
    assert all(places.values())
    assert [place for place, text in places.items() if SECRET in text] == []
    assert [
        place for place in ("jobs", "output", "command lines", "parameters", "files") if head.token in places[place]
    ] == []


def command_lines() -> list[str]:
    lines = []
    for process in psutil.process_iter():
        try:
            lines.append(" ".join(process.cmdline()))
        except psutil.Error:
            continue
    return lines


def texts(folder: Path) -> list[str]:
    files = (path for path in folder.rglob("*") if path.is_file() and path.name != "token")
    return [path.read_bytes().decode("utf-8", "replace") for path in files]


def test_a_wrong_token_a_missing_one_and_a_name_that_is_taken_are_one_line(head: Head, tmp_path: Path) -> None:
    for answer, token in ((401, None), (403, "0" * 64)):
        with pytest.raises(urllib.error.HTTPError) as refused:
            head.get("/api/jobs/", token)
        assert refused.value.code == answer
    (tmp_path / "wrong").write_text("0" * 64)
    address, home = head.state["address"], str(tmp_path)
    missing = head.command("jobs", "list", "-p", address, code=2, HOME=home)
    assert missing.splitlines() == [
        f"understudy: the head at {address} wants a token: set RAY_AUTH_TOKEN_PATH to its file, or token_path in the"
        " profile"
    ]
    wrong = head.command("jobs", "list", "-p", address, code=2, RAY_AUTH_TOKEN_PATH=str(tmp_path / "wrong"), HOME=home)
    assert wrong.splitlines() == [f"understudy: the head at {address} refuses the token from {tmp_path / 'wrong'}"]
    right = str(own_path(load_profile("three")))
    if "first" not in head.command("jobs", "list", "-p", "three"):  # this process did not run the first test
        submit(head, "first", "training_steps=300", "eval_interval=100")
    assert "first" in head.command("jobs", "list", "-p", address, RAY_AUTH_TOKEN_PATH=right, HOME=home)
    words = ("submit", "sweep", "-p", "three", "--plugin", PLUGIN, "--name", "first", *SWEEP)
    assert "has a job first already: give another --name" in head.command(*words, code=2)


def test_a_job_that_fails_says_why_and_its_follower_exits_1(head: Head) -> None:
    words = ("submit", "train", "-p", "three", "algo=bc", "env_name=hopper-expert-v2", "--name", "no-data", "--follow")
    said = head.command(*words, code=1)
    assert "no dataset" in said or "hopper-expert-v2" in said
    assert "no-data ended failed" in said
    assert "Traceback" not in said


def test_a_sweep_whose_head_was_killed_goes_on_in_its_folder_on_a_new_head(head: Head) -> None:
    folder = submit(head, "second", "training_steps=1500", "eval_interval=1500", "checkpoint_seconds=0.5")
    wait_until(lambda: finished(folder))
    for process in [psutil.Process(item["pid"]) for item in head.state["processes"]]:
        for child in [process, *process.children(recursive=True)]:
            with contextlib.suppress(psutil.NoSuchProcess):  # it may go when its parent does
                child.kill()
    done = {path: path.stat().st_mtime_ns for path in finished(folder)}
    assert len(done) < 3, "the head was to be killed in the middle of the sweep"
    lost = head.command("jobs", "list", "-p", "three")  # what was submitted from here is known all the same
    assert "no job server answers" in lost

    head.command("cluster", "down", "three")
    head.command("cluster", "up", "three", PLUGGED_PASSWORD=SECRET)
    said = head.command("jobs", "resume", "second", "-p", "three", "--plugin", PLUGIN, "--follow")
    assert "second-r1" in said
    assert "3 configurations: 3 complete" in said
    assert len(finished(folder)) == 3
    assert {path: path.stat().st_mtime_ns for path in done} == done
    assert json.loads((folder / "run.json").read_text())["status"] == "finished"


def finished(folder: Path) -> list[Path]:
    """Return the final models of a sweep's finished trials (one of each)."""
    states = (path for path in folder.glob("trials/*/run.json") if json.loads(path.read_text()).get("step"))
    return [path.parent / "sd000" / "final_model.pt" for path in states if '"finished"' in path.read_text()]


def test_a_job_that_is_stopped_saves_its_trials_and_goes_on_with_more_to_do(head: Head) -> None:
    folder = submit(
        head, "third", "training_steps=3000", "eval_interval=3000", "checkpoint_seconds=1000", "log_interval=50"
    )
    wait_until(lambda: training(folder))
    assert "is being stopped" in head.command("jobs", "stop", "third", "-p", "three")
    wait_until(lambda: re.search(r"third +stopped", head.command("jobs", "list", "-p", "three")))
    states = saved(folder)
    words = ("jobs", "resume", "third", "-p", "three", "--plugin", PLUGIN, "--follow", "--add-steps", "500")
    said = head.command(*words)
    assert "3 configurations: 3 complete" in said
    assert_went_on(folder, states, 3500)


def training(folder: Path) -> bool:
    """Return whether some trial of a sweep has come to its training."""
    return any(folder.glob("trials/*/timing.csv"))


def saved(folder: Path) -> dict[str, int]:
    """Check that a stopped sweep's trials wrote checkpoints when they were told to; return each one's step."""
    states = {path.parent.name: json.loads(path.read_text()) for path in folder.glob("trials/*/run.json")}
    found = {name: state["step"] for name, state in states.items() if state.get("status") == "interrupted"}
    assert found
    assert all(step > 0 for step in found.values())
    assert "running" not in {state.get("status") for state in states.values()}
    return found


def assert_went_on(folder: Path, steps: dict[str, int], last: int) -> None:
    """Check that these trials went on from these steps, and that all came to the last one."""
    states = {path.parent.name: json.loads(path.read_text()) for path in folder.glob("trials/*/run.json")}
    assert {name: states[name]["resumed_at"] for name in steps} == {name: [step] for name, step in steps.items()}
    assert {(state["status"], state["step"]) for state in states.values()} == {("finished", last)}


ACTING = (
    *("algo=hilserl", "env_name=Pendulum-v1", "offline_ratio=0", "hidden_dims=[16,16]", "batch_size=16"),
    *("utd_ratio=1", "start_training=20", "eval_episodes=0", "fragment_steps=10", "num_actors=2", "replay=ledger"),
    *("log_interval=10", "checkpoint_seconds=0.5", "training_steps=800"),
)


def test_a_submitted_learner_has_its_actors_on_other_nodes_is_stopped_and_goes_on(head: Head) -> None:
    said = head.command("submit", "train", "-p", "three", "--name", "learner", *ACTING)
    folder = Path(next(line.split()[1] for line in said.splitlines() if line.startswith("folder")))
    wait_until(lambda: (folder / "timing.csv").is_file())
    nodes = {process.ppid() for process in psutil.process_iter() if "ActorProcess" in named(process)}
    assert len(nodes) == 1  # of two CPUs: one placement group, packed; the head has one
    assert "is being stopped" in head.command("jobs", "stop", "learner", "-p", "three")
    wait_until(lambda: re.search(r"learner +stopped", head.command("jobs", "list", "-p", "three")))
    state = json.loads((folder / "run.json").read_text())
    assert (state["status"], 0 < state["step"] < 800) == ("interrupted", True)
    head.command("jobs", "resume", "learner", "-p", "three", "--follow")
    assert json.loads((folder / "run.json").read_text())["resumed_at"] == [state["step"]]
    assert [row["step"] for row in read_csv(folder / "online_agent.csv")] == list(range(30, 801, 10))
    assert {row["actor"] for row in read_csv(folder / "env.csv")} == {0, 1}
    assert "the same weights" in head.command("learner", "--replay", str(folder))


def test_a_driver_that_is_started_again_goes_on_in_its_jobs_folder(hopper_data: Path, tmp_path: Path) -> None:
    words = [*SMALL, "algo=bc", "training_steps=50", f"save_dir={tmp_path}", f"data_dir={hopper_data}"]
    job = make_job(read_run(words), load_profile("local"), "again", code_hash(Path(PACKAGE["PYTHONPATH"])))
    job.write(tmp_path)
    assert f"run directory: {job.folder}" in run("jobs", "run", "job.json", cwd=tmp_path, **PACKAGE)
    assert "has finished already (50 steps)" in run("jobs", "run", "job.json", cwd=tmp_path, **PACKAGE)
    job.model_copy(update={"code": "0" * 16}).write(tmp_path)
    assert "another understudy hides the job's own" in run("jobs", "run", "job.json", cwd=tmp_path, code=2, **PACKAGE)


def test_taking_one_cluster_down_leaves_others_alone(head: Head, understudy_home: Path) -> None:
    write_profile(understudy_home, "other", "extends: local\nhead: {cpus: 1}\n")
    assert "other is up" in head.command("cluster", "up", "other")
    try:
        assert "other is up already" in head.command("cluster", "up", "other")
        noted = json.loads((load_profile("other").state / "head.json").read_text())
        assert noted["address"] != head.state["address"]
        leader = psutil.Process(noted["processes"][0]["pid"])
        family = [leader, *leader.children(recursive=True)]
    finally:
        assert "other is down" in head.command("cluster", "down", "other")
    assert [process for process in family if process.is_running()] == []
    assert not Path(noted["temp"]).exists()
    assert "3 nodes alive" in head.command("cluster", "status", "three")
    assert "is down" in head.command("cluster", "status", "other")


def test_a_head_whose_agent_finds_its_port_taken_comes_up_with_another_and_starts_jobs(
    understudy_home: Path, hopper_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_profile(understudy_home, "taken", "extends: local\nhead: {cpus: 1}\n")
    cluster = local.LocalCluster(load_profile("taken"))
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        agents = iter([other.getsockname()[1]])  # taken after it was found free
        monkeypatch.setattr(
            local, "free_port", lambda wanted: ports.free_port(wanted) if wanted else next(agents, ports.free_port(0))
        )
        try:
            assert "taken is up" in cluster.up()[0]
            assert next(agents, None) is None
            words = [*SMALL, "algo=bc", "training_steps=5", f"data_dir={hopper_data}", "--follow"]
            assert "[Step 5/5]" in run("submit", "train", "-p", "taken", *words, cwd=tmp_path, **PACKAGE)
        finally:
            cluster.down()
