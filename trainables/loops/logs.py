"""The csv files of one run, opened for appending: one row a step, never twice. `run_dir.py` says where they are."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from understudy.runs.directory import CsvLog, RunDir, read_csv
from understudy.runs.episodes import FILE, TEMPERATURE, EpisodeLog, Recorder
from understudy.runs.population import POPULATION


class Logs:
    """What is logged of every seed, of their mean, and of the time that it took."""

    def __init__(self, run: RunDir, seeds: tuple[int, ...], name: Callable[[int], str]) -> None:
        """Open them; `name` says which file the updates of a step are logged in."""
        self._folders = folders = [run.member(seed, seeds) for seed in seeds]
        self._run, self._name = run, name
        self._train: dict[str, list[CsvLog]] = {}
        self._evaluation = [CsvLog(folder / "eval.csv") for folder in folders]
        self._summary = CsvLog(run.path / "eval.csv") if len(seeds) > 1 else None
        self._timing = CsvLog(run.path / "timing.csv")
        self._population: list[CsvLog] = []
        self._episodes = EpisodeLog(run.path / FILE, run.trial)

    def episodes(self, step: int) -> Recorder:
        """Return what takes the episodes of a step's evaluation as they end."""
        return self._episodes.at(step)

    def training(self, step: int, table: Mapping[str, Sequence[float]], steps_per_sec: float, data_wait: float) -> None:
        """Append the metrics of a step; `table` has a value a seed, `data_wait` is a share."""
        # The time first: a row that is sent to MLflow again must have the time that it had.
        self._time(step, steps_per_sec, data_wait)
        name = self._name(step)
        if name not in self._train:
            self._train[name] = [CsvLog(folder / name) for folder in self._folders]
        for index, log in enumerate(self._train[name]):
            log.append(step, {key: values[index] for key, values in table.items()})

    def evaluation(self, step: int, rows: Sequence[Mapping[str, Any]], summary: Mapping[str, Any], speed: Any) -> None:
        """Append an evaluation: a row a seed, and their summary where there are several; `speed` in steps/s."""
        self._time(step, speed, "")
        for log, row in zip(self._evaluation, rows, strict=True):
            log.append(step, _columns(log, row))
        if self._summary:
            self._summary.append(step, _columns(self._summary, summary))

    def grid(self, step: int, rows: Sequence[Mapping[str, Any]], summary: Mapping[str, Any]) -> None:
        """Append an evaluation at each value of evaluation-time parameters."""
        CsvLog(self._run.path / "eval_grid.csv").append(step, summary)
        if self._summary:
            for log, row in zip(self._evaluation, rows, strict=True):
                CsvLog(log.path.with_name("eval_grid.csv")).append(step, row)

    def population(self, step: int, rows: Sequence[Mapping[str, Any]], summary: Mapping[str, Any]) -> None:
        """Append an exchange of members, step 0 being how they begin: a row a seed, and one of all, if there is one."""
        if not self._population:
            self._population = [CsvLog(folder / POPULATION) for folder in (*self._folders, self._run.path)]
        for log, row in zip(self._population, (*rows, summary), strict=True):
            if row:
                log.append(step, row)

    def evaluated(self, until: int) -> Iterator[tuple[int, dict[str, float]]]:
        """Yield (step, summary) of the evaluations up to a step."""
        path = self._run.path / "eval.csv"
        for row in read_csv(path) if path.is_file() else []:
            if row["step"] <= until:
                yield int(row["step"]), {key: value for key, value in row.items() if key != "step"}

    def sync(self) -> None:
        """Make every row durable."""
        trained = [log for logs in self._train.values() for log in logs]
        summary = [self._summary] if self._summary else []
        for log in [*trained, *self._evaluation, *summary, *self._population, self._timing]:
            log.sync()

    def _time(self, step: int, steps_per_sec: Any, data_wait: Any) -> None:
        self._timing.append(step, {"time": time.time(), "steps_per_sec": steps_per_sec, "data_wait": data_wait})


def _columns(log: CsvLog, row: Mapping[str, Any]) -> dict[str, Any]:
    """Return a row of an evaluation; files that earlier versions began have no column of the temperature."""
    known = log.header is None or TEMPERATURE in log.header
    return {key: value for key, value in row.items() if known or key != TEMPERATURE}
