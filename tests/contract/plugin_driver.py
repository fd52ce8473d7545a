"""Run commands with users' plug-ins, each group of them in a fork of this process, which has imported what takes long.

    python -m tests.contract.plugin_driver GROUPS.json RESULTS.json

GROUPS.json has a list of [environment, list of commands]; RESULTS.json gets, of each group, a list of
[exit code, stdout, stderr].
"""

from __future__ import annotations

import contextlib
import importlib
import io
import json
import os
import sys
import traceback
from pathlib import Path

from understudy import registry

SLOW = ("torch", "sympy", "understudy.cli", "understudy.spec.compose", "understudy.trainables.loops.offline")
"""Modules that take long to import; sympy is torch's, for a first batch."""


def said(words: list[str]) -> tuple[int, str, str]:
    """Return what the command line says to these words; a crash is exit code 1 with a traceback."""
    from understudy.cli import main

    out, err, code = io.StringIO(), io.StringIO(), 0
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        sys.argv = ["understudy", *words]
        try:
            main()
        except SystemExit as ended:
            code = ended.code if isinstance(ended.code, int) else 1
        except BaseException:  # noqa: BLE001  the test reads it
            traceback.print_exc()
            code = 1
    return code, out.getvalue(), err.getvalue()


def run_group(environment: dict[str, str], commands: list[list[str]], results: Path) -> None:
    """Fork, run the commands there, and leave what they said in `results`."""
    process = os.fork()
    if process:
        os.waitpid(process, 0)
        return
    try:
        os.environ.update(environment)
        sys.path[:0] = environment["PYTHONPATH"].split(os.pathsep)
        results.write_text(json.dumps([said(words) for words in commands]))
    finally:
        os._exit(0)


def main() -> None:
    """Run every group, one after the other."""
    groups, results = Path(sys.argv[1]), Path(sys.argv[2])
    for module in SLOW:
        importlib.import_module(module)
    for item in vars(registry).values():
        if isinstance(item, registry.Registry):
            item.names()
    found = []
    for number, (environment, commands) in enumerate(json.loads(groups.read_text())):
        part = results.with_name(f"{results.name}.{number}")
        run_group(environment, commands, part)
        found.append(json.loads(part.read_text()))
    results.write_text(json.dumps(found))


if __name__ == "__main__":
    main()
