"""Run the real command in a process of its own, as a user would."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from functools import cache
from pathlib import Path

from tests.integration.template import Command, Template

SMALL = (
    "env_name=hopper-medium-v2",
    "hidden_dims=[32,32]",
    "batch_size=16",
    "eval_episodes=2",
    "eval_envs=2",
)
"""A run on the hopper data small enough for tests; the rest of its keys are the tests' own."""


Process = subprocess.Popen[str] | Command
"""A command that was started: it can be asked whether it has ended, sent a signal, and waited for."""


@cache
def template() -> Template:
    """Return the process that commands are copies of; it is started with the first of them."""
    return Template()


def start(*words: str, cwd: Path, fresh: bool = False, **environment: str) -> Process:
    """Start `understudy WORDS` in `cwd`; it leads a process group of its own.

    It is a copy of a process that has imported what it will need; `fresh` has a new interpreter import it again.
    """
    own = {name: value for name, value in os.environ.items() if name != "RAY_AUTH_MODE"}  # set by a Ray in this process
    whole = {**own, **environment}
    if not fresh:
        return template().start(*words, cwd=cwd, environment=whole)
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    command = [sys.executable, "-m", "understudy", *words]
    return subprocess.Popen(command, cwd=cwd, env=whole, start_new_session=True, **pipes)


def run(*words: str, cwd: Path, code: int = 0, **environment: str) -> str:
    """Run `understudy WORDS`, check its exit code, return stdout and stderr."""
    process = start(*words, cwd=cwd, **environment)
    out, err = process.communicate(timeout=600)
    assert process.returncode == code, f"exit {process.returncode}, not {code}:\n{out}\n{err}"
    return out + err


def free_port() -> int:
    """Return a port of 127.0.0.1 on which nothing listens."""
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        return server.getsockname()[1]


def workers(*words: str, cwd: Path) -> list[tuple[int, str, str]]:
    """Run `understudy WORDS` as torchrun's two workers would, without torchrun; return exit codes, stdout, stderr."""
    rendezvous = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    group = {"WORLD_SIZE": "2", **rendezvous, "CUDA_VISIBLE_DEVICES": ""}
    both = [start(*words, cwd=cwd, **group, RANK=rank, LOCAL_RANK=rank) for rank in ("0", "1")]
    said = [process.communicate(timeout=600) for process in both]
    return [(int(process.returncode or 0), *texts) for process, texts in zip(both, said, strict=True)]


def kill_when(process: Process, ready: Callable[[], bool], seconds: float = 600) -> None:
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
