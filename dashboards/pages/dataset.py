"""Datasets: what they hold, and each episode with its pictures, actions, rewards and words."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import quote

from starlette.requests import Request
from starlette.responses import HTMLResponse, Response

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
from understudy.dashboards.rendering import render
from understudy.dashboards.site import Site
from understudy.files import home


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
            data={"overview": overview(store), "episode": episode.curves, "number": number},
        )
    )


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
