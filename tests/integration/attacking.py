"""Run a command on what was damaged, in a process of its own, and say in what it did not keep the promise.

It has limits on its memory and its files, and tells what it writes outside the folder it is given.
"""

from __future__ import annotations

import contextlib
import io
import os
import shutil
import signal
import subprocess
import sys
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from tests.integration.commands import Process, template

from understudy.cli import main

MEMORY = 3 << 30
"""Bytes that a command may hold."""
LIMITS = {"RLIMIT_DATA": 8 << 30, "RLIMIT_FSIZE": 1 << 30}
LONGEST = 240.0
"""Seconds after which a command is asked to stop, and then again until it counts as one that hangs."""
CODES = (0, 1, 2)


@dataclass
class Outcome:
    """What a command left behind."""

    words: tuple[str, ...]
    code: int
    out: str
    err: str
    peak_kilobytes: int
    stopped: bool = False
    """Whether it was asked to stop, for it had long to do."""
    problems: list[str] = field(default_factory=list)
    how: str = ""
    """What had been damaged before it."""

    def __str__(self) -> str:
        last = [line for line in self.err.splitlines() if line.strip()][-1:] or [""]
        return f"{', '.join(self.problems) or 'fine'}: exit {self.code}: {' '.join(self.words):.200}: {last[0]:.300}"


def attacked(
    *words: str,
    cwd: Path,
    inside: Path,
    home: Path,
    dies_at: int = 0,
    meanwhile: Callable[[Process], None] | None = None,
    limits: Mapping[str, int] = LIMITS,
) -> Outcome:
    """Run `understudy WORDS` and look at it: `problems` is empty where it behaved.

    It may write below `inside` only, and below `home`, which is the user's. It is killed before its `dies_at`th change
    there, where that is given, or by what is done `meanwhile`.
    """
    for folder in (home, inside / "tmp"):
        folder.mkdir(parents=True, exist_ok=True)
    kept = {name: value for name, value in os.environ.items() if name != "RAY_AUTH_MODE"}
    own = {"HOME": str(home), "TMPDIR": str(inside / "tmp"), "UNDERSTUDY_HOME": str(home), "MPLCONFIGDIR": str(home)}
    process = template().start(
        *words, cwd=cwd, environment={**kept, **own}, limits=dict(limits), inside=(inside, home), dies_at=dies_at
    )
    if meanwhile is not None:
        meanwhile(process)
    stopped, (out, err) = False, ("", "")
    try:
        out, err = process.communicate(timeout=LONGEST)
    except subprocess.TimeoutExpired:
        stopped = True
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGTERM)
        try:
            process.wait(timeout=LONGEST)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            return Outcome(words, -9, "", "", process.peak_kilobytes, True, ["hang"])
    outcome = Outcome(words, int(process.returncode or 0), out, err, process.peak_kilobytes, stopped)
    outcome.problems = [] if (dies_at or meanwhile) and outcome.code == -signal.SIGKILL else problems_of(outcome)
    return outcome


def spoken(*words: str, cwd: Path) -> Outcome:
    """Run `understudy WORDS` in this process: many times as fast, without limits or a look at what it writes."""
    out, err, code = io.StringIO(), io.StringIO(), 0
    with (
        pytest.MonkeyPatch.context() as patch,
        contextlib.chdir(cwd),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
    ):
        patch.setattr(sys, "argv", ["understudy", *words])
        try:
            main()
        except SystemExit as ended:
            code = ended.code if isinstance(ended.code, int) else 0
        except BaseException:  # noqa: BLE001  (which one it was is the finding)
            traceback.print_exc(file=err)
            code = 98
    outcome = Outcome(words, code, out.getvalue(), err.getvalue(), 0)
    outcome.problems = problems_of(outcome)
    return outcome


def problems_of(outcome: Outcome) -> list[str]:
    """Return in what a command did not keep the promise: a code, one line, nothing of others on the terminal."""
    said, lines = outcome.out + outcome.err, outcome.err.splitlines()
    found = []
    if "Traceback" in said:
        found.append("traceback")
    elif outcome.code not in CODES and not (outcome.stopped and outcome.code == 128 + signal.SIGTERM):
        found.append(f"exit {outcome.code}")
    elif outcome.code in (1, 2) and not one_line(lines):
        found.append("not one line")
    if "\x1b[31m" in said or "\u202e" in said:
        found.append("escape")
    if "hunter2" in said:
        found.append("secret")
    found += sorted({line for line in lines if line.startswith("OUTSIDE ")})
    if outcome.peak_kilobytes * 1024 > MEMORY:
        found.append(f"{outcome.peak_kilobytes >> 10} MB")
    return found


def one_line(lines: list[str]) -> bool:
    """Return whether an error was said once, in the last of the lines; warnings may come before it."""
    return [line for line in lines if line.startswith("understudy: ")] == lines[-1:]


class Room:
    """A folder that commands may write in, as it was before each attack; `home` is the user's own, beside it."""

    def __init__(self, root: Path, make: Callable[[Path], None]) -> None:
        self.work, self._kept, self.home = root / "work", root / "kept", root / "home"
        self.here = False
        """Whether commands run in this process."""
        self.limits: Mapping[str, int] = LIMITS
        """None for what starts Ray: its store of objects is one large file in memory."""
        self.work.mkdir(parents=True)
        make(self.work)
        shutil.copytree(self.work, self._kept, symlinks=True)

    def renew(self) -> None:
        """Put everything back; stores that this process has open stay the same files."""
        stores = [path.relative_to(self._kept) for path in self._kept.rglob("*.db")] if self.here else []
        aside = {store: self.work.with_name(f"{number}.aside") for number, store in enumerate(stores)}
        for store, path in aside.items():
            (self.work / store).rename(path)
        shutil.rmtree(self.work)
        shutil.copytree(self._kept, self.work, symlinks=True)
        for store, path in aside.items():
            path.write_bytes((self._kept / store).read_bytes())
            path.rename(self.work / store)

    def say(self, *words: str, dies_at: int = 0, meanwhile: Callable[[Process], None] | None = None) -> Outcome:
        """Run a command in the folder, to be killed before its `dies_at`th change there or by what is `meanwhile`."""
        if self.here and not (dies_at or meanwhile):
            return spoken(*words, cwd=self.work)
        places = {"cwd": self.work, "inside": self.work, "home": self.home}
        return attacked(*words, **places, dies_at=dies_at, meanwhile=meanwhile, limits=self.limits)
