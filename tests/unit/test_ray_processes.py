"""Work on a Ray that may die: what it raises comes through, and a process of Ray's that dies ends the wait for it."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from understudy.errors import Preempted, RayLost
from understudy.runs import ray_processes
from understudy.runs.ray_processes import do_watched, lost
from understudy.runs.stop import STOP, on_signals


@pytest.fixture
def raylet(monkeypatch: pytest.MonkeyPatch) -> Iterator[psutil.Process]:
    """A process that stands for a raylet of our own."""
    process = subprocess.Popen(["sleep", "1000"])
    monkeypatch.setattr(ray_processes, "_own", {"raylet": psutil.Process(process.pid)})
    monkeypatch.setattr(ray_processes, "_joined", [])
    monkeypatch.setattr(ray_processes, "_waiting", [])
    monkeypatch.setattr(ray_processes, "NOTICE_SECONDS", 0.2)
    yield psutil.Process(process.pid)
    process.kill()
    process.wait()


def test_what_the_work_raises_is_raised_and_nothing_is_left_waiting(raylet, tmp_path) -> None:
    def fail() -> None:
        raise ValueError("its own")

    with pytest.raises(ValueError, match="its own"):
        do_watched(fail, tmp_path)
    do_watched(lambda: None, tmp_path)
    assert lost(tmp_path) is None
    assert ray_processes._waiting == []


def test_a_raylet_that_dies_ends_the_wait_for_work_that_never_ends(raylet, tmp_path) -> None:
    let_go = threading.Event()

    def stuck() -> None:
        raylet.kill()
        let_go.wait()

    with pytest.raises(RayLost, match=f"Ray's raylet died; `understudy resume {tmp_path}` goes on"):
        do_watched(stuck, tmp_path)
    assert lost(tmp_path) == "raylet"
    let_go.set()


def test_an_error_that_comes_of_a_dead_raylet_is_said_as_that(raylet, tmp_path) -> None:
    def fail() -> None:
        raylet.kill()
        raylet.wait()
        raise RuntimeError("what Ray makes of it")

    with pytest.raises(RayLost, match="Ray's raylet died"):
        do_watched(fail, tmp_path)


def test_a_signal_that_ended_ray_too_is_what_ended_the_work(raylet, tmp_path) -> None:
    let_go = threading.Event()

    def stuck() -> None:
        raylet.terminate()
        os.kill(os.getpid(), signal.SIGTERM)
        let_go.wait()

    with pytest.raises(Preempted, match="stopped by SIGTERM"), on_signals(tmp_path):
        do_watched(stuck, tmp_path)
    let_go.set()


def test_the_gcs_of_a_cluster_is_lost_when_it_refuses_for_long_or_after_a_signal(monkeypatch, tmp_path: Path) -> None:
    monkeypatch.setattr(ray_processes, "_own", {})
    monkeypatch.setattr(ray_processes, "_joined", [ray_processes._Head("127.0.0.1:1")])  # where nothing listens
    monkeypatch.setattr(ray_processes, "NOTICE_SECONDS", 0.0)
    assert lost(tmp_path) is None
    (tmp_path / STOP).write_text("SIGTERM")
    assert lost(tmp_path) == "GCS"
    (tmp_path / STOP).unlink()
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
        assert not ray_processes._Head(address).lost(10.0)
