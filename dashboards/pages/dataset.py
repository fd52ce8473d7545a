"""Datasets: what they hold, and each episode with its pictures, actions, rewards and words."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

from starlette.requests import Request
from starlette.responses import HTMLResponse, Response

from understudy.dashboards.pages.episodes import clip_at, shown_clip
from understudy.dashboards.pages.home import whole_number
from understudy.dashboards.reading.datasets import (
    cameras,
    checked,
    datasets,
    episode_of,
    open_dataset,
    overview,
    picture,
    statistics_of,
)
from understudy.dashboards.reading.runs import read_run
from understudy.dashboards.rendering import render
from understudy.dashboards.site import Site
from understudy.envs.store.store import EpisodeStore
from understudy.files import home
from understudy.runs.clips import Clip, read_clips

LOOKED_AT, CLIPS = 200, 40
"""The newest runs and sweeps that are looked through for rollouts on a dataset, and rollouts that are listed."""


def folder_of(site: Site) -> Path:
    """Return the folder of episode stores."""
    return site.data_dir or home() / "datasets"


def listing(request: Request, site: Site) -> Response:
    """Return the page that lists all datasets."""
    folder = folder_of(site)
    return HTMLResponse(render("datasets.html", title="datasets", folder=str(folder), found=datasets(folder)))


def show(request: Request, site: Site) -> Response:
    """Return a dataset's page, at one of its episodes."""
    store = open_dataset(request.path_params["name"], folder_of(site))
    count = store.manifest.num_episodes
    number = min(whole_number(request.query_params.get("episode", "0")), count - 1)
    episode = episode_of(store, number)
    made_by = str(store.manifest.provenance.get("made_by", ""))
    rollout, rollouts = _rollouts(site, store, request.query_params.get("beside", ""))
    return HTMLResponse(
        render(
            "dataset.html",
            title=store.name,
            manifest=store.manifest,
            megabytes=sum(int(record.get("size", 0)) for record in store.manifest.files.values()) / 1e6,
            made_by=made_by,
            episode=episode,
            count=count,
            cameras=cameras(store),
            pictures=f"/picture/{quote(store.name)}?hash={store.manifest.content_hash[:12]}",
            rows=statistics_of(store.manifest),
            rollout=rollout,
            rollouts=rollouts,
            beside=f"&{urlencode({'beside': rollout['path']})}" if rollout else "",
            data={
                "overview": overview(store),
                "episode": episode.curves,
                "dims": episode.dims,
                "number": number,
                "beside": rollout["path"] if rollout else "",
            },
        )
    )


def _rollouts(site: Site, store: EpisodeStore, asked: str) -> tuple[dict[str, Any] | None, list[dict[str, str]]]:
    """Return the rollout that is shown beside the data, and which others there are, of the newest runs on it.

    Without one that is asked for it is the first, a failure where there is any.
    """
    clips: dict[str, Clip] = {}
    if asked:
        clip = clip_at(site, asked)
        clips[site.root.relative(clip.file)] = clip
    for folder in _trained_on(site, store.name):
        clips |= {site.root.relative(clip.file): clip for clip in read_clips(folder)}
        if len(clips) >= CLIPS:
            break
    listed = [
        {"path": path, "name": f"{_place(path)}, seed {clip.seed}, episode {clip.episode}{_outcome(clip)}"}
        for path, clip in list(clips.items())[:CLIPS]
    ]
    first = next(iter(clips), None)
    return (shown_clip(site, clips[first], []) if first else None), listed


def _place(path: str) -> str:
    """Return the names of the run that a clip's video lies in."""
    parts = path.split("/")[:-2]
    return "/".join(parts[-3:] if "trials" in parts[-2:-1] else parts[-1:]) or "."


def _outcome(clip: Clip) -> str:
    return "" if clip.success is None else ": success" if clip.success >= 1 else ": failure"


def _trained_on(site: Site, name: str) -> Iterator[Path]:
    """Yield the folders of the newest runs, and of trials of the newest sweeps, that learned from a dataset."""
    for entry in site.root.entries()[:LOOKED_AT]:
        folder = site.root.path / entry.path
        if entry.kind == "run" and read_run(site.files, folder).keys.get("env_name") == name:
            yield folder
        if entry.kind == "sweep":
            keys = site.files.json(folder / "sweep.json").data.get("run")
            if isinstance(keys, Mapping) and keys.get("env_name") == name:
                yield from sorted(path.parent for path in folder.glob("trials/*/videos"))


def frame(request: Request, site: Site) -> Response:
    """Return one picture as PNG."""
    store = open_dataset(request.path_params["name"], folder_of(site))
    query = request.query_params
    image = picture(store, query.get("camera", ""), whole_number(query.get("row", "0")))
    return Response(image, media_type="image/png", headers={"cache-control": "private, max-age=86400"})


def verify(request: Request, site: Site) -> Response:
    """Return what verifying a dataset finds, when it is asked for: all of it is read."""
    damage, oddities = checked(open_dataset(request.path_params["name"], folder_of(site)))
    return HTMLResponse(render("dataset_verified.html", damage=damage, oddities=oddities))
