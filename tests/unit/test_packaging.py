"""The package's own promises: links, pins, one version, a cheap import, and the refusal of another Python."""

from __future__ import annotations

import importlib.metadata
import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest

FOLDERS = ("envs", "trainables", "search_spaces", "cluster", "dashboards")


@pytest.fixture(scope="module")
def pyproject(repo_root: Path) -> dict[str, Any]:
    """Return pyproject.toml as a dictionary."""
    return tomllib.loads((repo_root / "pyproject.toml").read_text())


def normalised(name: str) -> str:
    """Return a distribution's name in the one spelling of PEP 503."""
    return re.sub(r"[-_.]+", "-", name).lower()


def pins(repo_root: Path) -> dict[str, str]:
    """Return constraints.txt as {distribution: version}; every line must be an exact pin."""
    lines = [line for line in (repo_root / "constraints.txt").read_text().splitlines() if not line.startswith("#")]
    return {normalised(name): version for name, version in (line.split("==") for line in lines)}


def requirements(pyproject: dict[str, Any]) -> list[str]:
    """Return every requirement line of the core and of all extras."""
    extras = pyproject["project"]["optional-dependencies"].values()
    return pyproject["project"]["dependencies"] + [line for extra in extras for line in extra]


@pytest.mark.parametrize("folder", FOLDERS)
def test_each_of_the_five_folders_is_a_relative_link_in_the_package(repo_root: Path, folder: str) -> None:
    link = repo_root / "platform" / "understudy" / folder
    assert link.is_symlink()
    assert os.readlink(link) == f"../../{folder}"
    assert (repo_root / folder / "__init__.py").is_file()


def test_platform_holds_no_module_that_would_shadow_the_standard_library(repo_root: Path) -> None:
    assert [path.name for path in (repo_root / "platform").glob("*.py")] == []


def test_every_folder_with_modules_is_a_regular_package_so_that_wheels_hold_it(repo_root: Path) -> None:
    folders = [repo_root / "platform" / "understudy", *(repo_root / name for name in FOLDERS)]
    modules = [path for folder in folders for path in folder.rglob("*.py")]
    assert modules
    assert [str(path) for path in modules if not (path.parent / "__init__.py").exists()] == []


def test_every_requirement_is_pinned(repo_root: Path, pyproject: dict[str, Any]) -> None:
    names = {normalised(re.split(r"[\[<>=!~; ]", line)[0]) for line in requirements(pyproject)}
    assert names - set(pins(repo_root)) == {"understudy-learn"}  # an extra that is made of others


def test_torch_is_pinned_without_a_build_and_torchvision_is_not_needed(repo_root: Path) -> None:
    pinned = pins(repo_root)
    assert pinned["torch"] == "2.13.0"
    assert pinned["mujoco"] == "3.8.1"
    assert [name for name in pinned if name.startswith(("torchvision", "nvidia"))] == []
    assert [name for name, version in pinned.items() if "+" in version] == []


def test_what_is_installed_here_is_what_is_pinned(repo_root: Path, pyproject: dict[str, Any]) -> None:
    core = [normalised(re.split(r"[\[<>=!~; ]", line)[0]) for line in pyproject["project"]["dependencies"]]
    pinned = pins(repo_root)
    installed = {name: importlib.metadata.version(name).split("+")[0] for name in core}
    assert installed == {name: pinned[name] for name in core}


def test_importing_the_package_and_its_errors_loads_nothing_heavy() -> None:
    heavy = ("torch", "ray", "mlflow", "optuna", "gymnasium", "mujoco", "ogbench", "h5py", "pyarrow")
    code = f"import sys, understudy, understudy.errors; print([m for m in {heavy!r} if m in sys.modules])"
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=with_package(), check=True
    )
    assert result.stdout.strip() == "[]"


def test_the_command_line_with_the_commands_of_every_floor_loads_nothing_heavy() -> None:
    heavy = ("torch", "ray", "mlflow", "optuna", "gymnasium", "mujoco", "numpy", "pydantic", "hydra")
    code = (
        f"import sys, understudy.cli; understudy.cli.command_line(); print([m for m in {heavy!r} if m in sys.modules])"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=with_package(), check=True
    )
    assert result.stdout.strip() == "[]"


def test_load_policy_is_reached_from_the_package() -> None:
    import understudy
    from understudy.loading import load_policy

    assert understudy.load_policy is load_policy


def with_package() -> dict[str, str]:
    """Return this process's environment with the package importable in a child that pytest did not set up."""
    import understudy

    return {**os.environ, "PYTHONPATH": str(Path(understudy.__file__).parent.parent)}


def test_another_python_is_refused_in_one_line_that_says_which_will_do(repo_root: Path, tmp_path: Path) -> None:
    (tmp_path / "scripts").mkdir()
    for name in ("pyproject.toml", "constraints.txt", "scripts/setup.sh"):
        shutil.copy(repo_root / name, tmp_path / name)
    old = tmp_path / "python3.9"
    old.write_text('#!/bin/sh\ncase "$2" in *exit*) exit 1;; *) echo 3.9.18;; esac\n')
    old.chmod(0o755)
    result = subprocess.run(
        ["bash", "scripts/setup.sh"],
        cwd=tmp_path,
        env={**os.environ, "PYTHON": str(old)},
        capture_output=True,
        text=True,
    )
    assert result.returncode == 2
    assert result.stderr == f"error: PYTHON={old} is 3.9.18; understudy needs Python 3.11 to 3.13\n"
    assert not (tmp_path / ".venv").exists()


def test_nothing_names_the_package_that_another_project_has_on_the_index(repo_root: Path) -> None:
    from understudy.models import requirements as needed

    assert not [line for line in needed() if line.startswith("understudy")]
    texts = [*repo_root.glob("*.md"), *repo_root.glob("docs/**/*.md"), *repo_root.glob("Dockerfile")]
    for folder in ("platform/understudy", *FOLDERS):
        texts += [path for path in (repo_root / folder).rglob("*.py") if not path.is_symlink()]
    named = re.compile(r"pip install [^\n`]*['\" ]understudy(\[|==|['\" \n`]|$)")
    assert [str(path) for path in texts if named.search(path.read_text())] == []
