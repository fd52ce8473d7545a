"""A tracking store whose disk is full is a failure of the world, exit code 1; any other fault is the user's to mend."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from understudy.errors import StoreFull, TrackingError
from understudy.tracking.addresses import default_tracking_uri
from understudy.tracking.client import tracking_errors


@pytest.mark.parametrize(("bytes_left", "files_left"), [(0, 10_000), (10**9, 5)])
def test_a_store_on_a_full_disk_ends_with_exit_code_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bytes_left: int, files_left: int
) -> None:
    held = os.statvfs(tmp_path)
    full = (*held[:4], bytes_left // held.f_frsize, held[5], held[6], files_left, *held[8:])
    monkeypatch.setattr(os, "statvfs", lambda _: os.statvfs_result(full))
    with pytest.raises(StoreFull, match="No space left on device") as caught, tracking_errors(_store(tmp_path)):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    assert caught.value.exit_code == 1


def test_a_store_with_room_that_fails_ends_with_exit_code_two(tmp_path: Path) -> None:
    with pytest.raises(TrackingError, match="no such table") as caught, tracking_errors(_store(tmp_path)):
        raise ValueError("no such table")
    assert caught.value.exit_code == 2
    assert not isinstance(caught.value, StoreFull)


def _store(folder: Path) -> str:
    return default_tracking_uri(folder)
