"""report.html: the sweep's page as one file."""

from __future__ import annotations

from pathlib import Path

from understudy.registry import reports


@reports.register("report.html")
def write(sweep: Path, out: Path) -> None:
    """Write the report of a sweep that has come to its end."""
    from understudy.dashboards.report import write_report

    write_report(sweep, out, "html", ended=True)
