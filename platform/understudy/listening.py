"""Ports on which Ray, Prometheus, Grafana, MLflow and understudy's own servers listen on this machine.

Only this user's processes can be inspected; those of other users are not listed.
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
"""Names of programs, scripts and modules, and the product that each belongs to."""
RAYS_OWN = ("ray::", "ray-dashboard")
"""How the names begin that Ray gives to its processes."""
SHOWN = 6
"""Most ports that are listed one by one; more are counted."""
EVERYWHERE = ("0.0.0.0", "::")


def program_of(command: Sequence[str]) -> str:
    """Return the product that a command line belongs to; "" where it is none of PROGRAMS."""
    words = [*command[:2], *(after for word, after in pairwise(command) if word == "-m")]
    for word in words:
        if Path(word).name in PROGRAMS:
            return PROGRAMS[Path(word).name]
    if any(word.startswith(RAYS_OWN) for word in words) or any("/ray/" in word for word in command[:4]):
        return "Ray"
    return "MLflow" if any(word.startswith("mlflow.server") for word in command) else ""


def interface_of(address: str) -> str:
    """Return the address of a socket, IPv4's without what IPv6 writes before it; "" for every interface."""
    address = address.removeprefix("::ffff:")
    return "" if address in EVERYWHERE else address


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
                found[name, interface_of(host)].add(port)
    return dict(found)


def described(found: Mapping[tuple[str, str], set[int]]) -> str:
    """Return the listening ports in words, those on every interface first."""
    parts: list[str] = []
    for (name, host), ports in sorted(found.items(), key=lambda item: (item[0][1] != "", item[0])):
        listed = ", ".join(map(str, sorted(ports))) if len(ports) <= SHOWN else f"{len(ports)} ports"
        parts.append(f"{name} on {host or 'EVERY interface'}: {listed}")
    return "; ".join(parts) or "nothing of understudy, Ray, MLflow, Prometheus or Grafana"
