"""Methods x tasks x seeds, as `understudy compare` and matrices of sweeps end: each task's table and its pairs."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from starlette.requests import Request
from starlette.responses import HTMLResponse, Response

from understudy.dashboards.places import Missing, address, kind_of
from understudy.dashboards.reading.sweeps import mapping
from understudy.dashboards.rendering import render
from understudy.dashboards.site import Site
from understudy.matrix.comparison import RECORD, over_lines
from understudy.runs.results import RATES, lower_is_better
from understudy.sweeping.format import number

NUMBERS = ("difference", "low", "high", "p")


def show(request: Request, site: Site) -> Response:
    """Return the page of a comparison, as far as it has come."""
    folder = site.root.inside(request.path_params["path"])
    if kind_of(folder) != "comparison":
        raise Missing(f"{request.path_params['path']}: no comparison")
    plan, record = site.files.json(folder / "matrix.json"), site.files.json(folder / RECORD)
    planned, found = _rows(plan.data.get("cells")), _rows(record.data.get("cells"))
    tasks = list(dict.fromkeys(str(cell.get("task")) for cell in (*found, *planned)))
    sections = [_section(site, folder, task, planned, found, _rows(record.data.get("pairs"))) for task in tasks]
    profiles = _profiles(record.data.get("over_tasks"))
    return HTMLResponse(
        render(
            "comparison.html",
            title=folder.name,
            path=site.root.relative(folder),
            methods=list(dict.fromkeys(str(cell.get("method")) for cell in (*found, *planned))),
            sections=sections,
            over=_over(record.data.get("over_tasks")),
            picture=f"/file/{_quoted(site, folder)}" if (folder / "comparison.png").is_file() else "",
            problem=plan.problem or record.problem,
            profiles=bool(profiles),
            data={
                "sections": [{"candidates": item["rows"], "rate": item["rate"]} for item in sections],
                "objective": sections[0]["objective"] if sections else "",
                "overlay": profiles,
            },
        )
    )  # fmt: skip


def _section(
    site: Site,
    folder: Path,
    task: str,
    planned: list[Mapping[str, Any]],
    found: list[Mapping[str, Any]],
    pairs: list[Mapping[str, Any]],
) -> dict[str, Any]:
    """Return one task's table: a row for each method, the best of the finished ones first."""
    results = {str(cell.get("method")): cell for cell in found if cell.get("task") == task}
    folders = {str(cell.get("method")): str(cell.get("folder")) for cell in planned if cell.get("task") == task}
    rows = [_row(site, folder, name, results.get(name, {}), folders.get(name)) for name in {**results, **folders}]
    objective = next((str(cell.get("objective")) for cell in results.values()), "")
    sign = 1 if lower_is_better(objective) else -1
    rows.sort(key=lambda row: sign * row["mean"] if row["mean"] is not None else float("inf"))
    for place, row in enumerate(rows):
        row["best"] = place == 0 and row["mean"] is not None
    whole = [pair for pair in pairs if pair.get("task") == task and _is_number(pair.get("difference"))]
    differences = [
        {
            **{key: pair.get(key) if _is_number(pair.get(key)) else None for key in NUMBERS},
            **{key: str(pair.get(key)) for key in ("first", "second")},
            "told": pair.get("distinguishable") is True,
        }
        for pair in whole
    ]  # fmt: skip
    return {"task": task, "objective": objective, "rate": objective in RATES, "rows": rows, "pairs": differences}


def _row(site: Site, folder: Path, name: str, cell: Mapping[str, Any], place: str | None) -> dict[str, Any]:
    metrics, objective = mapping(cell.get("metrics")), str(cell.get("objective", ""))

    def said(key: str) -> Any:
        return metrics.get(key) if _is_number(metrics.get(key)) else None

    below = folder / "cells" / place if place and "/" not in place else None
    kind = kind_of(below) if below else ""
    normalised = [said(f"expert_normalised{end}") for end in ("", "_low", "_high")]
    return {
        "name": name,
        "mean": said(objective), "low": said(f"{objective}_low"), "high": said(f"{objective}_high"),
        "seeds": said(f"{objective}_seeds"), "episodes": said(f"{objective}_episodes"),
        "normalised": normalised if normalised[0] is not None else None,
        "parameters": [(key, number(value)) for key, value in mapping(cell.get("parameters")).items()],
        "href": address(kind, site.root.relative(below)) if below and kind else "",
    }  # fmt: skip


def _profiles(held: Any) -> dict[str, Any]:
    """Return each method's performance profile as a curve over thresholds; {} where there is none."""
    found = mapping(mapping(held).get("profiles"))
    steps = found.get("thresholds")
    if not isinstance(steps, list):
        return {}
    curves: dict[str, Any] = {}
    for name, own in mapping(found.get("methods")).items():
        parts = [mapping(own).get(key) for key in ("share", "low", "high")]
        if all(isinstance(part, list) and len(part) == len(steps) and all(map(_is_number, part)) for part in parts):
            curves[str(name)] = {"step": steps, **dict(zip(("mean", "low", "high"), parts, strict=True))}
    return curves if all(map(_is_number, steps)) else {}


def _over(held: Any) -> list[str]:
    try:
        return list(over_lines(mapping(held)))
    except (KeyError, TypeError, ValueError):  # of an earlier version, or damaged
        return []


def _rows(held: Any) -> list[Mapping[str, Any]]:
    return [mapping(item) for item in held] if isinstance(held, list) else []


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _quoted(site: Site, folder: Path) -> str:
    return address("x", f"{site.root.relative(folder)}/comparison.png".lstrip("/")).removeprefix("/x/")
