"""A command starts in a moment: what takes seconds to import is imported where it is used."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

SLOW = ("torch", "ray", "mlflow", "optuna", "pandas", "mujoco")


@pytest.mark.parametrize(
    "modules",
    [
        ("understudy.cli",),
        ("understudy.spec.keys", "understudy.spec.compose", "understudy.runs.find", "understudy.runs.directory"),
        ("understudy.envs.store.store", "understudy.cluster.profile", "understudy.tracking", "understudy.checkpoints"),
        # what processes of environments, of demonstrations and of imports begin with
        ("understudy.envs.rollouts.pools", "understudy.envs.rollouts.factory", "understudy.envs.experts.attempts"),
        ("understudy.envs.sources.bridge.parts", "understudy.envs.sources.robomimic.rendering"),
    ],
)
def test_what_every_command_imports_is_quick_to_import(modules: tuple[str, ...]) -> None:
    program = f"import sys, {', '.join(modules)}; print(*[name for name in {SLOW} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []


def test_training_does_not_import_torchs_compiler() -> None:
    program = (
        "import sys, small_packs; pack = small_packs.pack_of(small_packs.make()); small_packs.train(pack, 1, 2);"
        "print(*[name for name in ('torch._dynamo', 'sympy') if name in sys.modules])"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), *sys.path])}
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, env=environment)
    assert done.stdout.split() == []
