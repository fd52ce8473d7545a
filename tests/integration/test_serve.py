"""`understudy serve` as users start it: ended by Ctrl-C; and on Ray Serve, asked over HTTP, and ended."""

from __future__ import annotations

import os
import signal
import time
import urllib.error
import urllib.request
from pathlib import Path

import numpy as np
import pytest
from tests.integration.commands import Process, free_port, start
from tests.unit.served import TOKEN, flow_policy, walk

from understudy.envs.serving.wire import pack, unpack


def test_a_server_that_is_told_twice_to_end_does_so_without_a_traceback(tmp_path: Path) -> None:
    flow_policy().save(tmp_path / "policy")
    port = free_port()
    process = start("serve", str(tmp_path / "policy"), "--no_token", "--port", str(port), cwd=tmp_path)
    wait_for(f"http://127.0.0.1:{port}", process)
    for _ in range(2):
        process.send_signal(signal.SIGINT)
        time.sleep(0.05)
    out, err = process.communicate(timeout=600)
    assert (process.returncode, err) == (0, "")
    assert out.endswith("served 0 decisions in 0 calls of the policy\n")


@pytest.mark.slow
def test_a_policy_on_ray_serve_answers_who_has_the_token_as_the_policy_would_and_ends(tmp_path: Path) -> None:
    pytest.importorskip("grpc_reflection")
    policy = flow_policy()
    policy.save(tmp_path / "policy")
    (tmp_path / "token").write_text(TOKEN)
    (tmp_path / "token").chmod(0o600)
    port = free_port()
    words = ("--cluster", "--token_file", str(tmp_path / "token"), "--port", str(port))
    process = start("serve", str(tmp_path / "policy"), *words, cwd=tmp_path)
    url = f"http://127.0.0.1:{port}"
    try:
        wait_for(url, process)
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


def wait_for(url: str, process: Process) -> None:
    deadline = time.monotonic() + 600
    while not healthy(url):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline, "it never answered"
        time.sleep(0.5)


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
