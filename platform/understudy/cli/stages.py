"""What a matrix and a pipeline share while their cells are done: one parent run, signals, and the line that resumes."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from understudy.matrix.cells import MatrixDir
    from understudy.runs.stop import Notice
    from understudy.spec.run import RunSpec
    from understudy.tracking import Tracked


@contextmanager
def under_way(matrix: MatrixDir, first: RunSpec, kind: str) -> Generator[tuple[Tracked, Notice]]:
    """Hold a matrix for this process, with its run in MLflow open; Stopped, naming the matrix, by a signal.

    `first` is the spec of one cell: all are tracked in the same store and have the same seeds.
    """
    from understudy.errors import Stopped
    from understudy.files import typed
    from understudy.runs.stop import Notice, on_signals

    with matrix.held(), on_signals(matrix.path):
        parent, notice = _parent_run(matrix, first, kind), Notice(matrix.path)
        try:
            yield parent, notice
        except Stopped as error:
            parent.close("KILLED")
            if str(matrix.path / "cells") in str(error):  # it names the cell alone
                raise type(error)(
                    f"{error}, `understudy resume {typed(matrix.path)}` with what comes after it too"
                ) from None
            raise


def _parent_run(matrix: MatrixDir, first: RunSpec, kind: str) -> Tracked:
    """Open the matrix's run in MLflow, which all cells are children of."""
    from understudy import tracking

    cells, uri = matrix.cells(), first.placement.tracking()
    tracking.prepare(uri)
    return tracking.track(
        uri,
        matrix.path,
        experiment=first.placement.project,
        name=matrix.path.name,
        params={
            "methods": list(dict.fromkeys(cell.method for cell in cells)),
            "tasks": list(dict.fromkeys(cell.task for cell in cells)),
            "seeds": list(first.all_seeds),
        },
        tags={"kind": kind},
    )
