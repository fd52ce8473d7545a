"""A browser without a window onto a server without a network."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from starlette.testclient import TestClient

from understudy.dashboards.places import Root
from understudy.dashboards.server import make_app
from understudy.dashboards.site import Site

Open = Callable[[Path], TestClient]


@pytest.fixture
def opened() -> Open:
    """Return what opens a folder's pages."""
    return lambda folder: TestClient(make_app(Site(Root(folder))), base_url="http://127.0.0.1:8765")
