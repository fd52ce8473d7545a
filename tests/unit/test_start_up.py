"""A command starts in a moment: what takes seconds to import is imported where it is used."""

from __future__ import annotations

import subprocess
import sys

import pytest

SLOW = ("torch", "ray", "mlflow", "optuna", "pandas", "mujoco")


@pytest.mark.parametrize(
    "modules",
    [
        ("understudy.cli",),
        ("understudy.spec.keys", "understudy.spec.compose", "understudy.runs.find", "understudy.runs.directory"),
        ("understudy.envs.store.store", "understudy.cluster.profile", "understudy.tracking", "understudy.checkpoints"),
    ],
)
def test_what_every_command_imports_is_quick_to_import(modules: tuple[str, ...]) -> None:
    program = f"import sys, {', '.join(modules)}; print(*[name for name in {SLOW} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []
