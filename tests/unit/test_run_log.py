"""log.txt and run.json's origin: what a run says of itself when nobody was looking."""

from __future__ import annotations

import logging
from pathlib import Path

from understudy.runs.origin import EARLIER, ORIGIN, origin, origin_changes
from understudy.runs.run_log import LOG, kept, note, note_error

logger = logging.getLogger("understudy")


def test_what_is_warned_of_while_a_run_trains_is_in_its_log(tmp_path: Path) -> None:
    with kept(tmp_path):
        logger.warning("the %s is full", "disk")
    logger.warning("this is another's")
    lines = (tmp_path / LOG).read_text().splitlines()
    assert [line.split(" ", 2)[2] for line in lines] == ["warning: the disk is full"]


def test_an_error_is_noted_with_its_traceback_and_without_passwords(tmp_path: Path) -> None:
    try:
        raise ValueError("no answer from http://me:hunter2@host/x")
    except ValueError as error:
        note_error(tmp_path, error)
    text = (tmp_path / LOG).read_text()
    assert "Traceback" in text
    assert "test_run_log.py" in text
    assert "ValueError: no answer from http://host/x" in text


def test_a_log_that_cannot_be_written_is_no_error(tmp_path: Path) -> None:
    note(tmp_path / "nowhere", "lost")
    assert not (tmp_path / "nowhere").exists()


def test_a_run_knows_its_commit_and_versions() -> None:
    found = origin()
    assert {"commit", "dirty", "host", "system", "python", "understudy", "torch", "numpy"} <= found.keys()


def test_a_run_that_goes_on_at_another_commit_keeps_the_earlier_one() -> None:
    assert EARLIER not in origin_changes({})
    assert EARLIER not in origin_changes({ORIGIN: origin()})
    changes = origin_changes({ORIGIN: {"commit": "abc"}, EARLIER: ["first"]})
    assert changes[EARLIER] == ["first", "abc"]
    assert changes[ORIGIN] == origin()
