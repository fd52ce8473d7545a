"""What one server shows."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from understudy.dashboards.places import Root
from understudy.dashboards.reading.files import Files
from understudy.dashboards.reading.heads import Heads


@dataclass
class Site:
    """What pages are made from: the folder that is shown, the memory of its files, where datasets lie, clusters."""

    root: Root
    files: Files = field(default_factory=Files)
    data_dir: Path | None = None
    heads: Heads = field(default_factory=Heads)
    start: str = "/"
    """The page that is opened first."""
