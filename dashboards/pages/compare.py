"""Two to six runs, trials or sweeps: paired differences, seeds and start states as a grid, videos at one clock."""

from __future__ import annotations

import itertools
import os
from pathlib import Path
from typing import Any

from starlette.requests import Request
from starlette.responses import HTMLResponse, Response

from understudy.dashboards.places import address
from understudy.dashboards.reading.clips import clips_of, film_command
from understudy.dashboards.reading.comparing import (
    Side,
    best_of,
    column_of,
    common_states,
    differences,
    grids,
    side_of,
    summaries,
)
from understudy.dashboards.reading.runs import evaluation_curve, read_run, shown_keys
from understudy.dashboards.rendering import render
from understudy.dashboards.site import Site
from understudy.errors import UserError

FEWEST, MOST = 2, 6
WHERE = ("save_dir", "data_dir", "tracking_uri", "project", "run_group", "cpus", "gpus", "device", "launcher")


def show(request: Request, site: Site) -> Response:
    """Return the page; an error in words for fewer than two, or more than six."""
    asked = list(dict.fromkeys(request.query_params.getlist("of")))
    if not FEWEST <= len(asked) <= MOST:
        raise UserError(f"two to six runs, trials or sweeps are compared; {len(asked)} were ticked")
    folders = [site.root.inside(path) for path in asked]
    names = short_names([site.root.relative(folder) for folder in folders])
    sides = [side_of(site.files, folder, name) for folder, name in zip(folders, names, strict=True)]
    states, column = common_states(sides), column_of(sides)
    rows = summaries(sides, states, column)
    best = best_of(rows, column)
    for place, row in enumerate(rows):
        row["best"] = place == best
    curves = {side.name: evaluation_curve(site.files, read_run(site.files, side.path)) for side in sides}
    return HTMLResponse(
        render(
            "compare.html",
            title="comparison",
            sides=[
                {"side": side, "href": address(side.kind, site.root.relative(side.path)), "row": row}
                for side, row in zip(sides, rows, strict=True)
            ],
            states=len(states),
            column=column,
            pairs=differences(sides, states, column),
            keys=differing(sides),
            together=_together(site, sides, request.query_params.get("state", "")),
            asked=asked,
            film=_film_command(site, sides, states),
            problem=_problem(sides, states),
            data={
                "objective": column, "rate": column == "success", "candidates": rows,
                "grid": grids(sides, states, column) if states else None,
                "overlay": {name: curve for name, curve in curves.items() if curve["step"]},
            },
        )
    )  # fmt: skip


def short_names(paths: list[str]) -> list[str]:
    """Return what tells paths from each other: without the folders that all of them begin with."""
    common = os.path.commonpath(paths)
    names = [path[len(common) :].lstrip("/") or path.rpartition("/")[2] for path in paths]
    return [f"trial {int(name)}" if name.isdecimal() else name for name in names]


def differing(sides: list[Side]) -> list[tuple[str, list[str]]]:
    """Return the keys that are not the same for all, with each one's value."""
    shown = [shown_keys(side.keys) for side in sides]
    every = [key for key in dict.fromkeys(key for keys in shown for key in keys) if key not in WHERE]
    values = {key: [keys.get(key, "–") for keys in shown] for key in every}
    return [(key, own) for key, own in values.items() if len(set(own)) > 1]


def _problem(sides: list[Side], states: list[int]) -> str:
    missing = [side.name for side in sides if side.evaluation is None]
    if missing:
        return f"no episodes are recorded of {', '.join(missing)}"
    steps = {side.evaluation.step for side in sides if side.evaluation and side.kind == "run"}
    environments = {str(side.keys.get("env_name")) for side in sides}
    if not states:
        return "they have no start state in common, so they cannot be paired: evaluate them with the same eval_seed"
    if len(environments) > 1:
        return f"of different environments: {', '.join(sorted(environments))}"
    return f"evaluated after different numbers of steps: {', '.join(map(str, sorted(steps)))}" if len(steps) > 1 else ""


def _film_command(site: Site, sides: list[Side], states: list[int]) -> str:
    """Return what films an episode of each side from one start state, the first where not all seeds did alike."""
    rows = {side.name: side.evaluation.rows.to_pylist() for side in sides if side.evaluation}
    outcomes: dict[int, set[Any]] = {state: set() for state in states}
    for row in itertools.chain.from_iterable(rows.values()):
        outcomes.get(row["reset_seed"], set()).add(row["success"])
    unlike = [state for state, found in outcomes.items() if len(found) > 1]
    commands: list[str] = []
    for side in sides:
        if side.evaluation is None:
            continue
        own = [row for row in rows[side.name] if row["reset_seed"] in (unlike or states)[:1]]
        commands.append(film_command(site.files, side.path, side.evaluation, own[:1]))
    return "\n".join(filter(None, commands))


def _together(site: Site, sides: list[Side], asked: str) -> dict[str, Any] | None:
    """Return rollouts of all from one start state, and from which others there are some; None where none is filmed.

    Of sides without a filmed episode their video of some episodes is shown, if they have one.
    """
    filmed = [clips_of(side.path, side.evaluation) if side.evaluation else {} for side in sides]
    counts: dict[int, int] = {}
    for state in itertools.chain.from_iterable({state for _, state in clips} for clips in filmed):
        counts[state] = counts.get(state, 0) + 1
    states = sorted(counts, key=lambda state: (-counts[state], state))
    if not states:
        videos = _videos(site, sides)
        return {"videos": videos, "states": [], "state": None} if videos else None
    state = int(asked) if asked.isdecimal() and int(asked) in counts else states[0]
    videos: list[dict[str, Any]] = []
    for side, clips in zip(sides, filmed, strict=True):
        clip = next((clips[key] for key in sorted(clips) if key[1] == state), None)
        if clip is not None:
            named = f"{side.name}, seed {clip.seed}"
            videos.append({"name": named, "href": address("file", site.root.relative(clip.file)), "clip": clip})
    return {"videos": videos, "states": [(own, counts[own]) for own in states], "state": state}


def _videos(site: Site, sides: list[Side]) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    for side in sides:
        places: list[Path] = [side.path / "video.mp4", side.path / "best" / "video.mp4"]
        video = next((place for place in places if place.is_file()), None)
        if video is not None:
            found.append({"name": side.name, "href": address("file", site.root.relative(video)), "clip": None})
    return found
