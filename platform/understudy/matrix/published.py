"""Published results, and the protocols that they come from: one YAML file each in `conf/published/`.

A file holds `about` (what, source, counts, differs: as presets have it), `words` of every run, and `groups`: the tasks
whose mean a published number is of, words of their own, and percents of successes after the updates on the data
(`offline`) and after the steps in the environment (`online`): a mean, a mean and its deviation over seeds, or a mean
and the two ends of its interval. Where several methods were published a group has these under `methods`, by method.
`measure` is another score than `success` (a column of the table of episodes); `over` is which evaluations count: the
`last` one, the mean of the last n (a number), or each seed's `best`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import yaml

from understudy.comparisons import stratified_bootstrap
from understudy.errors import UserError, did_you_mean
from understudy.matrix.cells import Cell, MatrixDir, axis_of, cells_of
from understudy.runs.directory import RunDir
from understudy.runs.episodes import FILE, read_episodes, rows_where, scores, values_of
from understudy.spec.compose import to_overrides
from understudy.spec.run import RunSpec
from understudy.statistics import interval, return_interval

if TYPE_CHECKING:
    import pyarrow as pa

FOLDER = Path(__file__).parents[1] / "conf" / "published"
PHASES = ("offline", "online")
OGBENCH_TASKS = range(1, 6)
SEEDS = "seeds=[0,1,2,3,4]"
RESAMPLES = 2000
LAST, BEST = "last", "best"
"""Which evaluations count: the last one, or the best of each seed; a number is how many of the last."""


@dataclass(frozen=True)
class Group:
    """Tasks over which one published number is the mean."""

    name: str
    tasks: tuple[str, ...]
    words: tuple[str, ...]
    published: Mapping[str, Mapping[str, Sequence[float]]]
    """By method and phase: [mean], [mean, deviation] or [mean, low, high]."""


@dataclass(frozen=True)
class Study:
    """A published protocol and its results: one file of `conf/published/`."""

    name: str
    about: Mapping[str, str]
    words: tuple[str, ...]
    groups: tuple[Group, ...]
    measure: str = "success"
    over: str | int = LAST

    @property
    def methods(self) -> tuple[str, ...]:
        """The methods that numbers are published of."""
        return tuple(dict.fromkeys(method for group in self.groups for method in group.published))

    @property
    def headings(self) -> tuple[str, ...]:
        """Headings of the table of `rows_of`."""
        unit = " %" if self.measure == "success" else ""
        method = ("method",) if len(self.methods) > 1 else ()
        return ("tasks", *method, "after", f"published{unit}", f"here{unit}", "seeds x episodes")


def studies() -> dict[str, Study]:
    """Return the published results that are known here, by name."""
    return {file.stem: _read(file) for file in sorted(FOLDER.glob("*.yaml"))}


def study_of(name: str) -> Study:
    """Return a study; UserError for a name that is none."""
    known = studies()
    if name not in known:
        raise UserError(f"no published results are called {name!r}{did_you_mean(name, known)}")
    return known[name]


def _read(file: Path) -> Study:
    held: dict[str, Any] = yaml.safe_load(file.read_text(encoding="utf-8"))
    alone = next((word.removeprefix("algo=") for word in held["words"] if word.startswith("algo=")), "")
    groups = [
        Group(
            name,
            tuple(item["tasks"] if isinstance(item["tasks"], list) else map(item["tasks"].format, OGBENCH_TASKS)),
            tuple(item.get("words", ())),
            item.get("methods") or {alone: {phase: item[phase] for phase in PHASES if phase in item}},
        )
        for name, item in held["groups"].items()
    ]
    more = {name: held[name] for name in ("measure", "over") if name in held}
    return Study(file.stem, held["about"], tuple(held["words"]), tuple(groups), **more)


def chosen_groups(study: Study, names: Sequence[str]) -> list[Group]:
    """Return the groups of these names, all of them where none is given; UserError for a name that is none."""
    known = {group.name: group for group in study.groups}
    for name in names:
        if name not in known:
            raise UserError(f"--tasks {name}: {study.name} has no such tasks{did_you_mean(name, known)}")
    return [known[name] for name in names or known]


def cells_of_study(
    study: Study, names: Sequence[str], words: Sequence[str], config_dir: str | None = None
) -> list[Cell]:
    """Return a cell for each method and task of the chosen groups; the user's words replace the study's.

    UserError for words that name tasks, which are the study's, and for methods that it has not.
    """
    words, cells = to_overrides(words), list[Cell]()
    for word in words:
        if axis_of(word.partition("=")[0]) == "env_name":
            raise UserError(f"{word}: the tasks are those of {study.name}; --tasks chooses among them")
    wanted = _methods_in(study, words)
    rest = [word for word in words if axis_of(word.partition("=")[0]) != "algo"]
    for group in chosen_groups(study, names):
        methods = [method for method in wanted if method in group.published]
        if not methods:
            continue
        words_of_tasks = [word for word in group.words if _method_of(word) in (None, *methods)]
        own = [*study.words, *words_of_tasks, SEEDS, *rest, f"algo={','.join(methods)}"]
        cells += cells_of([*_last_of_each(own), f"env_name={','.join(group.tasks)}"], "compare", config_dir)
    return cells


def _methods_in(study: Study, words: Sequence[str]) -> tuple[str, ...]:
    """Return the methods that the user's words choose of a study's, all without such words."""
    chosen = [word.partition("=")[2].split(",") for word in words if axis_of(word.partition("=")[0]) == "algo"]
    for method in chosen[-1] if chosen else ():
        if method not in study.methods:
            raise UserError(f"algo={method}: {study.name} has no such method{did_you_mean(method, study.methods)}")
    return tuple(chosen[-1]) if chosen else study.methods


def _method_of(word: str) -> str | None:
    """Return the method that a word `METHOD.key=value` is for; None for a word for all."""
    method, dot, _ = word.partition("=")[0].partition(".")
    return method if dot else None


def _last_of_each(words: Sequence[str]) -> list[str]:
    """Return the words, the last one where several have the same key."""
    return list({("seeds" if (key := word.partition("=")[0]) == "seed" else key): word for word in words}.values())


def rows_of(study: Study, matrix: MatrixDir) -> list[tuple[str, ...]]:
    """Return the table under `headings`: each published number beside ours, of the cells that the matrix holds."""
    held = {(cell.method, cell.task): RunDir(matrix.folder(cell)) for cell in matrix.cells()}
    rows: list[tuple[str, ...]] = []
    rows_of_study = [(group, *item) for group in study.groups for item in group.published.items()]
    for group, method, published in rows_of_study:
        runs = [held[method, task] for task in group.tasks if (method, task) in held]
        for phase, numbers in published.items() if runs else ():
            ours, counted = _ours(study, [run for run in runs if run.state().get("status") == "finished"], phase)
            named = (group.name, method) if len(study.methods) > 1 else (group.name,)
            rows.append((*named, _after(runs[0].spec(), phase), study_figures(study, numbers), ours, counted))
    return rows


def _after(spec: RunSpec, phase: str) -> str:
    """Return the updates, and environment steps, after which a phase of a run ends."""
    updates = f"{spec.training_steps:,} updates"
    return updates if phase == "offline" else f"{updates}, {spec.total_steps - spec.training_steps:,} steps"


def _ours(study: Study, runs: Sequence[RunDir], phase: str) -> tuple[str, str]:
    """Return our mean score with its interval, and the number of seeds x episodes and of what that is the mean."""
    found: list[np.ndarray] = []
    for run in runs:
        spec = run.spec()
        step = spec.training_steps if phase == "offline" else spec.total_steps
        table = read_episodes(run.path / FILE)
        if step not in values_of(table, "step") or (phase == "online" and spec.total_steps == spec.training_steps):
            return "-", "not evaluated there"
        found.append(scores_that_count(study, table, step))
    if not found:
        return "-", "not finished"
    counted = f"{len(found[0])} x {_episodes(runs[0])}{_of(study)}"
    scale = 100 if study.measure == "success" else 1
    if len(found) == 1:
        rate = study.measure == "success" and study.over == LAST
        mine = interval(found[0]) if rate else return_interval(found[0])
        return study_figures(study, [scale * value for value in (mine.mean, mine.low, mine.high)]), counted
    means_KT = np.stack([values_KE.mean(axis=1) for values_KE in found], axis=1) * scale
    ends = stratified_bootstrap(np.mean, means_KT, resamples=RESAMPLES) if len(means_KT) > 1 else ()
    return study_figures(study, [means_KT.mean(), *ends]), f"{counted}, {len(found)} tasks"


def scores_that_count(study: Study, table: pa.Table, step: int) -> np.ndarray:
    """Return the scores [K, E] that count of the evaluations up to a step; [K, 1], the means, of each seed's best."""
    steps = [one for one in values_of(table, "step") if one <= step]
    made = [scores(rows_where(table, step=one), study.measure) for one in steps]
    if study.over == BEST:
        return np.stack([values_KE.mean(axis=1) for values_KE in made]).max(axis=0)[:, None]
    return np.mean(made[-1:] if study.over == LAST else made[-int(study.over) :], axis=0)


def _episodes(run: RunDir) -> int:
    return run.spec().evaluation.eval_episodes


def _of(study: Study) -> str:
    """Return in words which evaluations count, where it is not the last one."""
    if study.over == LAST:
        return ""
    return ", the best of each seed" if study.over == BEST else f", mean of the last {study.over}"


def study_figures(study: Study, numbers: Sequence[float]) -> str:
    """Return a mean with what is known of its spread: ends of an interval, or a deviation."""
    digits = 0 if study.measure == "success" else 1
    mean, *spread = (f"{number:.{digits}f}" for number in numbers)
    if len(spread) == 1:
        return f"{mean} ± {spread[0]}"
    return mean if not spread or "nan" in spread else f"{mean} [{spread[0]}, {spread[1]}]"


def notes_of(study: Study, matrix: MatrixDir) -> list[str]:
    """Return the lines below the table: where the published numbers are from, and what differs here."""
    lines = [f"published: {study.about['source']}", f"what counts: {study.about['counts']}"]
    lines.append(f"what differs: {study.about['differs']}")
    wanted = {(cell.method, cell.task): cell for cell in cells_of_study(study, (), ())}
    several = len(study.methods) > 1
    for cell in matrix.cells():
        changed = [word for word in cell.words if word not in wanted[cell.method, cell.task].words]
        if changed:
            what = f"{cell.method} on {cell.task}" if several else cell.task
            lines.append(f"not as published, {what}: {' '.join(changed)}")
    return lines
