"""A sweep's directory: its spec, study, trials and state."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

from understudy.errors import UserError
from understudy.files import read_object, user_path, write_json
from understudy.runs.directory import RunDir, hold, new_folder
from understudy.spec.keys import validate
from understudy.sweeping.sweep_spec import SweepSpec


class SweepDir:
    """Paths and small state of a sweep's folder."""

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)

    @classmethod
    def create(cls, spec: SweepSpec) -> SweepDir:
        """Make a new folder for the sweep and write its spec."""
        with new_folder(spec.base.folder, "sweep") as path:
            return cls.at(path, spec)

    @classmethod
    def at(cls, path: Path, spec: SweepSpec) -> SweepDir:
        """Use `path` (made when missing) as the sweep's folder, writing sweep.json once."""
        sweep = cls(path)
        if not (path / "sweep.json").is_file():
            write_json(path / "sweep.json", spec.model_dump(mode="json"))
        return sweep

    @classmethod
    def existing(cls, path: Path | str) -> SweepDir:
        """Open a sweep's folder, or raise UserError when it is none."""
        sweep = cls(user_path(path))
        if not (sweep.path / "sweep.json").is_file():
            raise UserError(f"{path} is no sweep: it has no sweep.json")
        return sweep

    def held(self) -> contextlib.AbstractContextManager[None]:
        """Hold the sweep for this process; a second holder gets a UserError naming the first."""
        return hold(self.path / ".lock", f"sweep {self.path}")

    def spec(self) -> SweepSpec:
        """Read the sweep's spec back."""
        return validate(SweepSpec, read_object(self.path / "sweep.json"))

    def state(self) -> dict[str, Any]:
        """Return run.json."""
        return RunDir(self.path).state()

    def update_state(self, **changes: Any) -> None:
        """Merge `changes` into the state, atomically."""
        RunDir(self.path).update_state(**changes)
