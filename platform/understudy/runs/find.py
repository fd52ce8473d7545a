"""Find the run or sweep that a user means: by folder, by folder name, by MLflow run id, by its place in a storage."""

from __future__ import annotations

import os
import re
from pathlib import Path

from understudy.errors import UnknownName, UserError, did_you_mean
from understudy.files import user_path
from understudy.runs import mirror
from understudy.spec.placement import Placement

MARKERS = ("sweep.json", "flags.json", "matrix.json")


def find(name: str, root: Path | None = None) -> Path:
    """Return the folder of the run or sweep called `name`; UnknownName with the nearest folder names.

    Names are looked for below `root`, by default the default save_dir; what a storage holds comes there. A model's
    address (models:/NAME@best) stands for the run or the sweep that made it.
    """
    given, root = root, root or Path(Placement.model_fields["save_dir"].default)
    if "://" in name:
        return mirror.bring(name, root)
    if re.match(r"(models|runs):/", name):
        return _of_model(name, root)
    path = user_path(name)
    if any((path / marker).is_file() for marker in MARKERS):
        return path
    roots = [root, *([root.parent] if given is None else [])]
    known = {folder.name: folder for place in reversed(roots) for folder in folders(place)}
    for word in (name, name.rpartition(" ")[2]):  # a run's name in MLflow is its algorithm's and its folder's
        if word in known:
            return known[word]
    for folder in known.values():
        state = folder / "run.json"
        if state.is_file() and f'"run_id": "{name}"' in state.read_text(errors="replace"):
            return folder
    what = "is no run directory or sweep" if path.is_dir() else "no such run or sweep"
    raise UnknownName(f"{name}: {what}{did_you_mean(path.name, known)}; give its folder, its name or its MLflow run id")


def _of_model(address: str, root: Path) -> Path:
    """Return the folder of the run or sweep whose model it is; UserError where that is not on this machine."""
    from understudy.loading import run_of
    from understudy.tracking.addresses import default_tracking_uri

    run_id = run_of(address, os.environ.get("MLFLOW_TRACKING_URI") or default_tracking_uri(root))
    try:
        return find(run_id, root)
    except UnknownName:
        raise UserError(
            f"{address} is of MLflow run {run_id}, whose folder is not below {root}: `understudy evaluate` takes the"
            " model itself"
        ) from None


def folders(root: Path) -> list[Path]:
    """Return every run directory and sweep folder below `root`; a sweep's trials count as runs of their own."""
    found: list[Path] = []
    for place, subfolders, files in os.walk(root):
        if any(marker in files for marker in MARKERS):
            found.append(Path(place))
        subfolders[:] = [sub for sub in subfolders if not sub.startswith(".") and sub not in ("resume", "mlartifacts")]
    return found
