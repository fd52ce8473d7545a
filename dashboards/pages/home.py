"""The first page: every sweep, run and comparison below the root, the newest first, found by words in its path."""

from __future__ import annotations

from typing import Any

from starlette.requests import Request
from starlette.responses import HTMLResponse, Response

from understudy.dashboards.places import Entry, address
from understudy.dashboards.reading.files import Files
from understudy.dashboards.reading.runs import last_metrics, quiet_for, read_run, step_of, whole
from understudy.dashboards.reading.sweeps import mapping
from understudy.dashboards.rendering import render
from understudy.dashboards.site import Site
from understudy.runs.results import objective_name
from understudy.sweeping.format import objective_text

ROWS = 50
KINDS = ("", "sweep", "run", "comparison")


def show(request: Request, site: Site) -> Response:
    """Return the whole page."""
    return HTMLResponse(render("home.html", title="runs", root=str(site.root.path), **_listing(request, site)))


def rows(request: Request, site: Site) -> Response:
    """Return the table alone, for another filter or page of it; the address goes along, so that it can come back."""
    html = render("home_rows.html", **_listing(request, site))
    return HTMLResponse(html, headers={"HX-Replace-Url": f"/?{request.url.query}"})


def _listing(request: Request, site: Site) -> dict[str, Any]:
    words, kind = request.query_params.get("words", "")[:200], request.query_params.get("kind", "")
    kind = kind if kind in KINDS else ""
    entries = site.root.entries()
    counts = {name: sum(entry.kind == name for entry in entries) for name in KINDS[1:]}
    found = [entry for entry in entries if _matches(entry, words, kind)]
    last = max(0, (len(found) - 1) // ROWS)
    page = min(whole_number(request.query_params.get("page", "0")), last)
    shown = [_described(site, entry) for entry in found[page * ROWS : (page + 1) * ROWS]]
    return {
        "rows": shown, "found": len(found), "words": words, "kind": kind, "page": page, "last": last, "counts": counts
    }  # fmt: skip


def _matches(entry: Entry, words: str, kind: str) -> bool:
    if kind and entry.kind != kind:
        return False
    path = entry.path.lower()
    return all(word in path for word in words.lower().split())


def _described(site: Site, entry: Entry) -> dict[str, Any]:
    """Return a row: what it is, of which method and data, how far it is and what it came to."""
    files, folder = site.files, site.root.path / entry.path
    row = {"entry": entry, "href": address(entry.kind, entry.path), "problem": ""}
    if entry.kind == "run":
        run = read_run(files, folder)
        metrics = last_metrics(files, run)
        outcome = _outcome(metrics)
        return row | {
            "algo": str(run.keys.get("algo", "")), "env_name": str(run.keys.get("env_name", "")),
            "status": run.status, "quiet": quiet_for(run), "seeds": len(run.seeds),
            "progress": _share(step_of(files, run), run.total), "size": f"{run.total:,} steps".replace(",", " "),
            "outcome": outcome, "problem": run.error or (run.problems[0] if run.problems else ""),
        }  # fmt: skip
    state = files.json(folder / "run.json").data
    status = str(state.get("status", "waiting")).replace("finished", "complete")
    row |= {"status": status, "quiet": 0.0, "problem": ""}
    return row | (_sweep(files, folder) if entry.kind == "sweep" else _comparison(files, folder))


def _sweep(files: Files, folder: Any) -> dict[str, Any]:
    record, best = files.json(folder / "sweep.json"), files.json(folder / "best.json").data
    keys, options = mapping(record.data.get("run")), mapping(record.data.get("options"))
    seeds, asked = keys.get("seeds"), whole(options.get("num_trials"))
    try:
        trials = sum(path.name.isdecimal() for path in (folder / "trials").iterdir())
    except OSError:
        trials = 0
    return {
        "algo": str(keys.get("algo", "")), "env_name": str(keys.get("env_name", "")),
        "seeds": len(seeds) if isinstance(seeds, list) else 1,
        "progress": 1.0 if best else _share(trials, asked), "size": f"{trials} trials",
        "outcome": _outcome(mapping(best.get("metrics"))), "problem": record.problem,
    }  # fmt: skip


def _comparison(files: Files, folder: Any) -> dict[str, Any]:
    cells = files.json(folder / "comparison.json").data.get("cells")
    cells = [mapping(cell) for cell in cells] if isinstance(cells, list) else []
    methods, tasks = ({str(cell.get(key, "")) for cell in cells} for key in ("method", "task"))
    return {
        "algo": ", ".join(sorted(methods)), "env_name": ", ".join(sorted(tasks)), "seeds": 0,
        "progress": 1.0 if cells else 0.0, "size": f"{len(cells)} cells", "outcome": ("", ""),
    }  # fmt: skip


def _outcome(metrics: Any) -> tuple[str, str]:
    """Return the objective's name, and its value with the interval."""
    name = objective_name(metrics)
    if name is None or not isinstance(metrics[name], int | float):
        return "", ""
    return name, objective_text(metrics, name)


def _share(done: int, of: int) -> float:
    return min(1.0, done / of) if of else 0.0


def whole_number(text: str) -> int:
    """Return a number of a query; 0 for what is none."""
    return int(text) if text.isdecimal() and len(text) < 10 else 0
