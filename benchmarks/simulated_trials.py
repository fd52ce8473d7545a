"""What a sweep's driver pays for trials that are only simulated: asking, reporting, finishing, drawing, and its memory.

    python benchmarks/simulated_trials.py ours 1000 FOLDER
    python benchmarks/simulated_trials.py theirs 1000 FOLDER      Ray Tune's search with Optuna alone

It prints one line of JSON; `sweep.py --only simulated` takes turns between the two.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

DATA = "minari:pendulum/scripted-v0"


def simulate(kind: str, number: int, folder: Path) -> dict[str, float]:
    """Go through `number` trials of 20 values; return the medians of the last tenth's ms, and the memory in MB.

    Of ours also the ms of a thread's CPU that drawing the live table once more takes, beside 1,000 rows a trial.
    """
    import psutil

    folder.mkdir(parents=True)
    ask, report, finish, redraw = _ours(folder, number) if kind == "ours" else (*_theirs(), None)
    before, calls = psutil.Process().memory_info().rss, {"ask": 1, "report": 20, "finish": 1}
    times: dict[str, list[float]] = {f"{call}{kind}": [] for call in calls for kind in ("", ", CPU of its thread")}
    for trial in range(number):
        clocks = [(time.perf_counter(), time.thread_time())]
        handle, score = ask(trial)
        clocks.append((time.perf_counter(), time.thread_time()))
        for step in range(1, 21):
            report(handle, step, score * step)
        clocks.append((time.perf_counter(), time.thread_time()))
        finish(handle, score * 20)
        clocks.append((time.perf_counter(), time.thread_time()))
        if trial >= number - number // 10:
            for (call, count), spent in zip(calls.items(), np.diff(clocks, axis=0), strict=True):
                times[call].append(1000 * spent[0] / count)
                times[f"{call}, CPU of its thread"].append(1000 * spent[1] / count)
    memory = (psutil.Process().memory_info().rss - before) / 2**20
    whole = 1000 * time.process_time() / number
    medians = {key: float(np.median(values)) for key, values in times.items()}
    drawn = {} if redraw is None else {"redraw, CPU of its thread": float(np.median([redraw() for _ in range(11)][1:]))}
    return {**medians, **drawn, "CPU of all threads a trial": whole, "memory": memory}


Calls = tuple[Callable[[int], tuple[Any, float]], Callable[[Any, int, float], None], Callable[[Any, float], None]]


def _ours(folder: Path, number: int) -> tuple[*Calls, Callable[[], float]]:
    import io

    from optuna.trial import TrialState
    from rich.console import Console

    from understudy.runs.directory import CsvLog
    from understudy.spec.compose import flat_values, parse, split_sweeps
    from understudy.sweeping.study import Study
    from understudy.sweeping.sweep_spec import build_sweep
    from understudy.sweeping.table import SweepTable
    from understudy.sweeping.trial import trial_folder

    words = (f"env_name={DATA}", "lr=interval(1e-5,1e-2)", "batch_size=64,128,256", f"num_trials={number}")
    plain, sweeps = split_sweeps(parse(words))
    spec = build_sweep(flat_values(plain), sweeps)
    study, log = Study(folder, spec), CsvLog(folder / "timing.csv")
    for step in range(1, 1001):
        log.append(step, {"steps_per_sec": 50.0, "data_wait": 0.0})
    table, console = SweepTable(folder, spec, study), Console(width=160, height=50, file=io.StringIO())
    table.limit = 40

    def redraw() -> float:
        for trial in range(number):
            own = trial_folder(folder, trial) / log.path.name
            if not own.exists():
                own.parent.mkdir(parents=True)
                own.hardlink_to(log.path)
        began = time.thread_time()
        console.print(table)
        return 1000 * (time.thread_time() - began)

    def ask(trial: int) -> tuple[Any, float]:
        place, parameters = study.ask()
        return place, -abs(np.log10(parameters["lr"]) + 3)

    def finish(place: Any, score: float) -> None:
        study.finish(place, TrialState.COMPLETE, score, metrics={"return": score}, best_parameters={})

    return ask, study.report, finish, redraw


def _theirs() -> Calls:
    from ray import tune
    from ray.tune.search.optuna import OptunaSearch

    space = {"lr": tune.loguniform(1e-5, 1e-2), "batch_size": tune.choice([64, 128, 256])}
    search = OptunaSearch(metric="score", mode="max")
    search.set_search_properties("score", "max", space)

    def ask(trial: int) -> tuple[Any, float]:
        parameters = search.suggest(str(trial))
        assert parameters is not None
        return str(trial), -abs(np.log10(parameters["lr"]) + 3)

    def report(name: Any, step: int, score: float) -> None:
        search.on_trial_result(name, {"training_iteration": step, "score": score})

    return ask, report, lambda name, score: search.on_trial_complete(name, {"training_iteration": 20, "score": score})


if __name__ == "__main__":
    print(json.dumps(simulate(sys.argv[1], int(sys.argv[2]), Path(sys.argv[3]))))
