"""Commands that are run in the tests' own process, where none is killed; what the tests of faults compare with."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tests.integration.breaking import server as server
from tests.integration.breaking import undisturbed as undisturbed
from tests.integration.breaking import undisturbed_sweep as undisturbed_sweep
from tests.unit.command_line import Said, understudy


@pytest.fixture
def say(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> Iterator[Callable[..., Said]]:
    """Run a command in an empty working folder, in this process.

    A Ray that it started ends with the test: the folder is deleted, and processes that Ray starts in it then die.
    """
    monkeypatch.chdir(tmp_path)

    def command(*words: str) -> Said:
        return understudy(monkeypatch, capsys, *words)

    yield command
    if "ray" in sys.modules:
        sys.modules["ray"].shutdown()


@pytest.fixture
def done(say: Callable[..., Said]) -> Callable[..., str]:
    """Run a command as `say` does, check its exit code, return stdout and stderr."""

    def command(*words: str, code: int = 0) -> str:
        said = say(*words)
        assert said.code == code, f"exit {said.code}, not {code}:\n{said.out}\n{said.err}"
        return said.out + said.err

    return command
