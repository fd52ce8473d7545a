"""Run the command in this process: its exit code, and what it printed, as a shell would see them."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import Any

import pytest
import yaml

from understudy.cli import main


@dataclass(frozen=True)
class Said:
    """What one command left behind."""

    code: int
    out: str
    err: str

    @property
    def yaml(self) -> Any:
        """What --cfg printed, read back."""
        assert self.code == 0, self.err
        return yaml.safe_load(self.out)


def understudy(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *words: str) -> Said:
    """Return what `understudy WORDS` said; anything but SystemExit is a crash and propagates."""
    monkeypatch.setattr(sys, "argv", ["understudy", *words])
    capsys.readouterr()
    with pytest.raises(SystemExit) as ended:
        main()
    printed = capsys.readouterr()
    code = ended.value.code
    assert isinstance(code, int)
    return Said(code, printed.out, printed.err)
