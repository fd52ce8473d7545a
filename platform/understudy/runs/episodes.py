"""Every episode that a run was evaluated on, a row each: what all rates, returns and intervals are computed from.

`episodes.arrow` in the run directory is an Arrow IPC stream. Rows are appended as episodes end; when an evaluation is
whole, its rows are put in order and become one batch. A file that ends in the middle of a row (a killed process) is
read up to there. Rows of an evaluation that is made again, after an interruption, take the place of the first ones.

Shape suffixes: K seeds, E episodes of one seed.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, BinaryIO, Protocol

import numpy as np
import pyarrow as pa
from pyarrow import compute

from understudy.errors import UserError
from understudy.files import storage_errors, write_atomic
from understudy.runs.find import find
from understudy.statistics import ConfidenceInterval, interval, return_interval

pc: Any = compute  # its functions are made at import: type checkers know none
FILE = "episodes.arrow"
SCHEMA = pa.schema(
    [
        ("trial", pa.int32()),
        ("stage", pa.string()),
        ("seed", pa.int64()),
        ("step", pa.int64()),
        ("setting", pa.string()),
        ("temperature", pa.float64()),
        ("episode", pa.int32()),
        ("reset_seed", pa.int64()),
        ("success", pa.float64()),
        ("return", pa.float64()),
        ("normalized_return", pa.float64()),
        ("length", pa.int32()),
        ("last_frame", pa.int64()),
        ("text", pa.string()),
    ]
)
ORDER = ("step", "setting", "seed", "episode")
TEMPERATURE = "temperature"
"""Column of the scale of the noise that was acted with, here and in eval.csv."""
TRAINING, CONFIRMATION, REGISTERED = "training", "confirmation", "registered"
"""What an evaluation was for: the run's own, during and after training; in sweeps also the confirmation of the chosen
configurations, and the score of the seed that is registered."""


@dataclass(frozen=True)
class Played:
    """One episode that has ended."""

    seed: int
    episode: int
    reset_seed: int
    returns: float
    length: int
    success: float | None = None
    normalized_return: float | None = None
    last_frame: int | None = None
    """Index, in the run's video, of the last frame of this episode; None where it was not filmed."""
    text: str | None = None
    """The task's text that the policy was told; None where it was told none."""


@dataclass(frozen=True)
class Setting:
    """How the policy acts in an evaluation: its evaluation-time parameters as text (`flow_steps=10`) and its noise."""

    text: str = ""
    temperature: float = 0.0


def setting_text(parameters: Mapping[str, Any]) -> str:
    """Return the evaluation-time parameters that are set as one text, the value of the column `setting`."""
    return ", ".join(f"{key}={parameters[key]}" for key in sorted(parameters) if parameters[key] is not None)


class EpisodeLog:
    """The table of one run, opened for appending."""

    def __init__(self, path: Path, trial: int | None = None, stage: str = TRAINING) -> None:
        self._path, self._trial, self._stage = path, trial, stage

    def at(self, step: int) -> Recorder:
        """Begin the evaluation of a step. Rows of this and later steps are removed: they will be computed again."""
        kept = self._whole_before(step)
        if self._path.is_file() and kept != self._path.stat().st_size:
            with storage_errors(self._path):
                os.truncate(self._path, kept)
        return Recorder(self, step, kept)

    def _whole_before(self, step: int) -> int:
        """Return how many bytes the rows of earlier steps take."""
        kept = 0
        for batch, end in _batches(self._path):
            if batch is not None and batch.num_rows and pc.max(batch["step"]).as_py() >= step:
                break
            kept = end
        return kept

    def append(self, rows: Sequence[dict[str, Any]]) -> None:
        """Append rows as one batch, after the schema where there is none yet."""
        constant = {"trial": self._trial, "stage": self._stage}
        batch = pa.RecordBatch.from_pylist([{**constant, **row} for row in rows], schema=self._schema())
        with storage_errors(self._path), open(self._path, "ab") as file:
            head = b"" if file.tell() else SCHEMA.serialize().to_pybytes()
            file.write(head + batch.serialize().to_pybytes())

    def _schema(self) -> pa.Schema:
        """Return the columns of the file that is there: one that an earlier version began may have fewer."""
        if not self._path.is_file() or not self._path.stat().st_size:
            return SCHEMA
        with storage_errors(self._path), pa.OSFile(str(self._path)) as file:
            return pa.ipc.read_schema(pa.ipc.read_message(file))

    def rewrite(self, place: int, rows: Sequence[dict[str, Any]]) -> None:
        """Replace everything after byte `place` by `rows`, in order; durable when it returns."""
        with storage_errors(self._path):
            if self._path.is_file():
                os.truncate(self._path, place)
            self.append(sorted(rows, key=lambda row: [row[key] for key in ORDER]))
            with open(self._path, "rb") as file:
                os.fsync(file.fileno())


class Recorder:
    """Collects the episodes of one evaluation, in whatever order they end."""

    def __init__(self, log: EpisodeLog, step: int, place: int) -> None:
        self._log, self._step, self._place = log, step, place
        self._rows: dict[tuple[str, int, int], dict[str, Any]] = {}

    def add(self, setting: Setting, played: Played) -> None:
        """Append one episode; one that is played again (a worker process died) has its row already."""
        key = (setting.text, played.seed, played.episode)
        if key not in self._rows:
            self._rows[key] = _row(self._step, setting, played)
            self._log.append([self._rows[key]])

    def film(self, setting: Setting, last_frames: Mapping[tuple[int, int], int]) -> None:
        """Note where in the video each filmed (seed, episode) ends."""
        for (seed, episode), frame in last_frames.items():
            row = self._rows.get((setting.text, seed, episode))
            if row is not None:
                row["last_frame"] = frame
        self.finish()

    def finish(self) -> None:
        """Make the rows one batch, in order: a run that was interrupted ends with the same file as one that was not."""
        if self._rows:
            self._log.rewrite(self._place, list(self._rows.values()))


def _row(step: int, setting: Setting, played: Played) -> dict[str, Any]:
    values = asdict(played)
    return {
        "step": step,
        "setting": setting.text,
        "temperature": setting.temperature,
        "return": values.pop("returns"),
        **values,
    }


def _batches(path: Path) -> Iterator[tuple[pa.RecordBatch | None, int]]:
    """Yield (batch, byte after it) of the whole messages of a file, (None, ...) for the schema; no torn one."""
    if not path.is_file() or not path.stat().st_size:
        return
    reader = pa.BufferReader(path.read_bytes())
    schema: pa.Schema | None = None
    while reader.tell() < reader.size():
        try:
            message = pa.ipc.read_message(reader)
            if schema is None:
                schema = pa.ipc.read_schema(message)
                yield None, reader.tell()
            else:
                yield pa.ipc.read_record_batch(message, schema), reader.tell()
        except (OSError, pa.ArrowInvalid, EOFError):  # the process died in the middle of it
            return


def read_episodes(path: Path) -> pa.Table:
    """Return the rows of one file, in order; none where there is no file, as in runs of earlier versions.

    Columns that an earlier version did not write are empty.
    """
    found = [batch for batch, _ in _batches(path) if batch is not None]
    table = pa.Table.from_batches(found) if found else SCHEMA.empty_table()
    if "text" not in table.schema.names:
        table = table.append_column("text", pa.array([None] * table.num_rows, pa.string()))
    return table.select(SCHEMA.names).sort_by([(key, "ascending") for key in ORDER])


class HasFolder(Protocol):
    """What `understudy.train` and `understudy.sweep` return."""

    @property
    def path(self) -> Path:
        """The folder of the run or the sweep."""
        ...


def load_episodes(run: str | Path | HasFolder) -> pa.Table:
    """Return every episode of a run or of a sweep (all its trials and the confirmation), a row each.

    `run` is what `understudy.train` or `sweep` returned, a folder, its name or an MLflow run id. Columns: trial, stage,
    seed, step, setting, temperature, episode, reset_seed, success, return, normalized_return, length, last_frame,
    text. No rows for runs of versions without the table.
    """
    folder = find(str(run if isinstance(run, str | Path) else run.path))
    files = [folder / FILE]
    if (folder / "sweep.json").is_file():
        files += sorted(folder.glob(f"trials/*/{FILE}"))
    return pa.concat_tables([read_episodes(file) for file in files])


# ---- statistics of rows ----


def last_step(table: pa.Table) -> pa.Table:
    """Return the rows of the newest evaluation."""
    return table.filter(pc.equal(table["step"], pc.max(table["step"]))) if table.num_rows else table


def rows_where(table: pa.Table, **values: Any) -> pa.Table:
    """Return the rows whose columns have these values; None is a value like any other."""
    for key, value in values.items():
        same = pc.is_null(table[key]) if value is None else pc.fill_null(pc.equal(table[key], value), False)
        table = table.filter(same)
    return table


def scores(table: pa.Table, column: str) -> np.ndarray:
    """Return one setting's column of one step as [K, E], seeds and reset seeds in order.

    Raises UserError where a seed did not play the others' episodes, or where the column is not known.
    """
    if not table.num_rows or table[column].null_count:
        raise UserError(f"no {column} is known of these episodes")
    ordered = table.sort_by([("seed", "ascending"), ("reset_seed", "ascending")])
    seeds, states = (len(pc.unique(table[key])) for key in ("seed", "reset_seed"))
    if seeds * states != table.num_rows:
        raise UserError(f"{table.num_rows} episodes are not those of {seeds} seeds on the same {states} start states")
    return ordered[column].to_numpy().reshape(seeds, states)


def objective_column(table: pa.Table) -> str:
    """Return what the episodes of an evaluation are scored by: success, else normalized_return, else return."""
    known = (name for name in ("success", "normalized_return") if table.num_rows and not table[name].null_count)
    return next(known, "return")


def interval_of(table: pa.Table, column: str | None = None) -> ConfidenceInterval:
    """Return the interval of one setting's episodes of one step: the one that tables, curves and reports print."""
    name = column or objective_column(table)
    values = scores(table, name)
    return interval(values) if name == "success" else return_interval(values)


def metrics_of(table: pa.Table) -> dict[str, float]:
    """Return the summary of one setting's episodes of one step, as eval.csv has it."""
    means = {name: float(scores(table, name).mean(axis=1).mean()) for name in ("return", "length")}
    for name in ("success", "normalized_return"):
        if not table[name].null_count:
            means[name] = float(scores(table, name).mean(axis=1).mean())
    column = objective_column(table)
    acted = {TEMPERATURE: float(table[TEMPERATURE][0].as_py())}
    return {**means, **interval_of(table, column).as_metrics(column), **acted}


def by_text(played: Iterable[Played]) -> list[tuple[str, int, float]]:
    """Return (text, episodes, share of successes, else mean return) of each text that policies were told, sorted."""
    found: dict[str, list[float]] = {}
    for item in played:
        if item.text is not None:
            found.setdefault(item.text, []).append(item.returns if item.success is None else item.success)
    return [(text, len(found[text]), float(np.mean(found[text]))) for text in sorted(found)]


def values_of(table: pa.Table, column: str) -> list[Any]:
    """Return the values that occur in a column, sorted."""
    return sorted(pc.unique(table[column]).to_pylist())


def put_evaluation(
    path: Path, stage: str, trial: int | None, setting: Setting, step: int, played: Iterable[Played]
) -> pa.Table:
    """Add an evaluation to a table, in the place of an earlier one of the same trial, stage and seeds; return it."""
    rows = [{"trial": trial, "stage": stage, **_row(step, setting, item)} for item in played]
    fresh, held = pa.Table.from_pylist(rows, schema=SCHEMA), read_episodes(path)
    seeds = set(values_of(fresh, "seed"))
    kept = [
        (row["stage"], row["trial"], row["seed"] in seeds) != (stage, trial, True)
        for row in held.select(["stage", "trial", "seed"]).to_pylist()
    ]
    whole = pa.concat_tables([held.filter(pa.array(kept, pa.bool_())), fresh]).combine_chunks()

    def write(file: BinaryIO) -> None:
        for part in (SCHEMA, *whole.to_batches()):
            file.write(part.serialize().to_pybytes())

    write_atomic(path, write)
    return fresh
