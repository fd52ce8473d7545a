"""The table of published numbers and ours, at the end of `understudy reproduce` and when that is resumed."""

from __future__ import annotations

import csv
import io
from typing import TYPE_CHECKING

from understudy.cli.output import console, show_table

if TYPE_CHECKING:
    from understudy.matrix.cells import MatrixDir

TABLE = "published.csv"


def show_published(matrix: MatrixDir, name: str) -> None:
    """Print and keep the table of published numbers and ours."""
    from understudy.files import write_atomic
    from understudy.matrix.published import notes_of, rows_of, study_of

    study = study_of(name)
    rows, text = rows_of(study, matrix), io.StringIO()
    csv.writer(text).writerows([study.headings, *rows])
    write_atomic(matrix.path / TABLE, lambda file: file.write(text.getvalue().encode()))
    console.print()
    show_table(study.headings, rows, title=f"{study.about['what']}: {study.measure.replace('_', ' ')}")
    for line in notes_of(study, matrix):
        console.print(line, soft_wrap=True)
    console.print(str(matrix.path / TABLE), soft_wrap=True)
