"""Run the real command in a process of its own, as a user would."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

SMALL = (
    "env_name=hopper-medium-v2",
    "hidden_dims=[32,32]",
    "batch_size=16",
    "eval_episodes=2",
    "eval_envs=2",
)
"""A run on the hopper data small enough for tests; the rest of its keys are the tests' own."""


def start(*words: str, cwd: Path, **environment: str) -> subprocess.Popen[str]:
    """Start `understudy WORDS` in `cwd`; it leads a process group of its own."""
    return subprocess.Popen(
        [sys.executable, "-m", "understudy", *words],
        cwd=cwd,
        env={**os.environ, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def run(*words: str, cwd: Path, code: int = 0, **environment: str) -> str:
    """Run `understudy WORDS`, check its exit code, return stdout and stderr."""
    process = start(*words, cwd=cwd, **environment)
    out, err = process.communicate(timeout=600)
    assert process.returncode == code, f"exit {process.returncode}, not {code}:\n{out}\n{err}"
    return out + err


def kill_when(process: subprocess.Popen[str], ready: Callable[[], bool], seconds: float = 600) -> None:
    """Kill -9 the whole process group as soon as `ready()`; fails when the process ends before that."""
    deadline = time.monotonic() + seconds
    while not ready():
        if process.poll() is not None:
            out, err = process.communicate()
            raise AssertionError(f"ended (exit {process.returncode}) before it could be killed:\n{out}\n{err}")
        assert time.monotonic() < deadline, "never got to the point where it should be killed"
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
