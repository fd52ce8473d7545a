"""Make docs/results.md's tables: data made here, methods trained on them for a minute or so each, rollouts.

    python benchmarks/results.py                    every row; what is in --folder already is not done again
    python benchmarks/results.py --only lift goals  some tasks
    python benchmarks/results.py --show             the tables of what is done
    python benchmarks/results.py --quick            the same in tiny sizes, to see that it runs

A cell is one method on one task (benchmarks/result_tasks.py), all seeds as one pack, by the command that a user types:
the task's words and the row's. All methods of a task have equal budgets and play the same start states. What draws its
actions is scored at both temperatures, 0 and 1; what has no environment by what it says of held-out episodes.
FOLDER/results.md is written anew after each cell. A run that is stopped goes on: finished cells stay, the one that was
under way is resumed where it was.
"""

from __future__ import annotations

import argparse
import re
import resource
import shlex
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parent))
from result_tasks import TASKS, Task
from understudy.comparisons import SIGNIFICANCE, Difference, holm, paired_difference
from understudy.envs.store.finding import store_path
from understudy.envs.store.store import MANIFEST, Manifest
from understudy.files import write_atomic
from understudy.matrix.comparison import Result, compare, over_lines
from understudy.runs.directory import RunDir, read_csv
from understudy.runs.episodes import FILE, interval_of, last_step, objective_column, read_episodes, rows_where, scores
from understudy.runs.results import RATES
from understudy.statistics import return_interval

COMMON = "eval_interval=0 save_interval=-1 tracking_uri=none"
TEMPERATURES = (0.0, 1.0)
HELD_OUT = ("accuracy", "precision", "recall", "mse", "loss")
"""Measures of held-out episodes, and the order in which they are shown."""
COST = "cpu_seconds.txt"
TINY = (
    (r"training_steps=\d+", "training_steps=2"),
    (r"eval_episodes=[1-9]\d*", "eval_episodes=2"),
    (r"seeds=\S+", "seeds=[0,1]"),
    (r"(--episodes|--trajectories) \d+", r"\1 8"),
    (r"--iterations \d+", "--iterations 1"),
    (r"batch_size=\d+", "batch_size=8"),
)
"""What --quick replaces."""


def tiny(task: Task) -> Task:
    """Return a task in sizes that take seconds."""

    def small(text: str) -> str:
        for pattern, instead in TINY:
            text = re.sub(pattern, instead, text)
        return text

    methods = tuple(small(method) for method in task.methods)
    return replace(task, data=tuple(map(small, task.data)), train=small(task.train), methods=methods)


# ---- making ----


def run(command: str, folder: Path) -> float:
    """Run one command line as a user would, with this Python, from `folder`; return the CPU seconds it took."""
    words = shlex.split(command)
    python = {"understudy": ["-m", "understudy"], "python": [str(Path(__file__).parents[1] / words[1])]}[words[0]]
    rest = words[1:] if words[0] == "understudy" else words[2:]
    print(f"$ {command}", flush=True)
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, *python, *rest], cwd=folder, check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def make_data(task: Task, folder: Path) -> None:
    """Make the task's demonstrations where they are missing."""
    if not (store_path(task.env_name, folder / "datasets") / MANIFEST).is_file():
        for command in task.data:
            if command.startswith("understudy"):
                run(f"{command} --data_dir {folder / 'datasets'}", folder)
            elif not any((folder / word).is_dir() for word in shlex.split(command)[2:]):
                run(command, folder)


def command_of(task: Task, method: str) -> str:
    """Return the command that trains a method on a task."""
    return f"understudy train env_name={task.env_name} {task.train} {COMMON} {task.words(method)}"


def root_of(task: Task, method: str, folder: Path) -> Path:
    """Return the save_dir of one cell."""
    return folder / "runs" / task.name / re.sub(r"[^\w.=,-]+", ",", method)[:100]


def begun(root: Path) -> RunDir | None:
    """Return the run below `root`; None where there is none."""
    found = sorted(root.rglob("flags.json"), key=lambda path: len(path.parts))
    return RunDir(found[0].parent) if found else None


def finished(root: Path) -> RunDir | None:
    """Return the run below `root` if it is at its end."""
    here = begun(root)
    return here if here and here.state().get("status") == "finished" else None


def train(task: Task, method: str, folder: Path) -> None:
    """Train one method on the task's data, or go on with it; nothing where it is finished."""
    root = root_of(task, method, folder)
    if finished(root):
        return
    here = begun(root)
    words = f"data_dir={folder / 'datasets'} save_dir={root}"
    cost = run(f"understudy resume {here.path}" if here else f"{command_of(task, method)} {words}", folder)
    with open(root / COST, "a", encoding="utf-8") as file:
        file.write(f"{cost:.1f}\n")


# ---- showing ----


def at(path: Path, temperature: float) -> np.ndarray | None:
    """Return the scores [K, E] of a run's last evaluation at a temperature; None where none was made."""
    rows = rows_where(last_step(read_episodes(path / FILE)), temperature=temperature)
    return scores(rows, objective_column(rows)) if rows.num_rows else None


def score(path: Path, temperature: float) -> str:
    """Return the objective of a run's last evaluation at a temperature with its 95 % interval; - where none was."""
    rows = rows_where(last_step(read_episodes(path / FILE)), temperature=temperature)
    if not rows.num_rows:
        return "-"
    name = objective_column(rows)
    found = interval_of(rows, name)
    digits = 2 if name in RATES else 1
    text = f"{found.mean:.{digits}f} [{found.low:.{digits}f}, {found.high:.{digits}f}]"
    return f"{text}, return {scores(rows, 'return').mean():.0f}" if name == "normalized_return" else text


def held_out(path: Path) -> str:
    """Return what a run's last evaluation says of held-out episodes."""
    last = read_csv(path / "eval.csv")[-1]
    seeds = [read_csv(file)[-1] for file in sorted(path.glob("sd*/eval.csv"))]
    shown = [name for name in HELD_OUT if f"validation/{name}" in last]
    found = {name: return_interval([[seed[f"validation/{name}"]] for seed in seeds]) for name in shown}
    return ", ".join(f"{name} {value.mean:.2f} [{value.low:.2f}, {value.high:.2f}]" for name, value in found.items())


def differences(runs: Mapping[str, RunDir], first: str) -> dict[str, str]:
    """Return each method's difference from the first one at temperature 0, on the same start states, in words."""
    found: dict[str, Difference] = {}
    reference = at(runs[first].path, 0.0) if first in runs else None
    for method, made in runs.items():
        own = at(made.path, 0.0)
        if method != first and own is not None and reference is not None and own.shape[1] == reference.shape[1] > 1:
            rate = bool(np.isin(np.concatenate([own, reference]), (0.0, 1.0)).all())
            found[method] = paired_difference(own, reference, rate=rate)
    adjusted = holm({method: difference.p for method, difference in found.items()})
    return {method: _said(found[method], adjusted[method]) for method in found}


def _said(difference: Difference, p: float) -> str:
    digits = 2 if abs(difference.mean) <= 1 else 1
    ends = difference.ends
    interval = f" [{ends[0]:.{digits}f}, {ends[1]:.{digits}f}]" if ends else ""
    return f"{difference.mean:.{digits}f}{interval}, {f'p {p:.2g}' if p < SIGNIFICANCE else 'not distinguishable'}"


def table(task: Task, folder: Path) -> Iterator[str]:
    """Yield a task's table in Markdown: what is finished of it."""
    found = {method: finished(root_of(task, method, folder)) for method in task.methods}
    runs = {method: made for method, made in found.items() if made is not None}
    if not runs:
        return
    manifest = Manifest.read(store_path(task.env_name, folder / "datasets"))
    first = task.methods[0]
    played = [rows for made in runs.values() if (rows := last_step(read_episodes(made.path / FILE))).num_rows]
    measure = objective_column(played[0]) if played else "held-out episodes"
    size = f"{manifest.num_episodes} episodes, {manifest.num_transitions:,} steps"
    yield f"### {task.name}: `{task.env_name}`"
    yield ""
    yield f"{task.made[0].upper()}{task.made[1:]}: {size}. {measure.replace('_', ' ').capitalize()} [95 %]."
    yield ""
    yield f"    understudy train env_name={task.env_name} {task.train} {COMMON}"
    yield ""
    yield f"| method | temperature 0 | temperature 1 | minus {first}, both at 0 | CPU-minutes | words of the row |"
    yield "| --- | --- | --- | --- | --- | --- |"
    minus = differences(runs, first)
    for method, made in runs.items():
        cells = [score(made.path, temperature) for temperature in TEMPERATURES]
        if cells == ["-", "-"]:
            cells[0] = held_out(made.path)
        cost = sum(map(float, (root_of(task, method, folder) / COST).read_text().split())) / 60
        name = method.removeprefix("algo=").split()[0] if method.startswith("algo=") else method
        yield f"| {name} | {' | '.join(cells)} | {minus.get(method, '-')} | {cost:.1f} | `{task.words(method)}` |"
    yield ""


def over_tasks(tasks: Sequence[Task], folder: Path) -> Iterator[str]:
    """Yield the interquartile mean of the methods over all tasks of success that they all are finished on."""
    results: list[Result] = []
    for task in tasks:
        for method in task.methods:
            made = finished(root_of(task, method, folder))
            rows = made and last_step(read_episodes(made.path / FILE))
            if made and rows and rows.num_rows and objective_column(rows) == "success":
                results.append(Result(method, task.name, "success", {}, scores=at(made.path, 0.0)))
    names = dict.fromkeys(item.task for item in results)
    common = [m for m in dict.fromkeys(item.method for item in results)
              if sum(item.method == m for item in results) == len(names)]  # fmt: skip
    kept = [item for item in results if item.method in common]
    if len(names) > 1 and len(common) > 1:
        yield f"At temperature 0, {', '.join(names)}: {next(iter(over_lines(compare(kept)['over_tasks'])))}"
        yield ""


def show(tasks: Sequence[Task], folder: Path) -> None:
    """Write results.md: the tables of what is finished."""
    lines = [line for task in tasks for line in table(task, folder)]
    states = [task for task in tasks if "bc" in task.methods and task.name != "goals"]
    text = "\n".join([*lines, *over_tasks(states, folder)])
    write_atomic(folder / "results.md", lambda file: file.write(text.encode()))


def main() -> None:
    """Make what is missing; print and write the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=Path("results"), help="datasets, experts, runs, results.md")
    parser.add_argument("--only", nargs="*", choices=[task.name for task in TASKS], help="tasks to make")
    parser.add_argument("--show", action="store_true", help="make nothing: write and print the tables of what is done")
    parser.add_argument("--quick", action="store_true", help="tiny sizes: whether it runs, not how well it does")
    options = parser.parse_args()
    folder = options.folder.expanduser().absolute()
    folder.mkdir(parents=True, exist_ok=True)
    tasks = [replace(task, env_name=task.env_name.replace("FOLDER", str(folder))) for task in TASKS]
    tasks = [tiny(task) if options.quick else task for task in tasks]
    show(tasks, folder)
    for task in [] if options.show else tasks:
        if not options.only or task.name in options.only:
            make_data(task, folder)
            for method in task.methods:
                train(task, method, folder)
                show(tasks, folder)
    print((folder / "results.md").read_text())


if __name__ == "__main__":
    main()
