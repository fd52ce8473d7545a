"""The run directory: one configuration and its seeds on disk. The files here are the truth; MLflow gets copies.

    <save_dir>/<project>/<run_group>/<env_name>/sd000_<time>/
        flags.json        every key's value
        train.csv eval.csv timing.csv       (online: online_agent.csv and env.csv in place of train.csv, and before
                                            them offline_agent.csv, where a run begins on data)
        pbt.csv           a population's exchanges, where there is one
        checkpoint_N.pt   kept checkpoints          final_model.pt   the last one
        run.json          status, MLflow run id     tracking_url.txt
        log.txt           warnings, and why it ended where it did not end well
        resume/           rolling checkpoints, gone when the run has finished (online: kept with the replay buffer)

With several seeds the per-seed files stand in sd000/, sd001/, ..., each as if its seed had been run alone, and
eval.csv at the top holds the mean over seeds and its interval.
"""

from __future__ import annotations

import csv
import io
import os
import shutil
import threading
import time
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

from understudy.errors import SpecError, UnderstudyError, UserError
from understudy.files import (
    held,
    made_folder,
    read_object,
    remove_half_written,
    storage_errors,
    typed,
    user_path,
    write_atomic,
    write_json,
)
from understudy.spec.keys import build_run
from understudy.spec.run import RunSpec

TAIL = 1 << 16
"""Bytes from a csv file's end that hold at least one row."""


_changing = threading.Lock()
_TEXTS = ("status", "run_id", "parent_run_id", "name", "error", "dataset_hash", "storage", "tracking_error")
_OBJECTS = ("metrics", "best_parameters", "lineage", "files", "origin", "encoder_weights", "outcome", "counts")
_LISTS = ("earlier_datasets", "earlier_commits", "lost_rows")
_KINDS: dict[str, type] = {
    **dict.fromkeys(_TEXTS, str),
    **dict.fromkeys(_OBJECTS, dict),
    **dict.fromkeys((*_LISTS, "resumed_at"), list),
    **{"step": int, "pid": int, "driven_seconds": float},
}
"""What run.json's values are, where they are not null."""
TRACKING_ERROR = "tracking_error"
"""Key of run.json: why MLflow lacks some of the run, unless the store is only away."""


class CsvLog:
    """An append-only csv keyed by its first column `step`; rows at or before the last step are not written again.

    That makes resume exact: a run that goes on from an earlier checkpoint computes the same rows once more and
    they are already there. Floats are written with `repr`, so that reading them back loses nothing.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.header: list[str] | None = None
        self.last_step = -1
        if path.is_file():
            self._read_tail()

    def _read_tail(self) -> None:
        content = self.path.read_bytes()
        whole = _increasing(content[: content.rfind(b"\n") + 1])
        if content.startswith(whole) and len(whole) != len(content):  # the process died in the middle of a line
            os.truncate(self.path, len(whole))
        elif whole != content:
            write_atomic(self.path, lambda file: file.write(whole))
        rows = list(csv.reader(io.StringIO(whole.decode())))
        if rows:
            self.header = rows[0]
        if len(rows) > 1:
            self.last_step = int(rows[-1][0])

    def append(self, step: int, row: Mapping[str, Any]) -> bool:
        """Append one row and flush it; returns False when the step was there already."""
        if step <= self.last_step:
            return False
        new = self.header is None
        if self.header is None:
            self.header = ["step", *row]
        elif set(row) - set(self.header):
            raise UnderstudyError(f"{self.path.name} has no columns {sorted(set(row) - set(self.header))}")
        cells = {"step": step, **{key: repr(v) if isinstance(v, float) else v for key, v in row.items()}}
        text = io.StringIO()
        writer = csv.DictWriter(text, self.header, lineterminator="\n")
        if new:
            writer.writeheader()
        writer.writerow(cells)
        with storage_errors(self.path), open(self.path, "a", encoding="utf-8") as file:
            file.write(text.getvalue())
        self.last_step = step
        return True

    def cut(self, last: int) -> None:
        """Remove the rows of steps after `last`: those that a run which goes on from there will not compute again."""
        if self.header is None or self.last_step <= last:
            return
        lines = self.path.read_text(encoding="utf-8").splitlines(keepends=True)
        kept = [lines[0], *(line for line in lines[1:] if int(line.partition(",")[0]) <= last)]
        write_atomic(self.path, lambda file: file.write("".join(kept).encode()))
        self.last_step = int(kept[-1].partition(",")[0]) if len(kept) > 1 else -1

    def sync(self) -> None:
        """Make every row durable: called before a checkpoint that comes after them."""
        if self.path.is_file():
            with storage_errors(self.path), open(self.path, "rb") as file:
                os.fsync(file.fileno())


def _increasing(content: bytes) -> bytes:
    """Return a csv file's lines without those whose step is no number, or is there already."""
    header, *lines = content.splitlines(keepends=True) or [b""]
    kept, last = [header], -1
    for line in lines:
        step = line.partition(b",")[0].strip()
        if step.isdigit() and int(step) > last:
            kept.append(line)
            last = int(step)
    return b"".join(kept)


def read_csv(path: Path) -> list[dict[str, float]]:
    """Return the rows of a CsvLog as floats (empty cells are left out)."""
    with open(path, encoding="utf-8", newline="") as file:
        return [{k: float(v) for k, v in row.items() if v not in ("", None)} for row in csv.DictReader(file)]


def read_last_row(path: Path) -> dict[str, float]:
    """Return the last whole row of a CsvLog without reading those before it; {} where there is none yet."""
    with open(path, "rb") as file:
        header = file.readline()
        end = file.seek(0, os.SEEK_END)
        file.seek(max(len(header), end - TAIL))
        lines = file.read().split(b"\n")
    if len(lines) < 2:  # the last piece is what comes after the last newline
        return {}
    cells = zip(header.decode().strip().split(","), lines[-2].decode().split(","), strict=False)
    return {key: float(value) for key, value in cells if value}


def _is_of_kind(key: str, value: Any) -> bool:
    """Return whether a value of run.json is null or of the kind that is written there under its key."""
    if value is None:
        return True
    if not isinstance(value, _KINDS[key]) or isinstance(value, bool):
        return False
    return key not in _LISTS or all(isinstance(item, str) for item in cast("list[Any]", value))


class RunDir:
    """Paths and small state of one run directory."""

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)

    @classmethod
    def create(cls, spec: RunSpec) -> RunDir:
        """Make a new directory for `spec`, named by its seeds and the time, and write flags.json."""
        seeds = spec.all_seeds
        name = f"sd{seeds[0]:03d}" if len(seeds) == 1 else f"sd{seeds[0]:03d}-sd{seeds[-1]:03d}"
        with new_folder(spec.folder, name) as path:
            return cls.at(path, spec)

    @classmethod
    def at(cls, path: Path, spec: RunSpec) -> RunDir:
        """Use `path` (made when missing) as the directory of `spec`, writing flags.json once."""
        run = cls(path)
        with storage_errors(path):
            path.mkdir(parents=True, exist_ok=True)
        if not run.flags.is_file():
            write_json(run.flags, spec.flat())
        return run

    @classmethod
    def existing(cls, path: Path | str) -> RunDir:
        """Open a run directory, or raise UserError when `path` is not one."""
        run = cls(user_path(path))
        if not run.flags.is_file():
            raise UserError(f"{path} is no run directory: it has no flags.json (`understudy runs list` shows them)")
        return run

    @property
    def flags(self) -> Path:
        return self.path / "flags.json"

    @property
    def trial(self) -> int | None:
        """Number of the sweep trial that this run belongs to; None for a run outside a sweep."""
        number = self.path.name.partition("_")[0]
        return int(number) if self.path.parent.name == "trials" and number.isdecimal() else None

    @property
    def resume(self) -> Path:
        """Folder of the rolling checkpoints."""
        return self.path / "resume"

    def spec(self) -> RunSpec:
        """Read the run's spec back from flags.json; the errors name that file."""
        try:
            return build_run(read_object(self.flags))
        except SpecError as error:
            raise SpecError(f"{self.flags}: {error}") from None

    def member(self, seed: int, seeds: tuple[int, ...]) -> Path:
        """Return the folder of one seed's files: the run's own when there is one seed."""
        folder = self.path if len(seeds) == 1 else self.path / f"sd{seed:03d}"
        folder.mkdir(exist_ok=True)
        return folder

    def state(self) -> dict[str, Any]:
        """Return run.json: status, step, MLflow ids, error; UserError where a value is not what we write there."""
        path = self.path / "run.json"
        found = read_object(path) if path.is_file() else {}
        for key, kind in _KINDS.items():
            if not _is_of_kind(key, found.get(key)):
                wrong = f"{found[key]!r:.60} is no {kind.__name__}{' of texts' if key in _LISTS else ''}"
                raise UserError(f"{path}: {key}: {wrong}: it was changed by hand; put its copy back")
        return found

    def update_state(self, **changes: Any) -> None:
        """Merge `changes` into run.json, atomically; threads of the process that holds the run take turns."""
        with _changing:
            write_json(self.path / "run.json", {**self.state(), **changes})

    def check_data(self, trained_on: str, given: str) -> None:
        """Raise UserError where the data have another content hash than those that the run has trained on.

        Hashes of data that it may leave, by `understudy resume RUN --accept-new-data`, are in run.json's
        `earlier_datasets`; an empty hash is of no data.
        """
        if trained_on in ("", given) or trained_on in (self.state().get("earlier_datasets") or []):
            return
        raise UserError(
            f"{self.path}: it trained on another dataset (hash {trained_on[:12]}) than is there now ({given[:12]}): put"
            f" that one back, or `understudy resume {typed(self.path)} --accept-new-data` goes on with what is there"
        )

    @contextmanager
    def locked(self) -> Generator[None]:
        """Hold the run for this process; a second holder gets a UserError naming the first."""
        with hold(self.path / ".lock", f"run {self.path}"):
            yield


@contextmanager
def new_folder(parent: Path, name: str) -> Generator[Path]:
    """Make `<parent>/<name>_<time>`, numbered where that is taken; it is removed again where the block fails."""
    stem = f"{name}_{time.strftime('%Y%m%d_%H%M%S')}"
    with storage_errors(parent), made_folder(parent):
        for attempt in range(1000):
            path = parent / (stem if attempt == 0 else f"{stem}_{attempt}")
            try:
                path.mkdir()
            except FileExistsError:
                continue
            break
        else:
            raise UnderstudyError(f"cannot make a new folder in {parent}")
        try:
            yield path
        except BaseException:
            shutil.rmtree(path, ignore_errors=True)
            raise


@contextmanager
def hold(path: Path, what: str) -> Generator[None]:
    """Hold a run's or a sweep's lock file; UserError names the process that has it.

    What a killed process had half written there is removed.
    """
    with held(path, f"{what} is in use by process {{holder}}; stop it first"):
        for folder in (path.parent, path.parent / "resume", *path.parent.glob("sd*/")):
            remove_half_written(folder)
        yield
