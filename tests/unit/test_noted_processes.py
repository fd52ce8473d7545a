"""A noted process is found again whatever the time of day does, and another one of its number is not."""

from __future__ import annotations

import os
import sys

import psutil
import pytest

from understudy.cluster.processes import noted_process, started_at


def note(started: float) -> dict[str, float]:
    return {"pid": os.getpid(), "started": started}


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="sets what Linux tells of its start")
@pytest.mark.parametrize("seconds", [1.0, -86_400.0])
def test_a_clock_that_is_set_does_not_lose_a_process(monkeypatch: pytest.MonkeyPatch, seconds: float) -> None:
    noted = note(started_at(psutil.Process()))
    booted = psutil.boot_time()
    monkeypatch.setattr("psutil._pslinux.boot_time", lambda: booted + seconds)
    found = noted_process(noted)
    assert found is not None
    assert found.pid == os.getpid()


def test_a_note_of_an_earlier_version_holds_the_time_of_day() -> None:
    assert noted_process(note(psutil.Process().create_time())) is not None


def test_a_process_that_has_the_number_of_another_is_not_that_one() -> None:
    assert noted_process(note(started_at(psutil.Process()) - 5.0)) is None
