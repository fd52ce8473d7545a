"""The cluster's page, of answers that a real head gave: what runs where, what waits, what is said without one."""

from __future__ import annotations

import json
import socket
import time
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient
from tests.dashboards.folders import make_run, make_sweep
from tests.dashboards.heads import PIDS, TOKEN, as_running, head, recorded, with_gpus, write_profile

from understudy.cluster.tokens import Token
from understudy.dashboards.places import Root
from understudy.dashboards.reading.clusters import Amount, ClusterView, view_of
from understudy.dashboards.reading.files import Files
from understudy.dashboards.reading.heads import Heads, ask
from understudy.dashboards.reading.running import running
from understudy.dashboards.server import make_app
from understudy.dashboards.serving import heads_of
from understudy.dashboards.site import Site
from understudy.errors import UnknownName, UserError
from understudy.files import write_json


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Give each test an understudy home without clusters, and no token of this machine's."""
    for name in ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("UNDERSTUDY_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path / "home"


@pytest.fixture
def root(tmp_path: Path) -> Root:
    """Return a folder with the sweep of the recording under way, a run on no cluster, and a finished one."""
    as_running(make_sweep(tmp_path / "runs" / "monday", trials=4, status="running"))
    make_run(tmp_path / "runs" / "alone", state={"status": "running", "pid": 77})
    make_run(tmp_path / "runs" / "done")
    return Root(tmp_path / "runs")


def pages(root: Root, given: str = "") -> TestClient:
    return TestClient(make_app(Site(root, heads=Heads(given))), base_url="http://127.0.0.1:8765")


def whole(client: TestClient, path: str = "/live/cluster") -> str:
    answer = client.get(path)
    assert answer.status_code == 200
    assert TOKEN not in answer.text
    return answer.text


def test_each_trial_is_on_the_node_where_its_process_is(root: Root) -> None:
    view = view_of(recorded(), running(root, Files()))
    assert [(node.ip, node.head) for node in view.nodes] == [("10.0.0.7", True), ("127.0.1.1", False)]
    assert [[work.run.title for work in node.work if work.run] for node in view.nodes] == [
        ["trial 0000", "trial 0001"],
        ["trial 0002"],
    ]
    assert {work.pid for node in view.nodes for work in node.work} == set(PIDS.values()), "the job's own are left out"
    assert view.sum("cpus") == Amount(3, 3)
    assert view.nodes[1].gpus == Amount(0, 1)
    assert view.waiting == [("1 CPU", 1)]
    assert view.version == "2.60.0"
    (job,) = view.jobs
    assert (job.id, job.status, job.what) == ("monday", "running", "sweep bc on hopper-medium-v2")
    assert job.run is not None
    assert job.run.path == "monday"


def test_gpus_large_nodes_and_nodes_that_are_gone_are_read_too(root: Root) -> None:
    view = view_of(with_gpus(recorded()), [])
    large, gone = (next(node for node in view.nodes if node.host == name) for name in ("gpu1", "gpu2"))
    assert (large.cpus, large.gpus) == (Amount(12, 96), Amount(1, 2))
    assert [device.busy for device in large.devices] == [97, None]
    assert large.devices[0].memory.share == pytest.approx(70000 / 143771)
    assert view.nodes[-1] == gone
    assert not gone.alive
    assert "heartbeats" in gone.why
    assert view.waiting == [("1 GPU + 8 CPU", 3), ("1 CPU", 1)]


@pytest.mark.parametrize("damage", [None, [], "x", {"data": None}, {"data": {"summary": [{}, None, 3]}}])
def test_answers_of_another_form_are_left_out(damage: Any) -> None:
    for what in recorded():
        view_of(recorded() | {what: damage}, [])
    assert view_of({"nodes": damage}, []).sum("cpus") == Amount(0, 0)
    assert view_of({}, []) == ClusterView()


def test_a_process_of_another_machine_with_the_same_number_is_no_trial_of_ours(root: Root) -> None:
    state = {"status": "running", "pid": PIDS["0000"], "origin": {"host": "another"}}
    write_json(root.path / "monday" / "trials" / "0000" / "run.json", state)
    view = view_of(recorded(), running(root, Files()))
    run = next(work.run for work in view.nodes[0].work if work.pid == PIDS["0000"])
    assert run is not None
    assert run.kind == "sweep", "its driver's is known all the same"


def test_the_page_shows_nodes_jobs_what_waits_and_what_trains_elsewhere(root: Root, home: Path) -> None:
    with head(recorded()) as address:
        write_profile(home, "lab", address)
        client = pages(root)
        text = whole(client)
        assert whole(client, "/cluster").count('class="node"') == 2
    for said in ("trial 0000", "/run/monday/trials/0002", "3 <small>of 3", "1 CPU", f"{address}/#/jobs/monday"):
        assert said in text, said
    elsewhere = text[text.index("Training now, elsewhere") :]
    assert "/run/alone" in elsewhere
    assert "/sweep/monday" not in elsewhere
    assert "/run/done" not in text
    assert 'data-live="5.0"' in text


def test_a_head_that_refuses_our_token_is_one_line_without_it(root: Root, home: Path) -> None:
    with head(recorded(), token="another") as address:
        write_profile(home, "lab", address)
        text = whole(pages(root))
    assert "refuses the token from" in text
    assert "understudy cluster up local" in text


def test_without_a_cluster_the_page_says_how_to_start_one_and_what_trains_here(root: Root) -> None:
    text = whole(pages(root), "/cluster")
    assert "No cluster is up" in text
    assert "understudy cluster up local" in text
    for href in ("/sweep/monday", "/run/monday/trials/0001", "/run/alone"):
        assert f'href="{href}"' in text, href


def test_a_cluster_is_chosen_by_name_and_an_address_is_asked_of_nobody(root: Root, home: Path) -> None:
    with head(recorded()) as first, head(with_gpus(recorded())) as second, head(recorded()) as third:
        write_profile(home, "lab", first)
        write_profile(home, "large", second)
        client = pages(root)
        assert "gpu1" not in whole(client)
        assert "gpu1" in whole(client, "/live/cluster?of=large")
        assert third not in whole(client, f"/live/cluster?of={third}")
        assert f"<code>{first}</code>" in whole(client, f"/live/cluster?of={third}")
        assert "gpu1" in whole(pages(root, "large"))


def test_a_head_that_says_nothing_holds_no_page_up(root: Root, home: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        write_profile(home, "lab", f"http://127.0.0.1:{silent.getsockname()[1]}")
        client = pages(root)
        text = whole(client, "/cluster")
        assert ">asking<" in text
        assert 'data-live="0.5"' in text
        assert "No cluster is up" not in text
        assert "no answer" in whole(client)


def test_the_token_goes_to_no_other_place_that_a_head_leads_to(home: Path) -> None:
    import threading
    from http.server import BaseHTTPRequestHandler, HTTPServer

    seen: list[str] = []

    class Leads(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            seen.append(self.path)
            self.send_response(302)
            self.send_header("Location", "/elsewhere")
            self.end_headers()

        def log_message(self, *arguments: Any) -> None:
            """Say nothing."""

    server = HTTPServer(("127.0.0.1", 0), Leads)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    with pytest.raises(UserError, match="302"):
        ask(f"http://127.0.0.1:{server.server_port}", Token(TOKEN, "here"), "/nodes")
    server.shutdown()
    server.server_close()
    assert seen == ["/nodes"]


def test_names_of_jobs_and_nodes_are_escaped(root: Root, home: Path) -> None:
    said = json.loads(json.dumps(recorded()).replace("lab1", "<script>x</script>\\u001b[31m"))
    said["jobs"][0]["submission_id"] = "<img src=x>"
    with head(said) as address:
        write_profile(home, "lab", address)
        text = whole(pages(root))
    assert "<script>" not in text
    assert "<img" not in text
    assert "\x1b" not in text


def test_an_unknown_profile_is_refused_before_pages_are_served() -> None:
    with pytest.raises(UnknownName, match="locl"):
        heads_of("locl")


def test_a_head_is_asked_once_by_many_pages(home: Path) -> None:
    said = recorded()
    with head(said) as address:
        write_profile(home, "lab", address)
        heads = Heads()
        first = heads.read("lab", 60)
        assert all(heads.read("lab", 60) is first for _ in range(5) if time.monotonic())
