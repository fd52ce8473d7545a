"""What one server shows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from understudy.dashboards.places import Root
from understudy.dashboards.reading.files import Files
from understudy.dashboards.reading.heads import Heads
from understudy.dashboards.remote import Remote


@dataclass
class Site:
    """What pages are made from: the folder that is shown, the memory of its files, where datasets lie, clusters."""

    root: Root
    files: Files = field(default_factory=Files)
    data_dir: Path | None = None
    heads: Heads = field(default_factory=Heads)
    remote: Remote | None = None
    """Where runs are brought from, whose files are elsewhere."""
    start: str = "/"
    """The page that is opened first."""

    def prepare(self, paths: Sequence[str]) -> None:
        """Bring what a page reads of runs whose files are elsewhere; StoreAway where their store does not answer."""
        if self.remote is None:
            return
        self.remote.list()
        for path in paths:
            self.remote.bring(path)
