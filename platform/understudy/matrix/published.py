"""Published results, and the protocols that they come from: one YAML file each in `conf/published/`.

A file holds `about` (what, source, counts, differs: as presets have it), `words` of every run, and `groups`: the tasks
whose mean a published number is of, words of their own, and percents of successes after the updates on the data
(`offline`) and after the steps in the environment (`online`): a mean, or a mean and the two ends of its interval.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from understudy.comparisons import stratified_bootstrap
from understudy.errors import UserError, did_you_mean
from understudy.matrix.cells import Cell, MatrixDir, axis_of, cells_of
from understudy.runs.directory import RunDir
from understudy.runs.episodes import FILE, interval_of, read_episodes, rows_where, scores
from understudy.spec.compose import to_overrides
from understudy.spec.run import RunSpec

FOLDER = Path(__file__).parents[1] / "conf" / "published"
PHASES = ("offline", "online")
OGBENCH_TASKS = range(1, 6)
SEEDS = "seeds=[0,1,2,3,4]"
RESAMPLES = 2000
HEADINGS = ("tasks", "after", "published %", "here %", "seeds x episodes")


@dataclass(frozen=True)
class Group:
    """Tasks over which one published number is the mean."""

    name: str
    tasks: tuple[str, ...]
    words: tuple[str, ...]
    published: Mapping[str, Sequence[float]]
    """By phase: [mean] or [mean, low, high], in percent."""


@dataclass(frozen=True)
class Study:
    """A published protocol and its results: one file of `conf/published/`."""

    name: str
    about: Mapping[str, str]
    words: tuple[str, ...]
    groups: tuple[Group, ...]


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
    groups = [
        Group(
            name,
            tuple(item["tasks"] if isinstance(item["tasks"], list) else map(item["tasks"].format, OGBENCH_TASKS)),
            tuple(item.get("words", ())),
            {phase: item[phase] for phase in PHASES if phase in item},
        )
        for name, item in held["groups"].items()
    ]
    return Study(file.stem, held["about"], tuple(held["words"]), tuple(groups))


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
    """Return a cell for each task of the chosen groups; the user's words replace the study's.

    UserError for words that name tasks: those are the study's.
    """
    words, cells = to_overrides(words), list[Cell]()
    for word in words:
        if axis_of(word.partition("=")[0]) == "env_name":
            raise UserError(f"{word}: the tasks are those of {study.name}; --tasks chooses among them")
    for group in chosen_groups(study, names):
        own = [*study.words, *group.words, SEEDS, *words]
        cells += cells_of([*_last_of_each(own), f"env_name={','.join(group.tasks)}"], "compare", config_dir)
    return cells


def _last_of_each(words: Sequence[str]) -> list[str]:
    """Return the words, the last one where several have the same key."""
    return list({("seeds" if (key := word.partition("=")[0]) == "seed" else key): word for word in words}.values())


def rows_of(study: Study, matrix: MatrixDir) -> list[tuple[str, ...]]:
    """Return the table under HEADINGS: each published number beside ours, of the tasks that the matrix holds."""
    held = {cell.task: RunDir(matrix.folder(cell)) for cell in matrix.cells()}
    rows: list[tuple[str, ...]] = []
    for group in study.groups:
        runs = [held[task] for task in group.tasks if task in held]
        for phase, numbers in group.published.items() if runs else ():
            ours, counted = _ours([run for run in runs if run.state().get("status") == "finished"], phase)
            rows.append((group.name, _after(runs[0].spec(), phase), _percent(numbers), ours, counted))
    return rows


def _after(spec: RunSpec, phase: str) -> str:
    """Return the updates, and environment steps, after which a phase of a run ends."""
    updates = f"{spec.training_steps:,} updates"
    return updates if phase == "offline" else f"{updates}, {spec.total_steps - spec.training_steps:,} steps"


def _ours(runs: Sequence[RunDir], phase: str) -> tuple[str, str]:
    """Return our mean success with its interval, in percent, and the number of seeds x episodes."""
    found: list[np.ndarray] = []
    for run in runs:
        spec = run.spec()
        step = spec.training_steps if phase == "offline" else spec.total_steps
        table = rows_where(read_episodes(run.path / FILE), step=step)
        if not table.num_rows or (phase == "online" and spec.total_steps == spec.training_steps):
            return "-", "not evaluated there"
        if len(runs) == 1:
            found_here = interval_of(table, "success")
            seeds, states = scores(table, "success").shape
            return _percent([100 * value for value in (found_here.mean, found_here.low, found_here.high)]), (
                f"{seeds} x {states}"
            )
        found.append(scores(table, "success"))
    if not found:
        return "-", "not finished"
    means_KT = np.stack([values_KE.mean(axis=1) for values_KE in found], axis=1) * 100
    ends = stratified_bootstrap(np.mean, means_KT, resamples=RESAMPLES) if len(means_KT) > 1 else ()
    return _percent([means_KT.mean(), *ends]), f"{len(means_KT)} x {found[0].shape[1]}, {len(found)} tasks"


def _percent(numbers: Sequence[float]) -> str:
    mean, *ends = numbers
    return f"{mean:.0f}" + (f" [{ends[0]:.0f}, {ends[1]:.0f}]" if ends else "")


def notes_of(study: Study, matrix: MatrixDir) -> list[str]:
    """Return the lines below the table: where the published numbers are from, and what differs here."""
    lines = [f"published: {study.about['source']}", f"what counts: {study.about['counts']}"]
    lines.append(f"what differs: {study.about['differs']}")
    wanted = {cell.task: cell for cell in cells_of_study(study, (), ())}
    for cell in matrix.cells():
        changed = [word for word in cell.words if word not in wanted[cell.task].words]
        if changed:
            lines.append(f"not as published, {cell.task}: {' '.join(changed)}")
    return lines
