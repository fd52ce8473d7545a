"""A sweep's page, and the part of it that changes while it runs."""

from __future__ import annotations

import shlex
import time
from typing import Any

from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response

from understudy.dashboards.pages.sweep_data import axes_of, data_of
from understudy.dashboards.pages.verdict import verdict_of
from understudy.dashboards.places import Missing, Root, address
from understudy.dashboards.reading.files import Files
from understudy.dashboards.reading.runs import log_lines, shown_keys
from understudy.dashboards.reading.sweeps import SweepView, TrialView, read_sweep, version_of
from understudy.dashboards.rendering import render
from understudy.dashboards.site import Site
from understudy.secrecy import without_secrets
from understudy.tracking.addresses import OFF, sqlite_address

LIVE_SECONDS, LONGEST_SECONDS = 3.0, 60.0
"""How often a page asks whether anything has changed, at most and at least."""
MOST_ROWS = 100
"""Trials in the table, unless all are asked for."""
LOGS, LOG_LINES = 20, 8
"""Failed trials whose logs stand in the page, and how much of each."""
SHARE = 1 / 150
"""How much of a CPU asking may take."""


def show(request: Request, site: Site) -> Response:
    """Return the whole page."""
    sweep, path = _sweep(request, site)
    return HTMLResponse(
        render("sweep.html", **values_of(site.files, sweep, path, site.root, every="all" in request.query_params))
    )


def live(request: Request, site: Site) -> Response:
    """Return the part that changes; nothing (204) where nothing has changed since the version that is asked with."""
    sweep, path = _sweep(request, site)
    if request.query_params.get("version") == version_of(site.files, sweep):
        return Response(status_code=204)
    return HTMLResponse(
        render("sweep_body.html", **values_of(site.files, sweep, path, site.root, every="all" in request.query_params))
    )


def data(request: Request, site: Site) -> Response:
    """Return the numbers with the curves of all trials."""
    sweep, _ = _sweep(request, site)
    return JSONResponse(data_of(site.files, sweep, curves=len(sweep.trials)))


def values_of(
    files: Files, sweep: SweepView, path: str, root: Root | None = None, curves: int | None = None, every: bool = True
) -> dict[str, Any]:
    """Return what the page's templates name; without a root nothing is linked to, as in a report.

    Not `every` trial, but the best MOST_ROWS are rows of the table.
    """
    numbers = data_of(files, sweep) if curves is None else data_of(files, sweep, curves)
    axes = [axis["key"] for axis in axes_of(sweep)]
    name = str(sweep.keys.get("env_name", "")) or sweep.path.name
    return {
        "title": f"{name}: {sweep.path.name}",
        "sweep": sweep,
        "path": path,
        "linked": root is not None,
        "version": version_of(files, sweep),
        "seconds": pace(files, sweep) if sweep.running else LIVE_SECONDS,
        "verdict": verdict_of(sweep),
        "data": numbers,
        "axes": axes,
        "rows": [_row(sweep, trial, axes, root) for trial in (sweep.ranked if every else sweep.ranked[:MOST_ROWS])],
        "ended_early": [trial for trial in sweep.trials if trial.status in ("failed", "stopped", "interrupted")],
        "why": _why(sweep),
        "logs": _logs(sweep),
        "keys": shown_keys(sweep.keys),
        "commands": commands_of(sweep),
        "href": lambda trial: _href(trial, root),
    }


def _sweep(request: Request, site: Site) -> tuple[SweepView, str]:
    folder = site.root.inside(request.path_params["path"])
    if not (folder / "sweep.json").is_file():
        raise Missing(f"{request.path_params['path']}: no sweep")
    return read_sweep(site.files, folder), site.root.relative(folder)


def pace(files: Files, sweep: SweepView) -> float:
    """Return after how many seconds a page asks again: the longer reading takes, the later."""
    began = time.thread_time()
    version_of(files, read_sweep(files, sweep.path))
    return round(min(LONGEST_SECONDS, max(LIVE_SECONDS, (time.thread_time() - began) / SHARE)), 1)


def _row(sweep: SweepView, trial: TrialView, axes: list[str], root: Root | None) -> dict[str, Any]:
    values = {**trial.parameters, **trial.chosen}
    return {
        "trial": trial,
        "href": _href(trial, root),
        "path": root.relative(trial.run.path) if root is not None else "",
        "values": [values.get(key, "") for key in axes],
        "best": sweep.leader is not None and trial.number == sweep.leader.number,
        "share": min(1.0, trial.step / trial.run.total) if trial.run.total else 0.0,
    }


def _href(trial: TrialView, root: Root | None) -> str:
    return address("run", root.relative(trial.run.path)) if root is not None else ""


def _why(sweep: SweepView) -> dict[int, str]:
    """Return why each trial that was not trained to its end was not."""
    name, found = sweep.objective, dict[int, str]()
    for trial in sweep.trials:
        if trial.status == "stopped":
            score = f", at {name} {trial.metrics[name]:.3g}" if name in trial.metrics else ""
            found[trial.number] = f"stopped by ASHA after {trial.step} of {trial.run.total} steps{score}"
        elif trial.status in ("failed", "interrupted"):
            found[trial.number] = trial.error or f"{trial.status} after {trial.step} of {trial.run.total} steps"
    return found


def _logs(sweep: SweepView) -> dict[int, list[str]]:
    """Return the last lines of the logs of the first trials that failed or were interrupted."""
    ended = [trial for trial in sweep.trials if trial.status in ("failed", "interrupted")]
    return {trial.number: log_lines(trial.run, LOG_LINES) for trial in ended[:LOGS]}


def commands_of(sweep: SweepView) -> dict[str, str]:
    """Return the commands that show this sweep in MLflow and in Optuna, by these names, where it is there."""
    found: dict[str, str] = {}
    tracked, folder = (str(sweep.keys.get(key) or "") for key in ("tracking_uri", "save_dir"))
    if tracked != OFF:
        place = ["--tracking_uri", without_secrets(tracked)] if tracked else ["--save_dir", folder] if folder else []
        found["MLflow"] = shlex.join(["understudy", "ui", *place])
    if (study := sweep.path / "study.db").is_file():
        found["Optuna"] = shlex.join(["optuna-dashboard", sqlite_address(study)])
    return found
