"""What `understudy doctor` says of programs that listen here."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from understudy.listening import described, interface_of, listening, program_of

LISTEN = """
import socket, sys
server = socket.create_server((sys.argv[1], 0))
print(server.getsockname()[1], flush=True)
sys.stdin.read()
"""


@pytest.mark.parametrize(
    ("command", "name"),
    [
        ("/usr/bin/prometheus --config.file=x", "Prometheus"),
        ("grafana server", "Grafana"),
        ("/venv/bin/python /venv/bin/mlflow server", "MLflow"),
        ("/venv/bin/python -m uvicorn --host 127.0.0.1 mlflow.server.fastapi_app:app", "MLflow"),
        ("/venv/bin/python -u -m understudy dashboard", "understudy"),
        ("/venv/bin/python /venv/bin/understudy serve RUN", "understudy"),
        ("/venv/lib/ray/core/src/ray/gcs/gcs_server --log_dir=x", "Ray"),
        ("/venv/bin/python /venv/lib/python3.11/site-packages/ray/dashboard/agent.py --node", "Ray"),
        ("ray::IDLE", "Ray"),
        ("/venv/bin/python -m pytest tests/mlflow", ""),
        ("vim /home/me/understudy/notes", ""),
        ("", ""),
    ],
)
def test_a_program_is_known_by_its_command(command: str, name: str) -> None:
    assert program_of(command.split()) == name


@pytest.mark.parametrize(("host", "shown"), [("127.0.0.1", "127.0.0.1"), ("", "")])
def test_what_listens_is_found_with_who_can_reach_it(host: str, shown: str, tmp_path: Path) -> None:
    script = tmp_path / "prometheus"
    script.write_text(LISTEN)
    with subprocess.Popen(
        [sys.executable, str(script), host], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as running:
        assert running.stdout is not None
        port = int(running.stdout.readline())
        assert port in listening()["Prometheus", shown]
        running.communicate("")


@pytest.mark.parametrize(
    ("address", "interface"),
    [("127.0.0.1", "127.0.0.1"), ("::ffff:127.0.0.1", "127.0.0.1"), ("::1", "::1"), ("::", ""), ("::ffff:0.0.0.0", "")],
)
def test_an_address_is_told_alike_in_both_protocols(address: str, interface: str) -> None:
    assert interface_of(address) == interface


def test_what_everyone_can_reach_is_said_first_and_many_ports_are_counted() -> None:
    found = {("MLflow", "127.0.0.1"): {5000}, ("Ray", "127.0.0.1"): set(range(7)), ("Ray", ""): {8080, 44217}}
    assert (
        described(found) == "Ray on EVERY interface: 8080, 44217; MLflow on 127.0.0.1: 5000; Ray on 127.0.0.1: 7 ports"
    )
    assert described({}).startswith("nothing of ")
