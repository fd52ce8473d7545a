"""All kinds of attack by hand, with figures: damaged files, odd words of the command line, kills, full disks.

`python -m tests.integration.attack [--inputs 100] [--here] [KIND ...]` prints a row for each kind: how many inputs, and
in how many there was a traceback, something was lost without a word, a command hung, or anything else was not as
promised.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from random import Random

from tests.integration.attack_disks import FullDisks
from tests.integration.attack_kills import Kills, LearnerKills, SweepKills
from tests.integration.attack_kinds import (
    LOST,
    CommandLine,
    Kind,
    Pages,
    RunFiles,
    SourceFiles,
    StoreFiles,
    SweepFiles,
)
from tests.integration.attacking import Outcome

KINDS: tuple[type[Kind], ...] = (
    *(RunFiles, SweepFiles, Pages, StoreFiles, SourceFiles, CommandLine, Kills, SweepKills, LearnerKills),
    FullDisks,
)
COLUMNS: dict[str, Callable[[str], bool]] = {
    "tracebacks": lambda problem: problem == "traceback" or problem.startswith("exit "),
    "silent losses": lambda problem: problem == LOST,
    "hangs": lambda problem: problem == "hang",
    "others": lambda problem: True,
}


def attack_many(kind: type[Kind], first: int, inputs: int, here: bool) -> Counter[str]:
    """Make so many inputs of a kind, print what was not as promised, and count it."""
    counted: Counter[str] = Counter(inputs=0, commands=0, **dict.fromkeys(COLUMNS, 0))
    with tempfile.TemporaryDirectory(dir="/dev/shm" if os.access("/dev/shm", os.W_OK) else None) as folder:
        made = kind(Path(folder) / "room", here)
        try:
            for seed in range(first, first + inputs):
                counted.update(inputs=1)
                count(counted, seed, made.attack(Random(seed)))
        finally:
            made.close()
    return counted


def count(counted: Counter[str], seed: int, found: list[Outcome]) -> None:
    """Count what came of one input, and print what was not as promised."""
    for outcome in found:
        counted.update({"commands": 1, f"exit {outcome.code}": 1})
        counted.update(next(column for column, holds in COLUMNS.items() if holds(it)) for it in outcome.problems)
        if outcome.problems:
            print(f"  {seed}: {outcome.how}: {outcome}", flush=True)
        if "traceback" in outcome.problems:
            print("    ", "\n     ".join(outcome.err.splitlines()[-8:]), flush=True)


def report(words: list[str]) -> None:
    """Print a row for each kind."""
    parser = argparse.ArgumentParser()
    parser.add_argument("kinds", nargs="*", help="like 'files of runs'; default all")
    parser.add_argument("--inputs", type=int, default=100)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--here", action="store_true", help="in this process: quick, without limits")
    given = parser.parse_args(words)
    for kind in KINDS:
        if not given.kinds or kind.name in given.kinds:
            print(f"{kind.name}:", flush=True)
            print(f"{kind.name}: {dict(attack_many(kind, given.first, given.inputs, given.here))}", flush=True)


if __name__ == "__main__":
    report(sys.argv[1:])
