"""Ray that cannot be reached or started is one line and exit code 2, in bounded time, with nothing written."""

from __future__ import annotations

import os
import secrets
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.integration.commands import SMALL, free_port, start

from understudy.errors import UserError
from understudy.runs import ray_start

SWEEP = ("sweep", "algo=bc", *SMALL, "training_steps=6", "seeds=[0]", "lr=1e-4,1e-3", "num_trials=2")
SWEEP = (*SWEEP, "tracking_uri=none", "register_as=none", "save_dir=runs")


def refusal(monkeypatch: pytest.MonkeyPatch, **environment: str) -> str:
    """Return the one line that start_ray refuses an environment with."""
    for name in ("RAY_ADDRESS", "RAY_TMPDIR", "TMPDIR"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("ray.is_initialized", lambda: False)
    with pytest.raises(UserError) as refused:
        ray_start.start_ray(cpus=1)
    assert "\n" not in str(refused.value)
    return str(refused.value)


@pytest.mark.parametrize(
    "address", ["foo", "127.0.0.1:", ":6379", "127.0.0.1:99999", "127.0.0.1:0", "http://127.0.0.1:8265", "10.0.0.1"]
)
def test_an_address_of_another_form_is_refused_with_the_form(monkeypatch, address) -> None:
    said = refusal(monkeypatch, RAY_ADDRESS=address)
    assert said.startswith(f"RAY_ADDRESS={address}: must be HOST:PORT")


def test_ray_client_is_refused_with_what_works(monkeypatch) -> None:
    said = refusal(monkeypatch, RAY_ADDRESS="ray://127.0.0.1:10001")
    assert "RAY_ADDRESS=HOST:6379" in said
    assert "understudy submit" in said


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_an_address_where_nothing_listens_is_refused_at_once(monkeypatch, host) -> None:
    port = free_port()
    said = refusal(monkeypatch, RAY_ADDRESS=f"{host}:{port}")
    assert said.startswith(f"no Ray answers at RAY_ADDRESS={host}:{port} (Connection refused)")
    assert "unset RAY_ADDRESS" in said


def test_a_host_that_nobody_knows_is_refused(monkeypatch) -> None:
    assert "no Ray answers at RAY_ADDRESS=no-such-host.invalid:6379" in refusal(
        monkeypatch, RAY_ADDRESS="no-such-host.invalid:6379"
    )


def test_a_listener_that_is_no_ray_is_given_up_on(monkeypatch) -> None:
    monkeypatch.setattr(ray_start, "CONNECT_SECONDS", 4.0)
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
        said = refusal(monkeypatch, RAY_ADDRESS=address)
    assert said.startswith(f"what is at RAY_ADDRESS={address} gave no answer")


@pytest.mark.parametrize(
    ("answer", "address", "parts"),
    [
        ("ConnectionError: Could not find any running Ray instance. ...", "auto", ("no Ray runs on this machine",)),
        (
            "RuntimeError: Version mismatch: The cluster was started with:\n    Ray: 2.9.0\n    Python: 3.11.1",
            "auto",
            ("cannot join the Ray at RAY_ADDRESS=auto", "Version mismatch", "Ray: 2.9.0 Python: 3.11.1"),
        ),
        ("[W] Unauthenticated: RPC error: InvalidAuthToken", "auto", ("refuses our token", "RAY_AUTH_TOKEN_PATH")),
        ("", "auto", ("cannot join the Ray at RAY_ADDRESS=auto: it said nothing",)),
    ],
)
def test_what_ray_says_against_joining_becomes_one_line(monkeypatch, answer, address, parts) -> None:
    monkeypatch.setattr(ray_start, "PROBE", f"import sys; print({answer!r}); sys.exit(1)")
    said = refusal(monkeypatch, RAY_ADDRESS=address)
    assert [part for part in parts if part not in said] == []


def test_a_crash_while_joining_is_one_line_too(monkeypatch) -> None:
    monkeypatch.setattr(
        ray_start, "PROBE", "import os, sys; print('Check failed', file=sys.stderr, flush=True); os.abort()"
    )
    assert refusal(monkeypatch, RAY_ADDRESS="auto").endswith("Check failed")


def test_a_long_tmpdir_gives_way_to_a_short_folder_and_a_long_ray_tmpdir_is_refused(monkeypatch) -> None:
    long = "/tmp/" + "batch_system_job_" * 4
    monkeypatch.delenv("RAY_TMPDIR", raising=False)
    monkeypatch.setenv("TMPDIR", long)
    assert ray_start.temp_folder() == "/tmp/ray"
    monkeypatch.setenv("TMPDIR", "/tmp/short")
    assert ray_start.temp_folder() == "/tmp/short/ray"
    said = refusal(monkeypatch, RAY_TMPDIR=long)
    assert said.startswith(f"RAY_TMPDIR={long} is too long a path for Ray's sockets")


def test_a_folder_that_cannot_be_made_is_one_line(tmp_path) -> None:
    (tmp_path / "file").touch()
    code = (
        "from understudy.errors import UserError\nfrom understudy.runs import ray_start\n"
        "ray_start.SOCKET_BYTES = 0  # pytest's folders are long\n"
        "try:\n    ray_start.start_ray(cpus=1)\nexcept UserError as error:\n    print(error)"
    )
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    done = subprocess.run(  # a process of its own: this one may be connected to a Ray
        [sys.executable, "-c", code],
        env={**environment, "RAY_TMPDIR": str(tmp_path / "file")},
        capture_output=True,
        text=True,
        check=True,
    )
    (said,) = done.stdout.splitlines()
    assert said.startswith("Ray cannot be started on this machine")
    assert "NotADirectoryError" in said


@pytest.mark.slow
def test_a_sweep_is_refused_before_it_has_a_folder(hopper_data, tmp_path) -> None:
    process = start(*SWEEP, cwd=tmp_path, RAY_ADDRESS=f"127.0.0.1:{free_port()}")
    out, err = process.communicate(timeout=600)
    assert (process.returncode, out, len(err.splitlines())) == (2, "", 1), err
    assert "unset RAY_ADDRESS" in err
    assert list(tmp_path.rglob("sweep.json")) == []


@pytest.fixture(scope="module")
def head(tmp_path_factory) -> Iterator[tuple[str, Path]]:
    """Start a head that asks for a token; give its address and the token's file, and end what was started."""
    folder = Path(f"/tmp/understudy-{secrets.token_hex(4)}")
    folder.mkdir()
    token = folder / "token"
    token.write_text(secrets.token_hex(16))
    token.chmod(0o600)
    ports = []
    for _ in range(3):
        with socket.socket() as server:
            server.bind(("", 0))
            ports.append(server.getsockname()[1])
    command = [sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--block", "--num-cpus=1"]
    command += [f"--port={ports[0]}", f"--ray-client-server-port={ports[1]}"]
    command += [f"--dashboard-agent-listen-port={ports[2]}", "--include-dashboard=false", f"--temp-dir={folder}/ray"]
    command += ["--object-store-memory=100000000"]
    environment = {**os.environ, "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(token)}
    with open(folder / "log", "wb") as log:
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=subprocess.STDOUT)
    deadline = time.monotonic() + 600
    try:
        while "--block" not in (said := (folder / "log").read_text()):  # which it names once it is up
            assert process.poll() is None, said
            assert time.monotonic() < deadline, said
            time.sleep(0.5)
        yield f"127.0.0.1:{ports[0]}", token
    finally:
        process.terminate()
        process.wait(timeout=600)
        shutil.rmtree(folder, ignore_errors=True)


@pytest.mark.slow
def test_a_wrong_token_is_refused_and_the_right_one_joins(head, monkeypatch) -> None:
    address, token = head
    for environment in ({}, {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "0123456789abcdef"}):
        said = refusal(monkeypatch, RAY_ADDRESS=address, **environment)
        assert said.startswith(f"the Ray at RAY_ADDRESS={address} refuses our token"), said
    code = "from understudy.runs import ray_start as own; own.start_ray(); print(own.cluster_resources()['CPU'])"
    joined = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "RAY_ADDRESS": address, "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(token)}
        | {"RAY_AUTH_TOKEN": ""},
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert joined.stdout == "1.0\n", joined.stderr


ALONE = """
import os, psutil
from understudy.runs.ray_start import start_ray
import ray
start_ray(cpus=1)
ray.get(ray.remote(lambda: 1).remote())
family = [psutil.Process(), *psutil.Process().children(recursive=True)]
found = [one.laddr.ip for part in family for one in part.net_connections("tcp") if one.status == psutil.CONN_LISTEN]
print(len(found), *sorted(set(found)))
"""


@pytest.mark.slow
def test_a_ray_of_our_own_listens_on_this_machine_only() -> None:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_A")}
    done = subprocess.run([sys.executable, "-c", ALONE], env=environment, capture_output=True, text=True, check=True)
    count, *addresses = done.stdout.split()
    assert int(count) > 3
    assert set(addresses) <= {"127.0.0.1", "::ffff:127.0.0.1"}
