"""One run as pages show it: its keys, its state, and its curves. Only its files are read, and nothing is made."""

from __future__ import annotations

import itertools
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from understudy.dashboards.reading.files import Columns, Files, signature
from understudy.runs.origin import EARLIER, ORIGIN
from understudy.runs.results import objective_name
from understudy.runs.run_log import LOG
from understudy.secrecy import is_secret, without_secrets

WORDS = {"finished": "complete", "": "waiting"}
"""How a run's status is called where it is not called by itself."""
QUIET_SECONDS = 180.0
"""A running run that wrote nothing for so long is said to be quiet: its process may be gone."""
LOSSES = ("train", "offline_agent", "online_agent")
LOG_BYTES, LOG_WIDTH = 1 << 15, 500
"""How much of a log's end is read, and of one line of it."""
SHOWN_POINTS = 500
"""Points of a curve that are sent; of more, the lowest and highest of each stretch."""


@dataclass(frozen=True)
class RunView:
    """A run directory."""

    path: Path
    keys: Mapping[str, Any] = field(default_factory=dict[str, Any])
    state: Mapping[str, Any] = field(default_factory=dict[str, Any])
    problems: tuple[str, ...] = ()

    @property
    def seeds(self) -> tuple[int, ...]:
        """The seeds that train here."""
        seeds = self.keys.get("seeds")
        if isinstance(seeds, list) and seeds and all(isinstance(seed, int) for seed in seeds):
            return tuple(seeds)
        seed = self.keys.get("seed", 0)
        return (seed if isinstance(seed, int) else 0,)

    @property
    def status(self) -> str:
        """running, complete, stopped, failed, interrupted, or waiting."""
        found = str(self.state.get("status", ""))
        return WORDS.get(found, found)

    @property
    def metrics(self) -> dict[str, float]:
        """The last evaluation's means and intervals, once the run is finished."""
        found = self.state.get("metrics")
        return numbers(found) if isinstance(found, Mapping) else {}

    @property
    def total(self) -> int:
        """Its last step."""
        asked = whole(self.keys.get("training_steps")) + whole(self.keys.get("online_steps"))
        return max(asked, whole(self.state.get("step")))

    @property
    def error(self) -> str:
        """The line that says why it failed."""
        return without_secrets(str(self.state.get("error") or ""))

    @property
    def tracking_url(self) -> str:
        """Its page in MLflow, where one is known."""
        try:
            text = (self.path / "tracking_url.txt").read_text(encoding="utf-8", errors="replace").strip()
        except OSError:
            return ""
        return without_secrets(text) if text.startswith(("http://", "https://")) else ""

    @property
    def origin(self) -> dict[str, str]:
        """Which code made it, and on what, by name; {} for runs of versions that did not note it."""
        held = self.state.get(ORIGIN)
        if not isinstance(held, Mapping):
            return {}
        commit = str(held.get("commit") or "")
        code = {"commit": commit + (" with changes" if held.get("dirty") and commit else "")}
        others = {str(key): str(value) for key, value in held.items() if key not in ("commit", "dirty")}
        return {key: value for key, value in {**code, **others}.items() if value}

    @property
    def earlier_commits(self) -> list[str]:
        """The commits that it was trained at before it went on at another."""
        held = self.state.get(EARLIER)
        return [str(commit) for commit in held] if isinstance(held, list) else []

    def member(self, seed: int) -> Path:
        """Return the folder of one seed's files."""
        return self.path if len(self.seeds) == 1 else self.path / f"sd{seed:03d}"


def read_run(files: Files, folder: Path) -> RunView:
    """Return a run; what of it cannot be read is said in its problems."""
    flags, state = files.json(folder / "flags.json"), files.json(folder / "run.json")
    problems = [loaded.problem for loaded in (flags, state) if loaded.problem]
    if not flags.data and not flags.problem:
        problems.append("it has no flags.json yet: it is being set up, or was copied in part")
    return RunView(folder, flags.data, state.data, tuple(problems))


def log_lines(run: RunView, most: int = 30) -> list[str]:
    """Return the last lines of a run's log; [] where it has none."""
    try:
        with open(run.path / LOG, "rb") as file:
            end = file.seek(0, os.SEEK_END)
            begin = file.seek(max(0, end - LOG_BYTES))
            lines = file.read().decode("utf-8", "replace").splitlines()
    except OSError:
        return []
    return [without_secrets(line[:LOG_WIDTH]) for line in (lines[1:] if begin else lines)[-most:]]


def step_of(files: Files, run: RunView) -> int:
    """Return the last step that a run has written."""
    timed = files.last(run.path / "timing.csv").get("step", 0.0)
    evaluated = files.last(run.path / "eval.csv").get("step", 0.0)
    return max(whole(run.state.get("step")), int(timed), int(evaluated))


def speed_of(files: Files, run: RunView) -> float:
    """Return the last steps a second that a run has written; 0 where it has none."""
    return files.last(run.path / "timing.csv").get("steps_per_sec", 0.0)


def quiet_for(run: RunView) -> float:
    """Return for how many seconds a run that says that it is running has written nothing; 0 for any other."""
    if run.status != "running":
        return 0.0
    found = [signature(run.path / name) for name in ("run.json", "timing.csv", "eval.csv", "episodes.arrow")]
    newest = max((item[0] for item in found if item), default=0) / 1e9
    silent = time.time() - newest
    return silent if newest and silent > QUIET_SECONDS else 0.0


def last_metrics(files: Files, run: RunView) -> dict[str, float]:
    """Return what a run came to, or its last evaluation so far."""
    return run.metrics or files.last(run.path / "eval.csv")


def evaluation_curve(
    files: Files, run: RunView, name: str | None = None, most: int = SHOWN_POINTS
) -> dict[str, list[float | None]]:
    """Return the mean over seeds of a metric at each evaluation with its interval's ends: step, mean, low, high.

    Of more than `most` evaluations those where the mean is lowest and highest in its stretch.
    """
    table = files.csv(run.path / "eval.csv")
    name = name or objective_name(dict.fromkeys(table.names, 0.0)) or ""
    state = table.inode, table.offset, len(table.rows)
    return files.kept(run.path / "eval.csv" / name / str(most), state, lambda: _curve_in(table, name, most))


def _curve_in(table: Columns, name: str, most: int) -> dict[str, list[float | None]]:
    steps, mean = table.get("step"), table.get(name)
    if steps is None or mean is None:
        return {"step": [], "mean": [], "low": [], "high": []}
    low, high = table.get(f"{name}_low"), table.get(f"{name}_high")
    kept = peaks(mean, most)
    return {
        "step": plain(steps[kept]),
        "mean": plain(mean[kept]),
        "low": plain((mean if low is None else low)[kept]),
        "high": plain((mean if high is None else high)[kept]),
    }


def seed_curves(files: Files, run: RunView) -> dict[str, dict[int, tuple[list[float | None], list[float | None]]]]:
    """Return every metric of every seed as (steps, values): evaluations as eval/NAME, losses as train/NAME."""
    found: dict[str, dict[int, tuple[list[float | None], list[float | None]]]] = {}
    for seed in run.seeds:
        folder = run.member(seed)
        tables = [("eval", files.csv(folder / "eval.csv")), ("episode", files.csv(folder / "env.csv"))]
        tables += [("train", files.csv(folder / f"{name}.csv")) for name in LOSSES]
        for kind, table in tables:
            for name in table.names[1:]:
                if name.endswith(("_low", "_high", "_iqm", "_seeds", "_episodes")):
                    continue
                steps, values = thinned(table, name)
                if steps:
                    found.setdefault(f"{kind}/{name}", {})[seed] = (steps, values)
    return found


def thinned(table: Columns, name: str) -> tuple[list[float | None], list[float | None]]:
    """Return a column against its steps, in at most SHOWN_POINTS points that keep every peak."""
    steps, values = table.get("step"), table.get(name)
    if steps is None or values is None or not len(steps):
        return [], []
    kept = peaks(values, SHOWN_POINTS)
    return plain(steps[kept]), plain(values[kept])


def peaks(values: np.ndarray, most: int) -> np.ndarray:
    """Return the places of at most `most` values: all of them, or the lowest and highest of each stretch."""
    if len(values) <= most:
        return np.arange(len(values))
    edges = np.linspace(0, len(values), most // 2 + 1).astype(int)
    chosen: list[int] = []
    for begin, end in itertools.pairwise(edges.tolist()):
        part = values[begin:end]
        if np.isnan(part).all():
            chosen.append(int(begin))
            continue
        chosen += sorted({int(begin + np.nanargmin(part)), int(begin + np.nanargmax(part))})
    return np.array(chosen)


def shown_keys(keys: Mapping[str, Any]) -> dict[str, str]:
    """Return a run's keys as text, without what is secret in them."""
    return {key: "***" if is_secret(key) and value else without_secrets(text_of(value)) for key, value in keys.items()}


def text_of(value: Any) -> str:
    """Return a key's value as one would type it."""
    if value is None:
        return "none"
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:g}" if isinstance(value, float) else str(value)


def plain(values: np.ndarray) -> list[float | None]:
    """Return numbers as JSON takes them, six digits each: NaN and infinity are None."""
    return [float(f"{value:.6g}") if np.isfinite(value) else None for value in values.tolist()]


def numbers(found: Mapping[str, Any]) -> dict[str, float]:
    """Return those of the values that are finite numbers."""
    kept = {
        key: value for key, value in found.items() if isinstance(value, int | float) and not isinstance(value, bool)
    }
    return {key: float(value) for key, value in kept.items() if np.isfinite(value)}


def whole(value: Any) -> int:
    """Return a value as a whole number; 0 for what is none."""
    return int(value) if isinstance(value, int | float) and np.isfinite(value) else 0
