"""Presets: the published protocols of methods, one YAML file each in `conf/preset/` (a user's own in `--config-dir`).

A file holds keys of a run, `by_algo` with keys for some methods alone, and `about`, which says what it is: `what`,
`source`, `counts` (which checkpoint and how many episodes published numbers are of), `differs` (what here is not as
published) and `methods` (those that it is for; left out: all). What the command line says goes before a preset's keys.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from understudy.errors import SpecError

FOLDER = Path(__file__).parents[1] / "conf" / "preset"
ABOUT, BY_ALGO = "about", "by_algo"


@dataclass(frozen=True)
class Preset:
    """One file."""

    name: str
    about: Mapping[str, Any]
    keys: Mapping[str, Any]
    by_algo: Mapping[str, Mapping[str, Any]] = field(default_factory=dict[str, Mapping[str, Any]])

    @property
    def what(self) -> str:
        """Whose protocol it is, in a line."""
        return str(self.about.get("what", ""))


def presets() -> list[Preset]:
    """Return the presets of this package, by name."""
    return [_read(file) for file in sorted(FOLDER.glob("*.yaml"))]


def _read(file: Path) -> Preset:
    held: dict[str, Any] = yaml.safe_load(file.read_text(encoding="utf-8"))
    about, by_algo = held.pop(ABOUT, {}), held.pop(BY_ALGO, {})
    return Preset(file.stem, about, held, by_algo)


def check_method(name: str, about: Mapping[str, Any], algo: str) -> None:
    """Raise SpecError where a preset is for other methods."""
    methods = [str(method) for method in about.get("methods", ())]
    if methods and algo not in methods:
        raise SpecError(f"preset={name} is for algo={' or '.join(methods)}, not algo={algo}")
