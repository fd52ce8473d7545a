"""A stand-in for a Ray head: the answers that a real one gave, over HTTP, to who has its token."""

from __future__ import annotations

import copy
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from understudy.dashboards.reading.heads import QUESTIONS
from understudy.files import write_json

TOKEN = "t0ken-that-no-page-has"
PIDS = {"0000": 24656, "0001": 25062, "0002": 25375}
"""The processes of the trials that trained when it was recorded; the sweep's driver was 23943."""
DRIVER = 23943


def recorded() -> dict[str, Any]:
    """Return what a head of Ray 2.60 with one more node said while a submitted sweep's trials trained on both."""
    return json.loads((Path(__file__).parent.parent / "recorded" / "ray_head.json").read_text())


def with_gpus(said: dict[str, Any]) -> dict[str, Any]:
    """Return answers with a third node, of 96 CPUs and two GPUs, and a fourth that is gone, in Ray's words for them."""
    said = copy.deepcopy(said)
    nodes = said["nodes"]["data"]["summary"]
    large = copy.deepcopy(nodes[1]) | {"hostname": "gpu1", "ip": "10.0.0.9", "cpu": 71.5}
    large["raylet"] |= {"nodeId": "aa" * 28, "isHeadNode": False, "resourcesTotal": {"CPU": 96.0, "GPU": 2.0}}
    large["gpus"] = [
        {"index": 0, "name": "NVIDIA H200", "utilizationGpu": 97, "memoryUsed": 70000, "memoryTotal": 143771},
        {"index": 1, "name": "NVIDIA H200", "utilizationGpu": None, "memoryUsed": 0, "memoryTotal": 143771},
    ]
    gone = {"hostname": "gpu2", "ip": "10.0.0.10", "raylet": {"nodeId": "bb" * 28, "state": "DEAD"}}
    gone["raylet"]["stateMessage"] = "health check failed due to missing too many heartbeats"
    nodes += [large, gone]
    said["status"]["data"]["clusterStatus"]["loadMetricsReport"]["resourceDemand"] = [[{"GPU": 1.0, "CPU": 8.0}, 3]]
    said["nodes"]["data"]["nodeLogicalResources"] = {"aa" * 28: "12.0/96.0 CPU\n1.0/2.0 GPU\n0B/1.00TiB memory"}
    return said


@contextmanager
def head(said: dict[str, Any], token: str = TOKEN) -> Iterator[str]:
    """Serve a head's answers on this machine; return its address."""
    by_path = {path: what for what, path in QUESTIONS.items()}

    class Answer(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            allowed = self.headers.get("Authorization") == f"Bearer {token}"
            answer = said.get(by_path.get(self.path, "")) if allowed else None
            self.send_response(200 if answer is not None else 404 if allowed else 401)
            self.end_headers()
            self.wfile.write(json.dumps(answer).encode())

        def log_message(self, *arguments: Any) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Answer)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def write_profile(home: Path, name: str, address: str, token: str = TOKEN) -> None:
    """Write a profile that leads to a head, and its token's file."""
    folder = home / "clusters"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}.token").write_text(token)
    (folder / f"{name}.yaml").write_text(
        f"kind: address\naddress: {address}\ntoken_path: {folder / f'{name}.token'}\n", encoding="utf-8"
    )


def as_running(sweep: Path) -> None:
    """Give a made sweep and its first trials the processes of the recording."""
    write_json(sweep / "run.json", {"status": "running", "pid": DRIVER})
    for trial, pid in PIDS.items():
        state = {"status": "running", "step": 200, "pid": pid, "origin": {"host": "lab1"}}
        write_json(sweep / "trials" / trial / "run.json", state)
