"""The episodes of a run, or of a sweep's confirmation: failures first, a grid of seeds and start states, videos."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from starlette.datastructures import QueryParams
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response

from understudy.dashboards.pages.home import whole_number
from understudy.dashboards.places import Missing, address, kind_of
from understudy.dashboards.reading.clips import clips_of, described, film_command, first_filmed, numbers_beside
from understudy.dashboards.reading.episodes import Evaluation, Wanted, chosen, evaluations, grid
from understudy.dashboards.reading.runs import read_run, whole
from understudy.dashboards.rendering import render
from understudy.dashboards.site import Site
from understudy.runs.clips import Clip, read_clips
from understudy.runs.episodes import values_of

ROWS = 50
FILMED = 3
"""Episodes that the command films which is shown first."""
SHOWN = ("all", "failures", "successes", "longest", "shortest")
FILTERS = ("seed", "state", "shortest", "longest")


def show(request: Request, site: Site) -> Response:
    """Return the whole page."""
    return HTMLResponse(render("episodes.html", **_values(request, site)))


def rows(request: Request, site: Site) -> Response:
    """Return what changes with another choice."""
    values = _values(request, site)
    where = f"{address('episodes', values['path'])}?{request.url.query}"
    return HTMLResponse(render("episodes_body.html", **values), headers={"HX-Replace-Url": where})


def beside(request: Request, site: Site) -> Response:
    """Return the numbers beside one video: actions and states at its clock."""
    return JSONResponse(numbers_beside(clip_at(site, request.path_params["path"])))


def clip_at(site: Site, path: str) -> Clip:
    """Return the clip whose video is at a path; Missing where there is none."""
    file = site.root.inside(path)
    found = next((clip for clip in read_clips(file.parent.parent) if clip.file == file), None)
    if found is None:
        raise Missing(f"{path}: no filmed episode")
    return found


def _values(request: Request, site: Site) -> dict[str, Any]:
    folder = site.root.inside(request.path_params["path"])
    if not folder.is_dir():
        raise Missing(f"{request.path_params['path']}: no run or sweep")
    path, query = site.root.relative(folder), request.query_params
    found = evaluations(folder)
    evaluation = _evaluation(site, folder, found, query.get("of"))
    kind = kind_of(folder) or "run"
    values = {
        "title": f"episodes of {folder.name}", "path": path, "kind": kind, "back": address(kind, path),
        "evaluations": found, "evaluation": evaluation, "shows": SHOWN,
        "wanted": {name: query.get(name, "") for name in FILTERS} | {"show": query.get("show", "all")},
    }  # fmt: skip
    return values | (_listed(site, folder, evaluation, query) if evaluation else {"seeds": [], "data": {}})


def _evaluation(site: Site, folder: Path, found: list[Evaluation], key: str | None) -> Evaluation | None:
    """Return the evaluation that is asked for; else the chosen trial's, else the newest that was filmed, else that."""
    best = site.files.json(folder / "best.json").data.get("trial")
    asked = next((item for item in found if item.key == key), None)
    if asked or not found:
        return asked
    of_best = [item for item in found if best is not None and item.trial == best] or found
    return first_filmed(folder, of_best) or of_best[0]


def _listed(site: Site, folder: Path, evaluation: Evaluation, query: QueryParams) -> dict[str, Any]:
    """Return the episodes that are listed, each with its video or the command that films it."""
    path, every = site.root.relative(folder), evaluation.rows.to_pylist()
    limits = {name: int(query[name]) for name in FILTERS if query.get(name, "").isdecimal()}
    wanted = Wanted(query.get("show", "all"), **limits)
    listed = chosen(every, evaluation.column, wanted)
    last = max(0, (len(listed) - 1) // ROWS)
    page = min(whole_number(query.get("page", "0")), last)
    rows = listed[page * ROWS : (page + 1) * ROWS]
    filmed, films = clips_of(folder, evaluation), _parts_of_video(site, folder, evaluation)
    given = {name: query[name] for name in ("of", "show", *FILTERS) if query.get(name)}
    for row in rows:
        key = (row["seed"], row["reset_seed"])
        if key in filmed:
            where = urlencode({**given, "page": page, "clip": f"{key[0]}-{key[1]}"})
            row["watch"] = f"{address('episodes', path)}?{where}#player"
        row["part"] = films.get((row["seed"], row["episode"]), "")
        row["command"] = "" if key in filmed else film_command(site.files, folder, evaluation, [row])
    waiting = [row for row in listed if (row["seed"], row["reset_seed"]) not in filmed][:FILMED]
    player = _player(site, filmed, listed, query.get("clip", ""))
    return {
        "seeds": values_of(evaluation.rows, "seed"), "found": len(listed), "page": page, "last": last, "rows": rows,
        "stem": f"{address('episodes', path)}?{urlencode(given)}&page=", "player": player,
        "part": next((row["part"] for row in rows if row["part"]), ""), "filmed": len(filmed),
        "command": film_command(site.files, folder, evaluation, waiting),
        "data": {
            "grid": grid(evaluation.rows, evaluation.column),
            "cells": f"{address('episodes', path)}?{urlencode({'of': evaluation.key})}",
            "filmed": [list(key) for key in filmed],
        },
    }  # fmt: skip


def _player(
    site: Site, filmed: dict[tuple[int, int], Clip], listed: list[dict[str, Any]], asked: str
) -> dict[str, Any] | None:
    """Return the clip that is played: the one asked for, else the first of the list that was filmed."""
    keys = [(row["seed"], row["reset_seed"]) for row in listed]
    named = {f"{seed}-{state}": (seed, state) for seed, state in filmed}
    key = named.get(asked) or next((key for key in keys if key in filmed), None)
    return None if key is None else shown_clip(site, filmed[key], listed, asked in named)


def shown_clip(site: Site, clip: Clip, rows: list[dict[str, Any]], asked: bool = False) -> dict[str, Any]:
    """Return what the player's template names of a clip."""
    where = site.root.relative(clip.file)
    return {
        "clip": clip, "video": address("file", where), "beside": address("data/clip", where), "asked": asked,
        "said": described(clip, rows), "path": where,
    }  # fmt: skip


def _parts_of_video(site: Site, folder: Path, evaluation: Evaluation) -> dict[tuple[int, int], str]:
    """Return where in the run's one video each filmed episode is, by seed and number: an address with a time in it."""
    video = folder / "video.mp4"
    if not video.is_file():
        return {}
    keys = read_run(site.files, folder).keys
    rate = max(1, 30 // max(1, whole(keys.get("video_frame_skip")) or 3))
    where, begin, found = address("file", site.root.relative(video)), 0, dict[tuple[int, int], str]()
    filmed = [row for row in evaluation.rows.to_pylist() if row["last_frame"] is not None]
    for row in sorted(filmed, key=lambda row: row["last_frame"]):
        found[row["seed"], row["episode"]] = f"{where}#t={begin / rate:.2f},{(row['last_frame'] + 1) / rate:.2f}"
        begin = row["last_frame"] + 1
    return found
