"""The episodes of a run, or of a sweep's confirmation: failures first, a grid of seeds and start states, videos."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from starlette.requests import Request
from starlette.responses import HTMLResponse, Response

from understudy.dashboards.pages.home import whole_number
from understudy.dashboards.places import Missing, address, kind_of
from understudy.dashboards.reading.episodes import Evaluation, chosen, evaluations, grid
from understudy.dashboards.reading.runs import read_run, whole
from understudy.dashboards.rendering import render
from understudy.dashboards.site import Site
from understudy.runs.episodes import values_of

ROWS = 50
SHOWN = ("all", "failures", "successes", "longest", "shortest")


def show(request: Request, site: Site) -> Response:
    """Return the whole page."""
    return HTMLResponse(render("episodes.html", **_values(request, site)))


def rows(request: Request, site: Site) -> Response:
    """Return what changes with another choice."""
    return HTMLResponse(render("episodes_body.html", **_values(request, site)))


def _values(request: Request, site: Site) -> dict[str, Any]:
    folder = site.root.inside(request.path_params["path"])
    if not folder.is_dir():
        raise Missing(f"{request.path_params['path']}: no run or sweep")
    path, query = site.root.relative(folder), request.query_params
    found = evaluations(folder)
    best = site.files.json(folder / "best.json").data.get("trial")
    first = next((item for item in found if best is not None and item.trial == best), found[0] if found else None)
    evaluation = next((item for item in found if item.key == query.get("of")), first)
    seed = query.get("seed", "")
    show_ = query.get("show", "all") if query.get("show") in SHOWN else "all"
    listed: list[dict[str, Any]] = []
    if evaluation is not None:
        every = evaluation.rows.to_pylist()
        listed = chosen(every, evaluation.column, show_, int(seed) if seed.isdecimal() else None)
    last = max(0, (len(listed) - 1) // ROWS)
    page = min(whole_number(query.get("page", "0")), last)
    clips = _clips(site, folder, evaluation)
    kind = kind_of(folder) or "run"
    return {
        "title": f"episodes of {folder.name}", "path": path, "kind": kind, "back": address(kind, path),
        "evaluations": found, "evaluation": evaluation,
        "seeds": values_of(evaluation.rows, "seed") if evaluation else [],
        "seed": seed, "show": show_, "shows": SHOWN, "found": len(listed), "page": page, "last": last,
        "rows": listed[page * ROWS : (page + 1) * ROWS], "clips": clips,
        "data": {"grid": grid(evaluation.rows, evaluation.column) if evaluation else None},
    }  # fmt: skip


def _clips(site: Site, folder: Path, evaluation: Evaluation | None) -> dict[tuple[int, int], str]:
    """Return where in the run's video each filmed episode is, by seed and number: an address with a time in it."""
    video = folder / "video.mp4"
    if evaluation is None or not video.is_file():
        return {}
    keys = read_run(site.files, folder).keys
    rate = max(1, 30 // max(1, whole(keys.get("video_frame_skip")) or 3))
    where, begin, found = address("file", site.root.relative(video)), 0, dict[tuple[int, int], str]()
    filmed = [row for row in evaluation.rows.to_pylist() if row["last_frame"] is not None]
    for row in sorted(filmed, key=lambda row: row["last_frame"]):
        found[row["seed"], row["episode"]] = f"{where}#t={begin / rate:.2f},{(row['last_frame'] + 1) / rate:.2f}"
        begin = row["last_frame"] + 1
    return found
