"""`understudy serve --cluster`: a policy on Ray Serve, asked over HTTP and by the robot's client, and ended."""

from __future__ import annotations

import os
import signal
import socket
import time
import urllib.error
import urllib.request
from pathlib import Path

import numpy as np
import pytest
from tests.integration.commands import start
from tests.unit.served import TOKEN, flow_policy, walk

from understudy.envs.serving.wire import pack, unpack


@pytest.mark.slow
def test_a_policy_on_ray_serve_answers_who_has_the_token_as_the_policy_would_and_ends(tmp_path: Path) -> None:
    pytest.importorskip("grpc_reflection")
    policy = flow_policy()
    policy.save(tmp_path / "policy")
    (tmp_path / "token").write_text(TOKEN)
    (tmp_path / "token").chmod(0o600)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    words = ("--cluster", "--token_file", str(tmp_path / "token"), "--port", str(port))
    process = start("serve", str(tmp_path / "policy"), *words, cwd=tmp_path)
    url = f"http://127.0.0.1:{port}"
    try:
        deadline = time.monotonic() + 600
        while not healthy(url):
            assert process.poll() is None, process.communicate()
            assert time.monotonic() < deadline, "it never answered"
            time.sleep(0.5)
        with pytest.raises(urllib.error.HTTPError, match="401"):
            ask(url, {"observation": walk(1)[0]}, "another")
        answer = ask(url, {"observation": walk(1)[0]}, TOKEN)
        expected = policy.act(walk(1), temperature=0.0)[0]
        np.testing.assert_allclose(answer["actions"], expected, atol=1e-6)
    finally:
        os.kill(process.pid, signal.SIGTERM)
        _, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    assert "Traceback" not in err
    assert not healthy(url)


def healthy(url: str) -> bool:
    try:
        with urllib.request.urlopen(f"{url}/healthz", timeout=5) as reply:
            return reply.status == 200
    except OSError:
        return False


def ask(url: str, message: dict[str, object], token: str) -> dict[str, np.ndarray]:
    headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/msgpack"}
    request = urllib.request.Request(f"{url}/act", data=pack(message), headers=headers)
    with urllib.request.urlopen(request, timeout=60) as reply:
        return unpack(reply.read())
