"""What can be reached here by the network: ports of Ray, Prometheus, Grafana, MLflow and of understudy's own servers.

Only processes of this user can be seen into; those of others are not named.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path

import psutil

PROGRAMS = {
    "prometheus": "Prometheus",
    "grafana": "Grafana",
    "grafana-server": "Grafana",
    "mlflow": "MLflow",
    "understudy": "understudy",
    "raylet": "Ray",
    "gcs_server": "Ray",
}
"""Programs, scripts and modules, and what they belong to."""
RAYS_OWN = ("ray::", "ray-dashboard")
"""What processes begin with that Ray has named."""
SHOWN = 6
"""Ports that are listed; of more the number is said."""
EVERYWHERE = ("0.0.0.0", "::")


def program_of(command: Sequence[str]) -> str:
    """Return what a command line belongs to; "" for none of PROGRAMS."""
    words = [*command[:2], *(after for word, after in pairwise(command) if word == "-m")]
    for word in words:
        if Path(word).name in PROGRAMS:
            return PROGRAMS[Path(word).name]
    if any(word.startswith(RAYS_OWN) for word in words) or any("/ray/" in word for word in command[:4]):
        return "Ray"
    return "MLflow" if any(word.startswith("mlflow.server") for word in command) else ""


def listening() -> dict[tuple[str, str], set[int]]:
    """Return the ports that are listened on, by program and address; "" is every interface."""
    found: dict[tuple[str, str], set[int]] = defaultdict(set)
    for process in psutil.process_iter():
        try:
            name = program_of(process.cmdline())
            sockets = process.net_connections("tcp") if name else []
        except psutil.Error:  # it is gone, or another user's
            continue
        for socket in sockets:
            if socket.status == psutil.CONN_LISTEN:
                host, port = socket.laddr
                found[name, "" if host in EVERYWHERE else host].add(port)
    return dict(found)


def said(found: Mapping[tuple[str, str], set[int]]) -> str:
    """Return in words what listens, what others can reach first."""
    parts: list[str] = []
    for (name, host), ports in sorted(found.items(), key=lambda item: (item[0][1] != "", item[0])):
        listed = ", ".join(map(str, sorted(ports))) if len(ports) <= SHOWN else f"{len(ports)} ports"
        parts.append(f"{name} on {host or 'EVERY interface'}: {listed}")
    return "; ".join(parts) or "nothing of understudy, Ray, MLflow, Prometheus or Grafana"
