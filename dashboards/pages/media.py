"""Videos of runs. The browser asks for parts of them (HTTP range), so that one can seek."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import FileResponse, Response

from understudy.dashboards.places import Missing
from understudy.dashboards.site import Site

TYPES = {".mp4": "video/mp4", ".png": "image/png"}
"""Kinds of files that are given out as they are: nothing that a browser would run."""


def video(request: Request, site: Site) -> Response:
    """Return a file of a kind that is shown."""
    path = site.root.inside(request.path_params["path"])
    if path.suffix not in TYPES or not path.is_file():
        raise Missing(f"{request.path_params['path']}: no video")
    return FileResponse(path, media_type=TYPES[path.suffix])
