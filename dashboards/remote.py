"""Runs whose files are elsewhere, read from MLflow: `understudy dashboard --tracking_uri URI`.

A folder is filled as pages ask for it: what the store lists of each run at once (keys, state, the last metrics), a
run's files when its page is opened. Pages then read that folder as they read any other.
"""

from __future__ import annotations

import json
import re
import threading
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from understudy.files import write_atomic, write_json
from understudy.tracking import list_runs
from understudy.tracking.fetching import bring_file, histories, run_files

RUNS = 2000
"""The newest runs that are listed."""
FRESH_SECONDS = 5.0
"""How old what the store said may be."""
LARGEST = 200 << 20
"""Bytes of a file that is still brought."""
ENDINGS = (".json", ".csv", ".arrow", ".mp4", ".npz", ".txt", ".png")
FOLDERS = re.compile(r"(sd\d+|videos|best)(/|$)")
STATES = {"FINISHED": "finished", "FAILED": "failed", "RUNNING": "running", "KILLED": "interrupted"}
OWN = ("run.json", "flags.json")
"""Files that the store's own words are newer than."""


class Remote:
    """A store of MLflow as a folder of runs."""

    def __init__(self, tracking_uri: str, folder: Path) -> None:
        self.tracking_uri, self.folder = tracking_uri, folder
        self._listed = float("-inf")
        self._paths: dict[str, str] = {}
        """Folders below the root by MLflow run id."""
        self._brought: dict[str, float] = {}
        self._ended: set[str] = set()
        self._lock = threading.Lock()

    def list(self) -> None:
        """Make a folder for each run that the store holds, and bring those up to date that go on.

        Raises StoreAway, in seconds, where the store does not answer.
        """
        with self._lock:
            if time.monotonic() - self._listed < FRESH_SECONDS:
                return
            rows = list_runs(self.tracking_uri, limit=RUNS)
            self._paths = _places(rows)
            for row in rows:
                self._note(row)
            self._listed = time.monotonic()

    def bring(self, path: str) -> None:
        """Bring the files of the run or the sweep that a page's path lies in; raises as `list`."""
        self.list()
        ids = {place: run_id for run_id, place in self._paths.items()}
        for folder in _above(path):
            if folder in ids:
                self._bring(ids[folder], self.folder / folder)

    def _bring(self, run_id: str, folder: Path) -> None:
        with self._lock:
            age = time.monotonic() - self._brought.get(run_id, float("-inf"))
            if age < FRESH_SECONDS or (run_id in self._ended and run_id in self._brought):
                return
            for path, size in run_files(self.tracking_uri, run_id, _wanted):
                there = folder / path
                if size > LARGEST or path in OWN or (there.is_file() and there.stat().st_size == size):
                    continue
                bring_file(self.tracking_uri, run_id, path, there)
            if not (folder / "sweep.json").is_file():
                self._curves(run_id, folder)
            self._brought[run_id] = time.monotonic()

    def _curves(self, run_id: str, folder: Path) -> None:
        """Write the csv files of a run whose own are not among its files, which come there when it has ended."""
        metrics = json.loads((folder / ".metrics.json").read_text(encoding="utf-8"))
        kinds: dict[str, list[str]] = {}
        for key in metrics:
            stem, _, name = key.rpartition("/")
            if re.fullmatch(r"(sd\d+/)?(eval|train|env)", stem) and name:
                kinds.setdefault(stem, []).append(key)
        for stem, keys in kinds.items():
            file = folder / f"{stem}.csv"
            if file.is_file() and not (folder / f".{stem.replace('/', '.')}").is_file():
                continue
            found = histories(self.tracking_uri, run_id, keys)
            _write_csv(file, {key.rpartition("/")[2]: values for key, values in found.items()})
            (folder / f".{stem.replace('/', '.')}").touch()  # made here: made again while the run goes on

    def _note(self, row: Mapping[str, Any]) -> None:
        """Write what the store lists of a run: its keys, its state, its last metrics."""
        run_id, folder = str(row["run_id"]), self.folder / self._paths[str(row["run_id"])]
        if run_id in self._ended:
            return
        keys = {key: _value(str(text)) for key, text in row["params"].items()}
        tags, metrics = row["tags"], row["metrics"]
        state = {
            "status": "stopped" if tags.get("state") == "pruned" else STATES.get(row["status"], "interrupted"),
            "run_id": run_id,
            "error": tags.get("error"),
            "step": _step(row),
            "metrics": {key.removeprefix("eval/"): value for key, value in metrics.items() if key.startswith("eval/")},
            "origin": {"commit": tags.get("git_commit", ""), "dirty": tags.get("git_dirty") == "true",
                       "host": tags.get("understudy.host", ""), "understudy": tags.get("understudy.version", "")},
        }  # fmt: skip
        if tags.get("kind") == "sweep":
            if not (folder / "sweep.json").is_file():
                write_json(folder / "sweep.json", {"run": keys, "dimensions": {}, "grid": {}, "options": {}})
        else:
            write_json(folder / "flags.json", keys)
            write_json(folder / ".metrics.json", dict(metrics))
        write_json(folder / "run.json", state)
        if str(row["url"]).startswith("http"):
            write_atomic(folder / "tracking_url.txt", lambda file: file.write(f"{row['url']}\n".encode()))
        if state["status"] in ("finished", "failed", "stopped"):
            self._ended.add(run_id)


def _places(rows: Iterable[Mapping[str, Any]]) -> dict[str, str]:
    """Return a folder for each run: below its experiment and data, a trial's below its sweep's."""
    known = {str(row["run_id"]): row for row in rows}
    places: dict[str, str] = {}
    taken: set[str] = set()

    def place(run_id: str) -> str:
        if run_id in places:
            return places[run_id]
        row = known[run_id]
        name = _safe(Path(str(row["tags"].get("run_dir") or row["name"])).name)
        parent = str(row.get("parent_run_id") or "")
        if parent in known and known[parent]["tags"].get("kind") == "sweep":
            path = f"{place(parent)}/trials/{name}"
        else:
            path = "/".join([_safe(str(row["experiment"])), _safe(str(row["tags"].get("env_name") or "runs")), name])
        if path in taken:
            path = f"{path}_{run_id[:8]}"
        taken.add(path)
        places[run_id] = path
        return path

    for run_id in known:
        place(run_id)
    return places


def _safe(name: str) -> str:
    """Return a name as one folder's: whatever a store holds, it stays where it is put."""
    return re.sub(r"[^\w.=, -]", "_", name).lstrip(".")[:120] or "_"


def _above(path: str) -> list[str]:
    """Return a path and the folders above it, the outermost first."""
    parts = [part for part in path.split("/") if part]
    return ["/".join(parts[:count]) for count in range(1, len(parts) + 1)]


def _wanted(path: str) -> bool:
    name = path.rpartition("/")[2]
    if ".." in path or name.startswith("."):
        return False
    return path.endswith(ENDINGS) if "." in name else FOLDERS.match(path) is not None


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return None if text == "None" else text


def _step(row: Mapping[str, Any]) -> int:
    """Return the last step of a run that has ended, which its keys say; 0 for one under way."""
    if row["status"] != "FINISHED":
        return 0
    steps = (_value(str(row["params"].get(key, 0))) for key in ("training_steps", "online_steps"))
    return sum(step for step in steps if isinstance(step, int))


def _write_csv(file: Path, columns: Mapping[str, Mapping[int, float]]) -> None:
    """Write metrics by step as the run's own csv would have them."""
    names = [name for name in columns if "," not in name]
    steps = sorted({step for name in names for step in columns[name]})
    rows = [",".join(["step", *names])]
    rows += [",".join([str(step), *(repr(columns[name].get(step, "")) for name in names)]) for step in steps]
    write_atomic(file, lambda out: out.write(("\n".join(rows).replace("''", "") + "\n").encode()))
