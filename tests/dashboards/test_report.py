"""`understudy report` and `understudy dashboard` on the command line."""

from __future__ import annotations

import csv
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.dashboards.folders import data_in, make_run, make_sweep
from tests.unit.command_line import Said, understudy

from understudy.dashboards.serving import free_port, site_of
from understudy.errors import UserError
from understudy.files import write_json
from understudy.spec.compose import parse
from understudy.sweeping.directory import SweepDir
from understudy.sweeping.noting import attach_reports
from understudy.tracking import Tracked

Say = Callable[..., Said]


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Say:
    """Run the command in this process."""
    return lambda *words: understudy(monkeypatch, capsys, *map(str, words))


def test_a_report_is_one_file_that_loads_nothing(tmp_path: Path, told: Say) -> None:
    sweep, file = make_sweep(tmp_path / "sweep_1"), tmp_path / "out" / "report.html"
    assert told("report", sweep, "-o", file).code == 0
    page = file.read_text()
    for word in ("src=", "<link", "hx-get", "url(", "@import"):
        assert word not in page.partition("<script>")[0], word
    assert "default-src 'none'" in page
    assert "Trial 7 was chosen" in page
    assert len(data_in(page)["trials"]) == 8


def test_the_table_is_csv_latex_or_markdown_by_the_files_name(tmp_path: Path, told: Say) -> None:
    sweep = make_sweep(tmp_path / "sweep_1")
    for ending in ("csv", "tex", "md"):
        assert told("report", sweep, "-o", tmp_path / f"table.{ending}").code == 0
    with open(tmp_path / "table.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert next(row["trial"] for row in rows) == max(rows, key=lambda row: float(row["success"]))["trial"]
    assert {"lr", "horizon_length", "seeds", "episodes", "low", "high"} <= rows[0].keys()
    assert r"\textbf{" in (tmp_path / "table.tex").read_text()
    assert "| **7** |" in (tmp_path / "table.md").read_text()


def test_a_sweeps_end_writes_its_report_as_ended_and_a_report_that_fails_does_no_harm(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    sweep = make_sweep(tmp_path / "sweep_1")
    write_json(sweep / "run.json", {"status": "running"})
    tracked = Tracked("none", sweep, (), None)
    attach_reports(SweepDir(sweep), tracked)
    page = (sweep / "report.html").read_text()
    assert '<span class="chip complete">complete</span>' in page
    assert 'class="sweep" data-live' not in page
    empty = make_sweep(tmp_path / "sweep_2", trials=0)
    attach_reports(SweepDir(empty), tracked)
    assert not (empty / "report.html").exists()
    assert "sweep_2: no report.html" in caplog.text


def test_every_row_of_the_csv_says_what_made_it(tmp_path: Path, told: Say) -> None:
    told("report", make_sweep(tmp_path / "sweep_1", trials=2), "-o", tmp_path / "table.csv")
    with open(tmp_path / "table.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert {shlex.split(row["made_by"])[1] for row in rows} == {"sweep"}
    assert {(row["seeds"], row["episodes"]) for row in rows} == {("3", "10")}


def test_a_figure_is_written(tmp_path: Path, told: Say) -> None:
    file = tmp_path / "figure.png"
    assert told("report", make_sweep(tmp_path / "sweep_1", trials=3), "-o", file).code == 0
    assert file.read_bytes().startswith(b"\x89PNG")


def test_the_command_in_the_caption_can_be_typed(tmp_path: Path, told: Say) -> None:
    sweep, file = make_sweep(tmp_path / "sweep_1", trials=2), tmp_path / "table.md"
    told("report", sweep, "-o", file)
    command = file.read_text().partition("Made by: ")[2].strip()
    words = shlex.split(command)
    assert words[:2] == ["understudy", "sweep"]
    assert "lr=interval(1e-05,0.01)" in words
    assert parse(words[2:])


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--format", "pdf"), "--format pdf: no such format"),
        (("-o", "report.docx"), "--format .docx: no such format"),
    ],
)
def test_what_is_no_format_is_one_line(tmp_path: Path, told: Say, words: tuple[str, ...], said: str) -> None:
    found = told("report", make_sweep(tmp_path / "sweep_1", trials=1), *words)
    assert (found.code, found.err.count("\n")) == (2, 1)
    assert said in found.err


def test_a_run_is_no_sweep_to_report(tmp_path: Path, told: Say) -> None:
    found = told("report", make_run(tmp_path / "run_1"))
    assert found.code == 2
    assert "is no sweep" in found.err


def test_what_is_to_be_shown_is_a_folder_or_one_of_the_runs_in_it(tmp_path: Path) -> None:
    sweep = make_sweep(tmp_path / "project" / "sweep_1", trials=1)
    assert site_of("", tmp_path).start == "/"
    assert site_of(str(sweep), tmp_path).start == "/sweep/sweep_1"
    found = site_of(str(sweep / "trials" / "0000"), tmp_path)
    assert (found.start, found.root.path) == ("/run/sweep_1/trials/0000", (tmp_path / "project").resolve())
    with pytest.raises(UserError, match="no such run or sweep"):
        site_of("nothing", tmp_path)


def test_a_port_that_is_taken_is_one_line_and_the_next_is_found(told: Say, tmp_path: Path) -> None:
    import socket

    with socket.create_server(("127.0.0.1", 0)) as taken:
        port: Any = taken.getsockname()[1]
        with pytest.raises(UserError, match=f"--port {port}: cannot listen"):
            free_port("127.0.0.1", port)
    assert 8765 <= free_port("127.0.0.1", None) < 8815
    with pytest.raises(UserError, match="1 to 65535"):
        free_port("127.0.0.1", 70_000)
