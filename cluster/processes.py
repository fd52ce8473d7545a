"""Processes that outlive the command that started them: noted in a file, found again by a later command."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil


def noted_process(noted: dict[str, Any]) -> psutil.Process | None:
    """Return a noted process if it lives and is still the same one."""
    try:
        process = psutil.Process(noted["pid"])
        # Notes of earlier versions hold the time of day.
        same = any(abs(when - noted["started"]) < 1.0 for when in (started_at(process), process.create_time()))
        return process if same and process.status() != psutil.STATUS_ZOMBIE else None
    except psutil.Error:
        return None


def started_at(process: psutil.Process) -> float:
    """Return when a process started, in seconds since the machine did where it tells: the time of day may be set."""
    try:
        ticks = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()[19]
    except OSError:
        return process.create_time()
    return int(ticks) / os.sysconf("SC_CLK_TCK")


def children_of(process: psutil.Process) -> list[psutil.Process]:
    """Return all that a process started and what these did; none where it has ended."""
    try:
        return process.children(recursive=True)
    except psutil.Error:
        return []


def send_signal(send: Callable[[], None]) -> None:
    """Call `process.terminate` or the like; a process may have ended before."""
    try:
        send()
    except psutil.NoSuchProcess:
        return
