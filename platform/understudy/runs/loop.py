"""What trains a run: the loop's protocol, and the loop that a spec asks for."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from understudy.registry import algorithms, loops
from understudy.runs import mirror
from understudy.runs.results import Progress, Report, RunResult
from understudy.spec.run import RunSpec


class Loop(Protocol):
    """A training loop: its constructor reads and checks everything the run needs, and writes nothing."""

    def run(
        self,
        path: Path,
        *,
        report: Report | None = None,
        progress: Progress | None = None,
        grid: Mapping[str, tuple[Any, ...]] | None = None,
        rank: int = 0,
        world: int = 1,
    ) -> RunResult: ...


def make_loop(spec: RunSpec) -> Loop:
    """Return the spec's training loop; every problem with data, environment, storage or device is raised here."""
    mirror.check(spec.checkpoint_storage)
    return loops.get(algorithms.get(spec.algo).loop)(spec)
