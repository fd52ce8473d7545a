"""An HTTP server for one file that misbehaves as it is told: what downloads are tested against."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class FileServer(ThreadingHTTPServer):
    """Serve `content` at every path but /missing and /moved; `faults` are used up one a request, in order.

    A fault is ("drop", n): break the connection after n bytes; ("short", n): end n bytes before the length it said;
    ("long", n): say n bytes less than are sent; ("status", code); ("stall", n): send n bytes, then nothing.
    """

    daemon_threads = True

    def __init__(self, content: bytes) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.content = content
        self.etag: str | None = '"one"'
        self.ranges = self.heeds_if_range = True
        self.bytes_per_second = 0
        self.faults: list[tuple[str, int]] = []
        self.requests: list[dict[str, str]] = []
        self.sent = 0
        self.over = threading.Event()

    def url(self, path: str = "data/file.hdf5") -> str:
        """Return an address of the file."""
        return f"http://127.0.0.1:{self.server_address[1]}/{path}"


class Handler(BaseHTTPRequestHandler):
    """Answer one request."""

    server: FileServer
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing."""

    def do_GET(self) -> None:
        """Send the file, or the part that was asked for, or what the next fault says."""
        server = self.server
        server.requests.append(dict(self.headers))
        self.close_connection = True
        if self.path.startswith("/moved"):
            self._head(302, {"Location": "/data/file.hdf5", "Content-Length": "0"})
            return
        fault, count = server.faults.pop(0) if server.faults else ("", 0)
        if fault == "status" or self.path.startswith("/missing"):
            self._head(count or 404, {"Content-Length": "0"})
            return
        begin, total = self._begin(), len(server.content)
        body = server.content[begin:]
        length = len(body) - (count if fault == "long" else 0)
        headers = {"Content-Length": str(length)}
        if server.etag:
            headers["ETag"] = server.etag
        if begin:
            headers["Content-Range"] = f"bytes {begin}-{total - 1}/{total}"
        self._head(206 if begin else 200, headers)
        self._send({"drop": body[:count], "stall": body[:count], "short": body[: -count or None]}.get(fault, body))
        if fault == "stall":
            server.over.wait(30)
        if fault == "drop":
            self.connection.close()

    def _begin(self) -> int:
        """Return the first byte asked for: 0 without ranges, or when If-Range names another version."""
        asked = self.headers.get("Range", "")
        same = self.headers.get("If-Range") in (None, self.server.etag) or not self.server.heeds_if_range
        if not (self.server.ranges and same and asked.startswith("bytes=")):
            return 0
        return int(asked.removeprefix("bytes=").rstrip("-"))

    def _head(self, status: int, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in {**headers, "Connection": "close"}.items():  # else it may be used again as it is closed
            self.send_header(name, value)
        self.end_headers()

    def _send(self, body: bytes) -> None:
        step = 1 << 16
        try:
            for begin in range(0, len(body), step):
                self.wfile.write(body[begin : begin + step])
                self.server.sent += len(body[begin : begin + step])
                if self.server.bytes_per_second:
                    time.sleep(step / self.server.bytes_per_second)
        except OSError:
            return  # the other side was killed


@contextmanager
def serving(content: bytes) -> Iterator[FileServer]:
    """Run a server in a thread while the block lasts."""
    server = FileServer(content)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.over.set()
        server.shutdown()
        server.server_close()
        thread.join()
