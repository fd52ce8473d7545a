"""Ship exactly this code: copy the running package and the user's plug-ins into one folder, and name it by its content.

The copy shadows whatever understudy an image has: it comes first on every node's path, and the driver compares hashes.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import re
import shutil
import sys
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import understudy
from understudy.errors import UserError
from understudy.files import read_object, user_path
from understudy.spec.run import RunSpec

PACKAGE = "understudy"
LEFT_OUT = ("__pycache__", ".pyc", ".egg-info")
TOP = "code"
"""The one folder at a zip's top: Ray takes it off again."""


@dataclass(frozen=True)
class Plugin:
    """A package's folder or a module's file, and the name that it is imported by."""

    name: str
    path: Path


def find_plugin(text: str) -> Plugin:
    """Return the plug-in at a path (a folder of modules, a .py file) or of a module's name; else UserError."""
    path = user_path(text)
    if path.is_dir() and not any(path.glob("*.py")):
        raise UserError(f"--plugin {text}: has no .py file; give a folder of them, one file, or a module's name")
    if path.exists():
        path = path.absolute()
        if path.is_file() and path.suffix != ".py":
            raise UserError(f"--plugin {text}: is no Python file")
        return _named(text, path.stem if path.is_file() else path.name, path)
    try:
        spec = importlib.util.find_spec(text) if text.isidentifier() else None
    except (ImportError, ValueError):
        spec = None
    places = [*(spec.submodule_search_locations or [spec.origin])] if spec else []
    if not places or places[0] is None:
        raise UserError(f"--plugin {text}: neither a path nor an importable module's name")
    return _named(text, text, Path(places[0]))


def _named(text: str, name: str, path: Path) -> Plugin:
    if not name.isidentifier():
        raise UserError(f"--plugin {text}: {name!r} cannot be imported by that name")
    if name == PACKAGE or name in sys.stdlib_module_names:
        raise UserError(f"--plugin {text}: {name!r} would hide the module of that name")
    return Plugin(name, path)


def own_environment(spec: RunSpec, sent: Sequence[str]) -> list[Plugin]:
    """Return the user's module that the run's environment, `module:Class`, is in, where it is not `sent` already.

    A module of an installed package is not sent: the nodes' image has the same packages.
    """
    manifest = spec.placement.datasets / spec.env_name.replace("/", "__") / "manifest.json"
    known: Any = read_object(manifest).get("provenance", {}) if manifest.is_file() else {}
    reference = str(known.get("env_name") or spec.env_name)
    if not re.fullmatch(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*", reference):
        return []
    name = reference.partition(":")[0].partition(".")[0]
    here = Path(name) if Path(name).is_dir() else Path(f"{name}.py")
    if not here.exists() and importlib.util.find_spec(name) is None:
        return []  # a source's name that looks like a reference
    plugin = find_plugin(str(here) if here.exists() else name)
    installed = any(part in ("site-packages", "dist-packages") for part in plugin.path.parts)
    return [] if installed or name in sent or name == PACKAGE else [plugin]


def use_plugins(plugins: Sequence[Plugin]) -> None:
    """Make the plug-ins importable here and have the registries load them, so that their names can be checked."""
    for plugin in plugins:
        folder = str(plugin.path.parent)
        if folder not in sys.path:
            sys.path.append(folder)
    os.environ["UNDERSTUDY_PLUGINS"] = ",".join(plugin.name for plugin in plugins)


def stage(folder: Path, plugins: Sequence[Plugin] = ()) -> str:
    """Copy the package (its links followed) and the plug-ins into `folder`; return the content hash."""
    for plugin in (Plugin(PACKAGE, Path(understudy.__file__).parent), *plugins):
        for name, path in files(plugin.path):
            target = folder / plugin.name / name if plugin.path.is_dir() else folder / plugin.path.name
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, target)
    return code_hash(folder, [plugin.name for plugin in plugins])


def code_hash(folder: Path, plugins: Sequence[str] = ()) -> str:
    """Return 16 hex digits over names and bytes of the package and the plug-ins below `folder`."""
    digest = hashlib.blake2b(digest_size=8)
    for name in (PACKAGE, *sorted(plugins)):
        root = folder / name if (folder / name).is_dir() else folder / f"{name}.py"
        for inside, path in files(root):
            content = path.read_bytes()
            digest.update(f"{name}/{inside}\0{len(content)}\0".encode())
            digest.update(content)
    return digest.hexdigest()


def files(root: Path) -> Iterator[tuple[str, Path]]:
    """Yield (name below root, path) of a folder's files in order, or of the one file that `root` is."""
    if root.is_file():
        yield root.name, root
        return
    for place, folders, names in os.walk(root, followlinks=True):
        folders[:] = sorted(name for name in folders if not _left_out(name))
        for name in sorted(names):
            if not _left_out(name):
                path = Path(place, name)
                yield path.relative_to(root).as_posix(), path


def _left_out(name: str) -> bool:
    return name.startswith(".") or name.endswith(LEFT_OUT)


def pack(folder: Path, target: Path) -> Path:
    """Zip a staged folder, the same bytes for the same content; return `target`."""
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
        for name, path in files(folder):
            archive.writestr(zipfile.ZipInfo(f"{TOP}/{name}"), path.read_bytes(), zipfile.ZIP_DEFLATED)
    return target


def check_code(wanted: str, plugins: Sequence[str]) -> None:
    """Raise UserError unless the code that runs here is the code that was submitted."""
    root = Path(understudy.__file__).parent.parent
    found = code_hash(root, plugins)
    if found != wanted:
        raise UserError(
            f"the code at {root} is {found}, submitted was {wanted}: another understudy hides the job's own"
        )
