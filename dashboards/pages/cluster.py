"""A cluster's page: its nodes and what trains on them, what waits, its jobs. Without one: how to start one."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

from starlette.requests import Request
from starlette.responses import HTMLResponse, Response

from understudy.dashboards.places import Root, address, kind_of
from understudy.dashboards.reading.clusters import ClusterView, JobRow, view_of
from understudy.dashboards.reading.heads import Answers, pages_beside
from understudy.dashboards.reading.running import running
from understudy.dashboards.rendering import render
from understudy.dashboards.site import Site

FIRST_SECONDS, LATER_SECONDS = 0.5, 6.0
"""How long a page waits for the head: the first is painted without, the ones after it are asked for beside the page."""
LIVE_SECONDS, ASKING_SECONDS = 5.0, 0.5
MOST_JOBS, MOST_SLOTS = 50, 64


def show(request: Request, site: Site) -> Response:
    """Return the whole page, within FIRST_SECONDS of the head's time."""
    return HTMLResponse(render("cluster.html", title="cluster", **values_of(request, site, FIRST_SECONDS)))


def live(request: Request, site: Site) -> Response:
    """Return the part that changes."""
    return HTMLResponse(render("cluster_body.html", **values_of(request, site, LATER_SECONDS)))


def values_of(request: Request, site: Site, seconds: float) -> dict[str, Any]:
    """Return what the page's templates name. A cluster is chosen by its name, of those that are known."""
    names = site.heads.names()
    wanted = request.query_params.get("of", "")
    name = wanted if wanted in names else (names[0] if names else "")
    answers = site.heads.read(name, seconds) if name else Answers("")
    runs = running(site.root, site.files)
    view = view_of(answers.said, runs) if answers.said else ClusterView()
    here = [*(work.run for node in view.nodes for work in node.work), *(job.run for job in view.jobs)]
    placed = {run.path for run in here if run} | {run.sweep for run in here if run}
    return {
        "names": {known: _label(known) for known in names},
        "of": name,
        "label": _label(name),
        "answers": answers,
        "up": bool(answers.said),
        "view": view,
        "jobs": [(job, _page_of(site.root, job)) for job in view.jobs[:MOST_JOBS]],
        "more_jobs": max(0, len(view.jobs) - MOST_JOBS),
        "elsewhere": [run for run in runs if run.path not in placed],
        "training": [run for run in runs if run.kind == "run"],
        "beside": pages_beside(name) if name else {},
        "seconds": ASKING_SECONDS if answers.asking else LIVE_SECONDS,
        "most_slots": MOST_SLOTS,
    }


def _label(name: str) -> str:
    """Return what a profile is called that was given by its name, its file or its head's address."""
    return re.sub(r"^https?://", "", name) if "://" in name else Path(name).stem


def _page_of(root: Root, job: JobRow) -> tuple[str, str]:
    """Return the page of what a job makes, and its folder's name; ("", name) where it is not below the root."""
    if job.run is not None:
        return job.run.href, job.run.title
    if not job.folder:
        return "", ""
    folder, name = Path(os.path.realpath(job.folder)), Path(job.folder).name
    kind = kind_of(folder) if folder.is_relative_to(root.path) else ""
    return (address(kind, root.relative(folder)) if kind else ""), name
