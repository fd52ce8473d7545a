"""Which code made a run, and on what: its commit, versions of packages, the machine. run.json keeps it."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import socket
from collections.abc import Mapping
from functools import cache
from typing import Any

from understudy import __version__
from understudy.tracking.facts import git_tags

PACKAGES = ("torch", "numpy", "ray", "optuna", "mlflow", "gymnasium", "mujoco")
"""Packages whose versions may change a run's numbers, or how it is driven."""
ORIGIN, EARLIER = "origin", "earlier_commits"
"""Keys of run.json."""


def origin() -> dict[str, Any]:
    """Return the working folder's commit (and whether files differ from it), versions, host, system."""
    tags = git_tags(os.getcwd())
    return {
        "commit": tags.get("git_commit", ""),
        "dirty": tags.get("git_dirty") == "true",
        "host": socket.gethostname(),
        "system": f"{platform.system()} {platform.machine()}, {os.cpu_count()} CPUs",
        "python": platform.python_version(),
        "understudy": __version__,
        **_versions(),
    }


def origin_changes(state: Mapping[str, Any]) -> dict[str, Any]:
    """Return what run.json is told as a run begins or goes on: where it does so, and the commits it was at before."""
    now = origin()
    held: Mapping[str, Any] = state.get(ORIGIN) or {}
    before = str(held.get("commit") or "")
    earlier: list[str] = [*(state.get(EARLIER) or [])]
    if before not in ("", now["commit"], *earlier):
        earlier.append(before)
    return {ORIGIN: now, **({EARLIER: earlier} if earlier else {})}


@cache
def _versions() -> dict[str, str]:
    """Return the versions of the packages that are installed."""
    found: dict[str, str] = {}
    for name in PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found
