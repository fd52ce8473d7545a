"""A head of our own that is looked at while it works: by Debian's Prometheus, and by the cluster's page.

apt-get install prometheus     # nothing is installed by the tests
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import time
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest
from starlette.testclient import TestClient
from tests.dashboards.expressions import expressions, names
from tests.integration.commands import SMALL, run, start

from understudy.cluster.profile import load_profile
from understudy.cluster.tokens import own_path
from understudy.dashboards.places import Root
from understudy.dashboards.reading.heads import Heads
from understudy.dashboards.server import make_app
from understudy.dashboards.site import Site
from understudy.runs.ray_metrics import MEASURES, exported_name

pytestmark = pytest.mark.slow

NAME = "watched"
CUBES = "gym_hil/PandaPickCube-state-scripted-v0"
LEARNING = (
    *("train", "algo=hilserl", f"env_name={CUBES}", "hidden_dims=[16,16]", "batch_size=16", "start_training=20"),
    *("training_steps=1000000", "log_interval=20", "eval_episodes=1", "eval_max_steps=10", "eval_interval=500"),
    *("num_actors=1", "takeover=scripted", "takeover_rate=1", "takeover_after=2", "publish_interval=10"),
    *("fragment_steps=5", "checkpoint_seconds=1", "launcher=inline", "tracking_uri=none"),
)
"""A learner with an actor on Ray, whose evaluations have successes: it sends everything that there is to send."""
SWEEP = (
    *("sweep", "algo=bc", *SMALL, "lr=1e-4,1e-3", "num_trials=1", "seeds=[0,1]", "training_steps=10000000"),
    *("log_interval=100", "eval_interval=0", "scheduler=none", "tracking_uri=none", "save_dir=runs"),
)


@dataclass
class Head:
    """A running head, and how a process joins it."""

    notes: dict[str, Any]
    said: str

    @property
    def environment(self) -> dict[str, str]:
        """What a shell has that works on it."""
        path = own_path(load_profile(NAME))
        address = f"127.0.0.1:{self.notes['gcs_port']}"
        return {"RAY_ADDRESS": address, "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(path)}

    def processes(self) -> list[psutil.Process]:
        """Return what `up` started, and all that this started."""
        leaders = [psutil.Process(item["pid"]) for item in self.notes["processes"]]
        return [one for leader in leaders for one in (leader, *leader.children(recursive=True))]


@pytest.fixture(scope="module")
def head(understudy_home: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Head]:
    """Bring up a head of three CPUs, and take it down again."""
    folder = tmp_path_factory.mktemp("head")
    (understudy_home / "clusters").mkdir(parents=True, exist_ok=True)
    (understudy_home / "clusters" / f"{NAME}.yaml").write_text("extends: local\nhead: {cpus: 3}\n")
    try:
        said = run("cluster", "up", NAME, cwd=folder)
        yield Head(json.loads((load_profile(NAME).state / "head.json").read_text()), said)
    finally:
        run("cluster", "down", NAME, cwd=folder)


@pytest.fixture
def started(head: Head, tmp_path: Path) -> Iterator[Callable[..., Any]]:
    """Return what starts a command on the head; it is ended with the test."""
    begun: list[Any] = []

    def begin(*words: str) -> Any:
        begun.append(start(*words, cwd=tmp_path, **head.environment))
        return begun[-1]

    yield begin
    for process in begun:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGTERM)
        process.communicate(timeout=300)


def wait_until(ready: Callable[[], Any], alive: Any, seconds: float = 600) -> Any:
    """Return what `ready` returns as soon as that is something; a command that ended before is a failure."""
    deadline = time.monotonic() + seconds
    while not (found := ready()):
        assert alive.poll() is None, alive.communicate()
        assert time.monotonic() < deadline
        time.sleep(1.0)
    return found


def test_a_head_alone_listens_on_this_machine_only(head: Head) -> None:
    listening = [
        (process.pid, connection.laddr.ip)
        for process in head.processes()
        for connection in process.net_connections(kind="tcp")
        if connection.status == psutil.CONN_LISTEN
    ]
    assert len(listening) > 5
    assert {ip for _, ip in listening} <= {"127.0.0.1", "::ffff:127.0.0.1"}


def test_what_is_not_installed_is_said_with_the_command_that_starts_it(head: Head) -> None:
    for name, program in (("Prometheus", "prometheus"), ("Grafana", "grafana")):
        line = next(line for line in head.said.splitlines() if line.startswith(name))
        if shutil.which(program) or shutil.which(f"{program}-server"):
            assert line.startswith(f"{name}: http://127.0.0.1:")
        else:
            assert "not installed here" in line
            assert "--config" in line


@pytest.mark.skipif(shutil.which("prometheus") is None, reason="needs Prometheus: apt-get install prometheus")
def test_prometheus_knows_every_expression_of_the_dashboards(
    head: Head, started: Callable[..., Any], tmp_path: Path, repo_root: Path
) -> None:
    address = next(line.split()[-1] for line in head.said.splitlines() if line.startswith("Prometheus: http"))

    def ask(path: str, **query: str) -> Any:
        with urllib.request.urlopen(f"{address}/api/v1/{path}?{urllib.parse.urlencode(query)}", timeout=60) as answer:
            told = json.load(answer)
        assert told["status"] == "success"
        return told["data"]

    assert shutil.which("promtool")
    subprocess.run(["promtool", "check", "config", load_profile(NAME).state / "prometheus.yml"], check=True)
    run("data", "generate", CUBES, "--episodes", "2", "--workers", "1", "--overwrite", cwd=tmp_path)
    learner = started(*LEARNING)
    ours = {exported_name(measure) for measure in MEASURES}
    wait_until(lambda: ours <= set(ask("label/__name__/values")), learner)
    known = set(ask("label/__name__/values"))
    for where, expression in expressions(repo_root):
        result = ask("query", query=expression)["result"]
        if not any(name.startswith(("ray_node_gpu", "ray_node_gram")) for name in names(expression)):
            assert names(expression) <= known, where
            assert result or where.startswith("rules.yml"), f"{where}: {expression}"
    (series,) = ask("query", query="ray_understudy_success_rate")["result"]
    assert series["metric"] | {"algorithm": "hilserl", "environment": CUBES, "seed": "0"} == series["metric"]
    assert ask("rules")["groups"][0]["rules"]


def test_a_trial_of_a_sweep_sends_its_sweeps_name_and_is_on_the_page_where_it_runs(
    head: Head, started: Callable[..., Any], tmp_path: Path, hopper_data: Path
) -> None:
    sweep = started(*SWEEP)
    targets = Path(head.notes["temp"], "h", "prom_metrics_service_discovery.json")

    def sent() -> list[str]:
        found: list[str] = []
        for target in json.loads(targets.read_text())[0]["targets"]:
            with urllib.request.urlopen(f"http://{target}/metrics", timeout=60) as answer:
                lines = answer.read().decode().splitlines()
                found += [line for line in lines if "understudy_step{" in line and 'sweep="sweep_' in line]
        return found

    (line,) = wait_until(sent, sweep)
    folder = next((tmp_path / "runs").rglob("sweep.json")).parent
    assert f'sweep="{folder.name}"' in line
    assert 'run="0000"' in line
    assert 'environment="hopper-medium-v2"' in line

    root = Root(tmp_path / "runs")
    pages = TestClient(make_app(Site(root, heads=Heads(NAME))), base_url="http://127.0.0.1:8765")
    trial = f"/run/{root.relative(folder)}/trials/0000"

    def placed() -> str:
        """Return the page's part about nodes, once the trial is there: Ray tells of actors when it comes to it."""
        text = pages.get("/live/cluster").text
        assert own_path(load_profile(NAME)).read_text() not in text
        nodes = text.partition("<h2>Nodes")[2].partition("<h2>Jobs")[0]
        return nodes if trial in nodes else ""

    nodes = wait_until(placed, sweep)
    assert nodes.count('class="node"') == 1
    assert f'/sweep/{root.relative(folder)}"' in nodes
    assert "of 3 CPUs given out" in nodes
