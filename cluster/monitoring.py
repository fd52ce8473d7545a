"""Prometheus and Grafana beside a head on this machine: the files that they are started with, and how.

Both listen on 127.0.0.1 alone. What Prometheus has stored stays in the profile's state folder when the cluster goes.
"""

from __future__ import annotations

import json
import shlex
import shutil
from dataclasses import dataclass
from pathlib import Path

from understudy.files import storage_errors, write_atomic

HOST = "127.0.0.1"
SHIPPED = Path(__file__).parent.parent / "dashboards"
DISCOVERY = "prom_metrics_service_discovery.json"
"""What Ray writes into its head's folder: where the agents of its nodes are."""
KEPT = ("--storage.tsdb.retention.time=30d", "--storage.tsdb.retention.size=2GB")
GRAFANA = """\
[server]
http_addr = {host}
http_port = {port}
[paths]
data = {data}
logs = {data}
plugins = {data}/plugins
provisioning = {provisioning}
[auth]
disable_login_form = true
[auth.anonymous]
enabled = true
org_role = Viewer
[security]
disable_initial_admin_creation = true
allow_embedding = true
[analytics]
reporting_enabled = false
check_for_updates = false
check_for_plugin_updates = false
[news]
news_feed_enabled = false
"""
"""Nobody logs in, everyone on this machine may look; Ray's own pages may show its panels; nothing is sent elsewhere."""


@dataclass(frozen=True)
class Monitor:
    """A program beside the head."""

    name: str
    command: list[str]
    port: int
    program: str | None
    """Where it is installed; None where it is not."""
    ready: str

    @property
    def address(self) -> str:
        """Its page."""
        return f"http://{HOST}:{self.port}"

    def missing(self) -> str:
        """Return what to tell a user who has not got it."""
        return f"{self.name}: not installed here; with it: {shlex.join(self.command)}"


def prepare(state: Path, session: Path, ports: tuple[int, int]) -> list[Monitor]:
    """Write what Prometheus and Grafana are started with for a head whose folder is `session`; return the two."""
    return [_prometheus(state, session, ports[0]), _grafana(state, session, *ports)]


def environment(monitors: list[Monitor]) -> dict[str, str]:
    """Return the variables by which Ray's own pages find them."""
    prometheus, grafana = monitors
    return {"RAY_PROMETHEUS_HOST": prometheus.address, "RAY_GRAFANA_HOST": grafana.address}


def _prometheus(state: Path, session: Path, port: int) -> Monitor:
    text = (SHIPPED / "prometheus" / "prometheus.yml").read_text(encoding="utf-8")
    text = text.replace(f"/tmp/ray/{DISCOVERY}", json.dumps(str(session / DISCOVERY)))
    text = text.replace("[rules.yml]", f"[{json.dumps(str(SHIPPED / 'prometheus' / 'rules.yml'))}]")
    file = state / "prometheus.yml"
    _write(file, text)
    program = shutil.which("prometheus")
    command = [program or "prometheus", f"--config.file={file}", f"--storage.tsdb.path={state / 'prometheus'}"]
    return Monitor("Prometheus", [*command, *KEPT, f"--web.listen-address={HOST}:{port}"], port, program, "/-/ready")


def _grafana(state: Path, session: Path, prometheus: int, port: int) -> Monitor:
    folder = state / "grafana"
    source = {"name": "Prometheus", "type": "prometheus", "access": "proxy", "isDefault": True}
    _write_json(
        folder / "provisioning" / "datasources" / "prometheus.yml",
        {"apiVersion": 1, "datasources": [{**source, "url": f"http://{HOST}:{prometheus}"}]},
    )
    theirs = session / "session_latest" / "metrics" / "grafana" / "dashboards"
    boards = {"understudy": SHIPPED / "grafana", "Ray": theirs}
    _write_json(
        folder / "provisioning" / "dashboards" / "understudy.yml",
        {
            "apiVersion": 1,
            "providers": [
                {"name": name, "folder": name, "type": "file", "options": {"path": str(path)}}
                for name, path in boards.items()
            ],
        },
    )
    file, provisioning = folder / "grafana.ini", folder / "provisioning"
    _write(file, GRAFANA.format(host=HOST, port=port, data=folder / "data", provisioning=provisioning))
    program = shutil.which("grafana") or shutil.which("grafana-server")
    words = [program or "grafana", *([] if program and program.endswith("-server") else ["server"])]
    command = [*words, f"--homepath={_home_of_grafana(program)}", f"--config={file}"]
    return Monitor("Grafana", command, port, program, "/api/health")


def _home_of_grafana(program: str | None) -> Path:
    """Return the folder of Grafana's own files: two above its program where it was unpacked, else the packages'."""
    unpacked = Path(program).resolve().parent.parent if program else Path()
    return unpacked if (unpacked / "public").is_dir() else Path("/usr/share/grafana")


def _write(path: Path, text: str) -> None:
    with storage_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(path, lambda file: file.write(text.encode()))


def _write_json(path: Path, data: dict[str, object]) -> None:
    """Write what Grafana reads as YAML, which JSON is."""
    _write(path, json.dumps(data, indent=1) + "\n")
