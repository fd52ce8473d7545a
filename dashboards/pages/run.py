"""A run's page: what it was asked to do, how it differs from the sweep's best, what each seed did."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from urllib.parse import urlencode

from starlette.requests import Request
from starlette.responses import HTMLResponse, Response

from understudy.dashboards.pages.sweep import LIVE_SECONDS
from understudy.dashboards.places import Missing, Root, address
from understudy.dashboards.reading.files import Files, signature
from understudy.dashboards.reading.runs import (
    LOSSES,
    RunView,
    evaluation_curve,
    last_metrics,
    log_lines,
    quiet_for,
    read_run,
    seed_curves,
    shown_keys,
    speed_of,
    step_of,
)
from understudy.dashboards.reading.sweeps import read_sweep
from understudy.dashboards.rendering import render
from understudy.dashboards.site import Site
from understudy.runs.clips import read_clips
from understudy.runs.directory import RunDir
from understudy.runs.episodes import TRAINING
from understudy.runs.results import objective_name
from understudy.runs.run_log import LOG

CLIPS = 8
"""Filmed episodes in the page; all are on the page of episodes."""
WHERE = ("save_dir", "data_dir", "tracking_uri", "project", "run_group", "cpus", "gpus", "device", "seeds", "seed")
"""Keys that say where, not what: no difference between two configurations."""


def show(request: Request, site: Site) -> Response:
    """Return the whole page."""
    run, path = _run(request, site)
    return HTMLResponse(render("run.html", **values_of(site, run, path)))


def live(request: Request, site: Site) -> Response:
    """Return the part that changes; nothing (204) where nothing has changed."""
    run, path = _run(request, site)
    if request.query_params.get("version") == _version(run):
        return Response(status_code=204)
    return HTMLResponse(render("run_body.html", **values_of(site, run, path)))


def values_of(site: Site, run: RunView, path: str) -> dict[str, Any]:
    """Return what the page's templates name."""
    files = site.files
    metrics = last_metrics(files, run)
    name = objective_name(metrics)
    keys = shown_keys(run.keys)
    reference, href, reference_name = _reference(site, run)
    theirs = shown_keys(reference.keys) if reference else {}
    changed = {key: (keys.get(key, "-"), theirs.get(key, "-")) for key in keys if keys[key] != theirs.get(key)}
    return {
        "title": f"{path.rpartition('/')[2]}: {run.keys.get('algo', '')} {run.keys.get('env_name', '')}",
        "run": run,
        "path": path,
        "sweep": _sweep_of(site.root, run),
        "version": _version(run),
        "seconds": LIVE_SECONDS,
        "step": step_of(files, run),
        "speed": speed_of(files, run),
        "quiet": quiet_for(run),
        "objective": name,
        "metrics": metrics,
        "keys": keys,
        "reference": {"name": reference_name, "href": href} if reference else None,
        "changed": {key: pair for key, pair in changed.items() if key not in WHERE} if reference else {},
        "checkpoints": _checkpoints(run),
        "seeds": _seed_rows(files, run, name),
        "data": {
            "objective": name or "",
            "mean": evaluation_curve(files, run, name),
            "seeds": seed_curves(files, run),
        },
        "videos": _videos(site, run),
        "log": log_lines(run),
        "reason": reason_of(run, step_of(files, run), metrics, name),
    }  # fmt: skip


def reason_of(run: RunView, step: int, metrics: Mapping[str, float], name: str | None) -> str:
    """Return why a run was not trained to its end, in words; "" for one that was, or may be yet."""
    if run.status == "failed":
        return run.error or f"it failed after {step} of {run.total} steps, and no reason is written down"
    if run.status == "stopped":
        score = f", at {name} {metrics[name]:.3g}" if name and name in metrics else ""
        return f"stopped by ASHA after {step} of {run.total} steps{score}: others did better with as many"
    if run.status == "interrupted":
        return run.error or f"interrupted after {step} of {run.total} steps; `understudy resume` goes on with it"
    return ""


def _run(request: Request, site: Site) -> tuple[RunView, str]:
    folder = site.root.inside(request.path_params["path"])
    if not folder.is_dir():
        raise Missing(f"{request.path_params['path']}: no run")
    return read_run(site.files, folder), site.root.relative(folder)


def _version(run: RunView) -> str:
    names = ("run.json", "timing.csv", "eval.csv", "episodes.arrow", LOG)
    return f"{hash(tuple(signature(run.path / name) for name in names)) & 0xFFFFFFFFFFFF:x}"


def _sweep_of(root: Root, run: RunView) -> dict[str, str] | None:
    """Return the sweep that a run is a trial of."""
    folder = run.path.parent.parent
    if run.path.parent.name != "trials" or not folder.is_relative_to(root.path):
        return None
    relative = root.relative(folder)
    return {"name": folder.name, "href": address("sweep", relative)} if (folder / "sweep.json").is_file() else None


def _reference(site: Site, run: RunView) -> tuple[RunView | None, str, str]:
    """Return the best trial of the run's sweep, with its page and its name; None where the run is that, or alone."""
    if _sweep_of(site.root, run) is None:
        return None, "", ""
    leader = read_sweep(site.files, run.path.parent.parent).leader
    if leader is None or leader.run.path == run.path:
        return None, "", ""
    return leader.run, address("run", site.root.relative(leader.run.path)), f"trial {leader.number}"


def _checkpoints(run: RunView) -> list[dict[str, Any]]:
    """Return the files of weights of every seed, by name and size."""
    found: list[dict[str, Any]] = []
    for folder in dict.fromkeys([run.path, run.path / "resume", *(run.member(seed) for seed in run.seeds)]):
        try:
            files = sorted(folder.glob("*.pt"))
        except OSError:
            continue
        for file in files:
            size = signature(file)
            found.append({"name": file.relative_to(run.path).as_posix(), "megabytes": (size or (0, 0, 0))[1] / 1e6})
    return found


def _seed_rows(files: Files, run: RunView, name: str | None) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    for seed in run.seeds:
        folder = run.member(seed)
        last = files.last(folder / "eval.csv")
        losses = next((row for kind in LOSSES if (row := files.last(folder / f"{kind}.csv"))), {})
        loss = next((key for key in losses if key.endswith("loss")), None)
        rows.append(
            {"seed": seed, "value": last.get(name or ""), "loss": losses.get(loss or ""), "step": last.get("step")}
        )
    return rows


def _videos(site: Site, run: RunView) -> list[dict[str, str]]:
    """Return a run's filmed episodes, failures first, with where they are played; before there are any, its video."""
    path, trial = site.root.relative(run.path), RunDir(run.path).trial
    found: list[dict[str, str]] = []
    for clip in read_clips(run.path)[:CLIPS]:
        of = f"{'' if trial is None else trial}~{TRAINING}~{clip.step}~{clip.setting}"
        asked = urlencode({"of": of, "clip": f"{clip.seed}-{clip.reset_seed}"})
        outcome = "" if clip.success is None else ": success" if clip.success >= 1 else ": failure"
        name, href = f"seed {clip.seed}, episode {clip.episode}{outcome}", f"{address('episodes', path)}?{asked}#player"
        found.append({"video": address("file", site.root.relative(clip.file)), "name": name, "href": href})
    if not found and (run.path / "video.mp4").is_file():
        video = address("file", site.root.relative(run.path / "video.mp4"))
        found.append({"video": video, "name": "episodes of the last evaluation", "href": address("episodes", path)})
    return found
