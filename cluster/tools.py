"""Run the programs that clusters come with (ray, kubectl, sbatch): a missing or failing one is one clear line."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence

from understudy.errors import UnderstudyError, UserError

RAY = (sys.executable, "-m", "ray.scripts.scripts")
"""The `ray` of this environment, on the path or not."""


def need(tool: str, why: str) -> None:
    """Raise UserError when a program is not on the path."""
    if shutil.which(tool) is None:
        raise UserError(f"{tool} is not installed here, and {why}: install it, or run this where it is")


def call(command: Sequence[str], *, stdin: str | None = None, env: Mapping[str, str] | None = None) -> str:
    """Run a program and return its output; UnderstudyError with its last line when it fails."""
    result = subprocess.run(
        command,
        input=stdin,
        stdin=None if stdin is not None else subprocess.DEVNULL,
        capture_output=True,
        text=True,
        env={**os.environ, **(env or {})},
    )
    if result.returncode:
        said = (result.stderr.strip() or result.stdout.strip() or "nothing").splitlines()[-1]
        raise UnderstudyError(f"{_shown(command)} failed (exit {result.returncode}): {said}")
    return result.stdout


def stream(command: Sequence[str], env: Mapping[str, str] | None = None) -> Iterator[str]:
    """Run a program and yield its output as it comes; UnderstudyError when it fails."""
    process = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, **(env or {})},
    )
    assert process.stdout is not None
    last = ""
    try:
        for line in process.stdout:
            last = line.strip() or last
            yield line
    finally:
        if process.poll() is None:
            process.terminate()
        code = process.wait()
    if code:
        raise UnderstudyError(f"{_shown(command)} failed (exit {code}): {last}")


def _shown(command: Sequence[str]) -> str:
    return "ray " + " ".join(command[3:4]) if tuple(command[:3]) == RAY else " ".join(command[:2])


def check_secrets(names: Iterable[str]) -> None:
    """Raise UserError naming the variables that the environment here lacks."""
    missing = [name for name in names if not os.environ.get(name)]
    if missing:
        raise UserError(f"not set in the environment here: {', '.join(missing)} (the profile lists them as secrets)")
