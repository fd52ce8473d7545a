"""The job server of a head, by Ray's own client, against a server that answers as Ray's does."""

from __future__ import annotations

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import ray

from understudy.cluster.job import Job
from understudy.cluster.job_server import JobServer


class _Head(BaseHTTPRequestHandler):
    """A job server whose agent is there at the third attempt."""

    attempts = 0

    def do_GET(self) -> None:
        version = {"version": "4", "ray_version": ray.__version__, "ray_commit": "x", "session_name": "x"}
        self._answer(200, [] if self.path.startswith("/api/jobs") else version)

    def do_PUT(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self._answer(200, {})

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        type(self).attempts += 1
        if self.attempts < 3:
            self._answer(500, "No available agent to submit job, please try again later.")
        else:
            self._answer(200, {"job_id": "a", "submission_id": "a"})

    def _answer(self, status: int, content: Any) -> None:
        self.send_response(status)
        self.end_headers()
        self.wfile.write(json.dumps(content).encode())

    def log_message(self, format: str, *args: object) -> None:
        """Write nothing."""


def test_a_head_whose_agent_is_not_there_yet_is_waited_for(tmp_path: Path) -> None:
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Head)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    job = Job(id="monday", kind="sweep", folder=str(tmp_path), spec={}, code="0" * 16)
    address = f"http://127.0.0.1:{server.server_address[1]}"
    try:
        links = JobServer(address, None).submit(job, tmp_path)
    finally:
        server.shutdown()
        server.server_close()
    assert _Head.attempts == 3
    assert links["dashboard"].startswith(address)
