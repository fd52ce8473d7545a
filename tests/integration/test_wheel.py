"""The wheel, used from outside the repository: every module of the source tree is in it and imports from there."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

IMPORT_ALL = """
import importlib, sys
for name in sys.stdin.read().split():
    module = importlib.import_module(name)
    assert module.__file__.startswith(sys.argv[1]), f"{name} came from {module.__file__}"
"""


@pytest.fixture(scope="module")
def wheel(repo_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the wheel from a copy of the sources, so that no build folder of an earlier day ends up in it."""
    work = tmp_path_factory.mktemp("wheel")
    source = copy_of_the_sources(repo_root, work / "source")
    command = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "--no-deps",
        "--no-build-isolation",
        "-q",
        "-w",
        str(work),
        str(source),
    ]
    result = subprocess.run(command, capture_output=True, text=True, cwd=work)
    assert result.returncode == 0, result.stderr[-2000:]
    (path,) = work.glob("understudy_learn-*.whl")
    return path


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Install the wheel alone into a folder outside the repository."""
    target = tmp_path_factory.mktemp("site")
    command = [
        sys.executable,
        "-m",
        "pip",
        "install",
        "--no-deps",
        "--no-index",
        "-q",
        "--target",
        str(target),
        str(wheel),
    ]
    subprocess.run(command, check=True, cwd=target)
    return target


def copy_of_the_sources(repo_root: Path, target: Path) -> Path:
    """Copy what git would give a fresh clone, links kept as links."""
    target.mkdir()
    names = [
        "pyproject.toml",
        "README.md",
        "LICENSE",
        "platform",
        "envs",
        "trainables",
        "search_spaces",
        "cluster",
        "dashboards",
    ]
    exclude = ["--exclude=__pycache__", "--exclude=*.egg-info"]
    archive = subprocess.run(["tar", "-c", *exclude, *names], cwd=repo_root, capture_output=True, check=True).stdout
    subprocess.run(["tar", "-x"], cwd=target, input=archive, check=True)
    return target


def source_files(repo_root: Path, pattern: str) -> set[str]:
    """Return the files of the source tree by their path in the package, the five links followed."""
    package = repo_root / "platform"
    found = (Path(folder) / name for folder, _, names in os.walk(package, followlinks=True) for name in names)
    return {str(path.relative_to(package)) for path in found if path.match(pattern) and "egg-info" not in str(path)}


def module_name(path: str) -> str:
    """Return the dotted name of a module's path: envs/__init__.py is the package itself."""
    return path.removesuffix(".py").removesuffix("/__init__").replace("/", ".")


def run(installed: Path, cwd: Path, *arguments: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
    """Run Python where the only understudy is the installed one."""
    environment = {**os.environ, "PYTHONPATH": str(installed)}
    command = [sys.executable, "-P", *arguments]
    return subprocess.run(command, cwd=cwd, env=environment, input=stdin, capture_output=True, text=True)


@pytest.mark.parametrize("pattern", ["*.py", "py.typed", "*.yaml", "*.html", "*.json", "*.css", "*.js"])
def test_every_file_of_the_source_tree_is_in_the_wheel(wheel: Path, repo_root: Path, pattern: str) -> None:
    held = {name for name in zipfile.ZipFile(wheel).namelist() if Path(name).match(pattern)}
    assert {name for name in held if name.startswith("understudy/")} == source_files(repo_root, pattern)


@pytest.mark.slow
def test_every_module_imports_from_the_wheel_outside_the_repository(
    installed: Path, repo_root: Path, tmp_path: Path
) -> None:
    names = sorted(module_name(path) for path in source_files(repo_root, "*.py") if not path.endswith("__main__.py"))
    result = run(installed, tmp_path, "-c", IMPORT_ALL, str(installed), stdin="\n".join(names))
    assert result.returncode == 0, result.stderr[-3000:]


def test_the_console_script_of_the_wheel_runs_outside_the_repository(installed: Path, tmp_path: Path) -> None:
    result = run(installed, tmp_path, str(installed / "bin" / "understudy"), "--help")
    assert result.returncode == 0, result.stderr
    assert "quickstart" in result.stdout


def test_the_version_of_the_wheel_is_the_one_in_the_package(installed: Path, tmp_path: Path) -> None:
    code = "import importlib.metadata as m, understudy; print(m.version('understudy-learn'), understudy.__version__)"
    result = run(installed, tmp_path, "-c", code)
    assert result.returncode == 0, result.stderr
    assert len(set(result.stdout.split())) == 1


def test_the_registries_find_the_algorithms_of_an_installed_wheel(installed: Path, tmp_path: Path) -> None:
    code = "from understudy.registry import algorithms; print(sorted(algorithms.names()))"
    result = run(installed, tmp_path, "-c", code)
    assert result.returncode == 0, result.stderr
    assert "flow_bc" in result.stdout
