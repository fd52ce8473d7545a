"""A sweep here against the same with Ray Tune alone, side by side: wall time, metric rows, resume, 1,000 trials.

    python benchmarks/sweep.py                        all parts; about 40 minutes on two quiet cores
    python benchmarks/sweep.py --only wall --repeats 5
    python benchmarks/sweep.py --quick                the same in minutes, to see that it runs

Ray Tune alone is benchmarks/plain_tune.py: one seed a trial, MLflowLoggerCallback, written with care. Both train flow
matching on the same demonstrations of Pendulum with the same learning rates, seeds, network, batches, steps and
evaluations, and are timed from the command to its end. understudy trains each policy once for all flow_steps; the
wall time of Ray Tune is given with a trial for each, and with the same done by hand (shared). Contenders take turns.
"""

from __future__ import annotations

import argparse
import json
import os
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parent))
from measuring import machine, ratio, spread, take_turns

TASK, DATA = "Pendulum-v1", "minari:pendulum/scripted-v0"
RATES = (1e-4, 2e-4, 4e-4, 8e-4, 1.6e-3, 3.2e-3, 6.4e-3, 1.28e-2)
HIDDEN, FLOW_STEPS = (256, 256), (5, 10, 20)
PLAIN, SIMULATED = (Path(__file__).with_name(name) for name in ("plain_tune.py", "simulated_trials.py"))
OURS, THEIRS, SHARED = "understudy", "ray tune", "shared"


@dataclass(frozen=True)
class Work:
    """One sweep, as both are given it."""

    rates: tuple[float, ...]
    seeds: int
    steps: int
    episodes: int
    eval_interval: int
    log_interval: int
    flow_steps: tuple[int, ...] = FLOW_STEPS

    def ours(self, folder: Path) -> list[str]:
        """Return understudy's command; what only it does (the best is confirmed) is timed too."""
        rates = ",".join(f"{rate:g}" for rate in self.rates)
        seeds = ",".join(map(str, range(self.seeds)))
        grid = [f"flow_steps={','.join(map(str, self.flow_steps))}"] if len(self.flow_steps) > 1 else []
        return [
            *(sys.executable, "-m", "understudy", "sweep", "algo=flow_bc", f"env_name={DATA}", f"lr={rates}", *grid),
            *(f"seeds=[{seeds}]", f"hidden_dims=[{','.join(map(str, HIDDEN))}]", f"training_steps={self.steps}"),
            *(f"eval_episodes={self.episodes}", f"eval_envs={self.episodes}", f"final_episodes={self.episodes}"),
            *(f"eval_interval={self.eval_interval}", f"log_interval={self.log_interval}", f"save_dir={folder}"),
            *("sampler=grid", "scheduler=none", "with_default=false", "confirm_rivals=0", "register_as=none"),
            *("batch_size=256", "gpus=0", "video_episodes=0"),
        ]

    def theirs(self, folder: Path, *more: str) -> list[str]:
        """Return the command of Ray Tune alone."""
        numbers = {
            "lr": self.rates,
            "seeds": range(self.seeds),
            "hidden": HIDDEN,
            "flow_steps": self.flow_steps,
            "steps": (self.steps,),
            "episodes": (self.episodes,),
            "eval_interval": (self.eval_interval,),
            "log_interval": (self.log_interval,),
        }
        words = [
            word for name, values in numbers.items() for word in (f"--{name}", *(f"{value:g}" for value in values))
        ]
        data = folder.parent / "demonstrations.npz"
        return [sys.executable, str(PLAIN), str(folder), "--data", str(data), "--task", TASK, *words, *more]


def seconds_of(command: list[str]) -> float:
    """Run a command to its end and return the seconds that it took."""
    began = time.perf_counter()
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)}\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}")
    return time.perf_counter() - began


def make_data(folder: Path, episodes: int) -> None:
    """Have scripted demonstrations made, as a store and as an npz file of the same numbers."""
    from understudy.envs.store.finding import store_path
    from understudy.envs.store.store import EpisodeStore

    os.environ["UNDERSTUDY_HOME"] = str(folder)
    seconds_of([sys.executable, "-m", "understudy", "data", "generate", DATA, "--episodes", str(episodes)])
    store = EpisodeStore.open(store_path(DATA, folder / "datasets"))
    arrays = {name: np.asarray(store.column(name), np.float32) for name in ("observations", "actions")}
    np.savez(folder / "demonstrations.npz", allow_pickle=False, **arrays)


def points_in(folder: Path) -> int:
    """Return how many metric values the MLflow databases below a folder hold."""
    found = 0
    for file in folder.rglob("mlflow.db"):
        with sqlite3.connect(file) as database:
            found += database.execute("select count(*) from metrics").fetchone()[0]
    return found


def show(what: str, found: dict[str, list[float]], unit: str) -> None:
    """Print each contender's median and quartiles, and the ratio of the pairs."""
    for name, values in found.items():
        print(f"{what:34} {name:11} {spread(values)} {unit}")
    for name in (THEIRS, SHARED):
        if name in found:
            print(f"{what:34} {'ratio':11} {ratio(found[OURS], found[name])} ({OURS} / {name})", flush=True)


# ---- the parts ----


def wall(folder: Path, repeats: int, quick: bool) -> None:
    """8 configurations x 4 seeds x 3 flow_steps, from the command to its end."""
    work = Work(RATES[:2], 2, 20, 2, 10, 10) if quick else Work(RATES, 4, 1000, 10, 500, 100)
    held: dict[str, int] = {}

    def contender(name: str) -> Callable[[], float]:
        def once() -> float:
            own = folder / f"wall-{name.replace(' ', '-')}-{time.time_ns()}"
            more = ("--shared",) if name == SHARED else ()
            taken = seconds_of(work.ours(own) if name == OURS else work.theirs(own, *more))
            held[name] = points_in(own)
            return taken

        return once

    found = take_turns({name: contender(name) for name in (OURS, THEIRS, SHARED)}, repeats)
    show(f"{len(work.rates)} x {work.seeds} seeds x {len(work.flow_steps)} flow_steps", found, "s")
    print(f"metric values in MLflow: {held}; rows of loss and scores per seed: {work.steps // work.log_interval}")


class OneTrial:
    """What the callback asks of a trial of Tune's."""

    config: dict[str, float] = {"lr": 1e-3}
    trial_id, status = "a", "RUNNING"


def rows(folder: Path, repeats: int, quick: bool) -> None:
    """Metric values a second into MLflow (SQLite), from the first row to the last one being there."""
    number, columns = (20, 10) if quick else (400, 10)
    table = np.random.default_rng(0).normal(size=(number, columns))

    def ours() -> float:
        from understudy import tracking
        from understudy.runs.directory import CsvLog

        own = folder / f"rows-{time.time_ns()}"
        own.mkdir()
        uri = tracking.default_tracking_uri(own)
        tracking.prepare(uri)
        tracked = tracking.track(uri, own, experiment="e", name="r", sources=[(own / "train.csv", "train/")])
        began, log = time.perf_counter(), CsvLog(own / "train.csv")
        for step, row in enumerate(table, 1):
            log.append(step, {f"m{place}": float(value) for place, value in enumerate(row)})
        assert tracked.close()
        return number * columns / (time.perf_counter() - began)

    def theirs() -> float:
        from ray.air.integrations.mlflow import MLflowLoggerCallback

        own = folder / f"rows-{time.time_ns()}"
        own.mkdir()
        callback = MLflowLoggerCallback(tracking_uri=f"sqlite:///{own}/mlflow.db", experiment_name="e")
        callback.setup()
        trial: Any = OneTrial()
        callback.log_trial_start(trial)
        began = time.perf_counter()
        for step, row in enumerate(table, 1):
            result = {"training_iteration": step, **{f"m{place}": float(value) for place, value in enumerate(row)}}
            callback.log_trial_result(step, trial, result)
        taken = time.perf_counter() - began
        callback.log_trial_end(trial)
        return number * columns / taken

    show("metric values", take_turns({OURS: ours, THEIRS: theirs}, repeats), "/s")


def resume(folder: Path, repeats: int, quick: bool) -> None:
    """Seconds of 100 trials of two steps, and until a killed sweep of 100 ended trials is at its end."""
    number = 8 if quick else 100
    rates = tuple(float(rate) for rate in np.geomspace(1e-5, 1e-2, number).round(9))
    whole = Work(rates, 1, 2, 1, 2, 1, (5,))
    taken = {
        name: [seconds_of((whole.ours if name == OURS else whole.theirs)(folder / f"resume-{name.replace(' ', '-')}"))]
        for name in (OURS, THEIRS)
    }
    show(f"{number} trials of two steps", taken, "s")
    sweep = next((folder / f"resume-{OURS}").rglob("sweep.json")).parent

    def ours() -> float:
        for name in ("best.json", "summary.csv", "report.json"):
            (sweep / name).unlink(missing_ok=True)
        state = json.loads((sweep / "run.json").read_text())
        (sweep / "run.json").write_text(json.dumps({**state, "status": "interrupted"}))
        return seconds_of([sys.executable, "-m", "understudy", "resume", str(sweep)])

    def theirs() -> float:
        return seconds_of(whole.theirs(folder / "resume-ray-tune", "--restore"))

    show(f"resume of {number} ended trials", take_turns({OURS: ours, THEIRS: theirs}, repeats), "s")


def simulated(folder: Path, repeats: int, quick: bool) -> None:
    """What asking, reporting and finishing cost the driver after 1,000 trials of 20 values, and its memory."""
    number = 30 if quick else 1000
    names = {OURS: "ours", THEIRS: "theirs"}
    found: dict[str, list[dict[str, float]]] = {name: [] for name in names}
    for _ in range(1 if quick else min(repeats, 3)):
        for name, kind in names.items():
            command = [
                sys.executable,
                str(SIMULATED),
                kind,
                str(number),
                str(folder / f"study-{time.time_ns()}"),
            ]
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            found[name].append(json.loads(done.stdout.splitlines()[-1]))
    print("ray tune keeps its study in memory, which is lost with the driver; understudy's is in a database")
    for key in found[OURS][0]:
        unit = "MB more" if key == "memory" else "ms"
        for name, each in found.items():
            if key in each[0]:
                print(f"{f'{key} after {number} trials':46} {name:11} {spread([one[key] for one in each])} {unit}")


PARTS = {"wall": wall, "rows": rows, "resume": resume, "simulated": simulated}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", nargs="+", choices=list(PARTS), default=list(PARTS))
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--quick", action="store_true", help="tiny sizes: whether it runs, not how fast")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        print(machine(), flush=True)
        make_data(Path(folder), 4 if given.quick else 50)
        for name in given.only:
            PARTS[name](Path(folder), given.repeats, given.quick)
    print(machine())


if __name__ == "__main__":
    main()
