"""Commands in processes of their own that need not import torch, Ray and MLflow again: copies of one that has.

Importing them takes six seconds of a CPU, and the tests start some 150 commands to kill, to stop or to run beside
others. `Template` starts one process that imports and then forks for each command: a child leads a session of its own,
has its own working folder, environment and pipes, and from there on runs as `python -m understudy` does. Started as a
program, this file is that process; it must not import pytest.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import json
import os
import resource
import runpy
import select
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from threading import Thread
from typing import TextIO

IMPORTED = (
    *("torch", "torch.distributed", "mlflow", "mlflow.store.tracking.sqlalchemy_store", "ray.train.torch", "ray.tune"),
    *("mlflow.pyfunc", "hydra", "optuna", "pandas", "scipy.special", "gymnasium", "gymnasium.envs.mujoco.mujoco_env"),
    *("torch._dynamo", "alembic.config", "sqlalchemy.dialects.sqlite"),  # with the first optimiser and store
    *("understudy.cli", "understudy.cli.train", "understudy.runs.loop", "understudy.tracking"),
    *("understudy.trainables.loops.offline", "understudy.sweeping.run"),
)
LONGEST = 1 << 20
"""The longest request, in bytes."""


class Command:
    """One command of a template's: what subprocess.Popen tells of its child, with text in its pipes."""

    def __init__(self, pid: int, out: int, err: int, status: TextIO) -> None:
        self.pid, self._out, self._err, self._status = pid, out, err, status
        self.returncode: int | None = None
        self.peak_kilobytes = 0
        """How much memory its process held at most, once it has ended."""

    def poll(self) -> int | None:
        """Return the exit code, negative for a signal; None while it runs."""
        return self._ended(0)

    def wait(self, timeout: float | None = None) -> int:
        """Wait for its end; return the exit code."""
        code = self._ended(timeout)
        if code is None:
            raise subprocess.TimeoutExpired(f"command {self.pid}", timeout or 0)
        return code

    def communicate(self, timeout: float | None = None) -> tuple[str, str]:
        """Wait until it and all that write to its pipes have ended; return stdout and stderr."""
        said: dict[int, str] = {}

        def read(pipe: int) -> None:
            with open(pipe, errors="replace") as file:
                said[pipe] = file.read()

        readers = [Thread(target=read, args=(pipe,), daemon=True) for pipe in (self._out, self._err)]
        deadline = None if timeout is None else time.monotonic() + timeout
        for reader in readers:
            reader.start()
        for reader in readers:
            reader.join(None if deadline is None else max(0.0, deadline - time.monotonic()))
            if reader.is_alive():
                raise subprocess.TimeoutExpired(f"command {self.pid}", timeout or 0)
        self.wait(None if deadline is None else max(1.0, deadline - time.monotonic()))
        return said[self._out], said[self._err]

    def send_signal(self, number: int) -> None:
        """Send a signal, where it still runs."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        """Send SIGKILL."""
        self.send_signal(signal.SIGKILL)

    def _ended(self, seconds: float | None) -> int | None:
        if self.returncode is None and select.select([self._status], [], [], seconds)[0]:
            code, peak = self._status.readline().split()
            self.returncode, self.peak_kilobytes = int(code), int(peak)
            self._status.close()
        return self.returncode


class Template:
    """The process that commands are copies of, as the tests see it; it ends when they do."""

    def __init__(self) -> None:
        self._control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._control.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, LONGEST)
        command = [sys.executable, __file__, str(theirs.fileno())]
        self._process = subprocess.Popen(
            command,
            cwd="/",
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,  # not a file: what wraps it in Python is what a child will have
            stderr=subprocess.STDOUT,
            pass_fds=[theirs.fileno()],
            start_new_session=True,
        )
        theirs.close()

    def start(
        self,
        *words: str,
        cwd: Path,
        environment: dict[str, str],
        limits: dict[str, int] | None = None,
        inside: tuple[Path, ...] = (),
        dies_at: int = 0,
    ) -> Command:
        """Start `understudy WORDS` in `cwd`; it leads a process group of its own.

        `limits` are the system's ({"RLIMIT_FSIZE": bytes}). Where `inside` names folders, stderr gets a line that
        begins with OUTSIDE for whatever Python code changes elsewhere; and with `dies_at` the whole group is killed
        before that change inside of them, counted from 1.
        """
        pipes = [os.pipe() for _ in range(3)]
        asked = {
            "words": words,
            "cwd": str(cwd),
            "environment": environment,
            "limits": limits or {},
            "dies_at": dies_at,
        }
        request = json.dumps({**asked, "inside": [os.path.realpath(folder) for folder in inside]}).encode()
        socket.send_fds(self._control, [request], [end for _, end in pipes])
        for _, end in pipes:
            os.close(end)
        out, err, status = (end for end, _ in pipes)
        told = open(status)  # noqa: SIM115  (the command closes it)
        pid = told.readline()
        if not pid:
            raise RuntimeError(f"the template of commands ended: {self._process.communicate()[0].decode()}")
        return Command(int(pid), out, err, told)


# ---- the template's own side ----


def serve(control: socket.socket) -> None:
    """Fork a child for each request until the tests end; return in each child, as what it was asked to be."""
    for name in IMPORTED:
        importlib.import_module(name)
    gc.collect()
    gc.freeze()  # children share these pages as long as nothing writes to them
    alarm, ring = os.pipe()
    os.set_blocking(alarm, False)
    os.set_blocking(ring, False)
    signal.set_wakeup_fd(ring)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    told: dict[int, int] = {}
    while True:
        ready, _, _ = select.select([control, alarm], [], [])
        if alarm in ready:
            os.read(alarm, 4096)
            tell_ends(told)
        if control not in ready:
            continue
        request, pipes, _, _ = socket.recv_fds(control, LONGEST, 3)
        if not request:
            raise SystemExit(0)
        pid = os.fork()
        if pid == 0:
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            for end in (alarm, ring, control.detach(), *told.values(), pipes[2]):
                os.close(end)
            become(json.loads(request), pipes[0], pipes[1])
            return
        for pipe in pipes[:2]:
            os.close(pipe)
        told[pid] = pipes[2]
        os.write(pipes[2], f"{pid}\n".encode())


def tell_ends(told: dict[int, int]) -> None:
    """Take the exit codes of the children that have ended, and pass each on."""
    while told:
        pid, status, used = os.wait4(-1, os.WNOHANG)
        if pid == 0:
            return
        pipe = told.pop(pid)
        with contextlib.suppress(BrokenPipeError):  # the test does not wait for it
            os.write(pipe, f"{os.waitstatus_to_exitcode(status)} {used.ru_maxrss}\n".encode())
        os.close(pipe)


def become(asked: dict, out: int, err: int) -> None:
    """Make this process what was asked for: a new session, its folder, environment and pipes."""
    from ray._raylet import Config

    os.setsid()
    os.chdir(asked["cwd"])
    os.environ.clear()
    os.environ.update(asked["environment"])
    Config.initialize("")  # what Ray took from the template's environment, such as whether it asks for a token
    for pipe, number in ((out, 1), (err, 2)):
        os.dup2(pipe, number)
        os.close(pipe)
    added = [path for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if path and path not in sys.path]
    sys.path[:0] = [asked["cwd"], *added]
    tempfile.tempdir = None  # it is found again, by the new environment
    sys.argv = ["understudy", *asked["words"]]
    for name, most in asked["limits"].items():
        resource.setrlimit(getattr(resource, name), (most, most))
    if asked["inside"]:
        watch_changes(tuple(asked["inside"]), asked["dies_at"])


CHANGING = ("os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.symlink", "os.link", "os.truncate", "os.chmod")
"""Audit events of calls that change the file system and name one or two paths first."""


SYSTEM = ("/dev/null", "/dev/tty", "/dev/shm", "/proc/self", "/tmp/ray")
"""Ray keeps its sessions in the last one where the temporary folder's path is too long for its sockets."""


def watch_changes(inside: tuple[str, ...], dies_at: int) -> None:
    """Print a line to stderr for what Python code makes or changes outside these places; die at a change inside."""
    sys.dont_write_bytecode = True
    changes = 0

    def within(path: str, places: tuple[str, ...]) -> bool:
        return any(path == place or path.startswith(place + "/") for place in places)

    def hear(event: str, values: tuple[object, ...]) -> None:
        nonlocal changes
        if event == "open":
            path, mode, flags = values
            writes = isinstance(flags, int) and flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC)
            changed = [path] if writes or (isinstance(mode, str) and set(mode) & set("wax+")) else []
        else:
            changed = [*values[:2]] if event in CHANGING else []
        for path in changed:
            if not isinstance(path, (str, bytes, os.PathLike)):
                continue  # a file that is open already
            whole = os.path.realpath(os.fsdecode(path))
            if within(whole, inside):
                changes += 1
                if changes == dies_at:
                    os.killpg(0, signal.SIGKILL)
            elif not within(whole, SYSTEM):
                os.write(2, f"OUTSIDE {event} {path!r}\n".encode(errors="replace"))

    sys.addaudithook(hear)


if __name__ == "__main__":
    del sys.path[0]  # the folder of this file, whose modules are no top-level ones
    serve(socket.socket(fileno=int(sys.argv[1])))
    runpy.run_module("understudy", run_name="__main__", alter_sys=True)
