"""What trains now, by the folders: sweeps, their trials, and runs whose run.json says that they are running."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from understudy.dashboards.places import Root, address
from understudy.dashboards.reading.files import Files
from understudy.dashboards.reading.runs import last_metrics, quiet_for, read_run, speed_of, step_of, whole
from understudy.runs.origin import ORIGIN
from understudy.runs.results import objective_name
from understudy.sweeping.format import objective_text

LOOKED_AT = 200
"""Sweeps and runs, the newest first: what is running was written lately."""


@dataclass(frozen=True)
class Running:
    """A sweep or a run under way."""

    kind: str
    """sweep or run; a sweep's trials are runs."""
    path: str
    """Its folder, relative to the root."""
    title: str
    about: str
    href: str
    pid: int
    host: str
    share: float = 0.0
    """How much of its steps is done."""
    speed: float = 0.0
    """Steps a second."""
    outcome: str = ""
    quiet: float = 0.0
    tracking_url: str = ""
    sweep: str = ""
    """Its sweep's folder, as `path` is; of a trial only."""

    @property
    def sweep_title(self) -> str:
        """Its sweep's name."""
        return self.sweep.rpartition("/")[2]

    @property
    def sweep_href(self) -> str:
        """Its sweep's page."""
        return address("sweep", self.sweep)


def running(root: Root, files: Files) -> list[Running]:
    """Return what is running below a root, the newest first, trials after their sweep."""
    found: list[Running] = []
    for entry in root.entries()[:LOOKED_AT]:
        folder = root.path / entry.path
        if entry.kind == "comparison" or not _is_running(files, folder):
            continue
        found += _sweep(root, files, folder) if entry.kind == "sweep" else [_run(root, files, folder)]
    return found


def _is_running(files: Files, folder: Path) -> bool:
    return files.json(folder / "run.json").data.get("status") == "running"


def _sweep(root: Root, files: Files, folder: Path) -> list[Running]:
    state, relative = files.json(folder / "run.json").data, root.relative(folder)
    record = files.json(folder / "sweep.json").data.get("run")
    keys: dict[str, Any] = record if isinstance(record, dict) else {}
    about = f"{keys.get('algo', '')} on {keys.get('env_name', '')}"
    sweep = Running(
        "sweep", relative, folder.name, about, address("sweep", relative), whole(state.get("pid")), _host(state)
    )
    try:
        trials = sorted(path for path in (folder / "trials").iterdir() if _is_running(files, path))
    except OSError:
        trials = []
    return [sweep, *(_run(root, files, path, sweep) for path in trials)]


def _run(root: Root, files: Files, folder: Path, sweep: Running | None = None) -> Running:
    run, relative = read_run(files, folder), root.relative(folder)
    metrics, step = last_metrics(files, run), step_of(files, run)
    name = objective_name(metrics)
    return Running(
        "run",
        relative,
        f"trial {folder.name}" if sweep else folder.name,
        f"{run.keys.get('algo', '')} on {run.keys.get('env_name', '')}",
        address("run", relative),
        whole(run.state.get("pid")),
        _host(run.state),
        min(1.0, step / run.total) if run.total else 0.0,
        speed_of(files, run),
        f"{name.replace('_', ' ')} {objective_text(metrics, name)}" if name else "",
        quiet_for(run),
        run.tracking_url,
        sweep.path if sweep else "",
    )


def _host(state: Any) -> str:
    held = state.get(ORIGIN)
    return str(held.get("host", "")) if isinstance(held, dict) else ""
