"""The texts of a LeRobot dataset's tasks, where they change within an episode: each row keeps its own.

The column `task_index` has the number of each row's text, and the provenance the texts by their numbers (TASK_TEXTS).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from understudy.envs.files.reading import damage
from understudy.envs.sources.lerobot.meta import Dataset, read_table
from understudy.envs.store.row_texts import TASK_INDEX, TASK_TEXTS
from understudy.errors import DatasetError


def changing_tasks(dataset: Dataset) -> dict[str, Any]:
    """Return, for the provenance, the texts and a note on them where some episode's task changes; {} elsewhere."""
    if TASK_TEXTS in dataset.note:  # written here, with the numbers that the column had
        return {TASK_TEXTS: dataset.note[TASK_TEXTS], "notes": [_note(dataset.note[TASK_TEXTS].values(), None)]}
    if dataset.note and not any(feature.key == TASK_INDEX for feature in dataset.features):
        return {}
    changing, used = 0, set[int]()
    for file in dict.fromkeys(record.data for record in dataset.records):
        table = read_table(file, ["episode_index", TASK_INDEX])
        with damage(file, "LeRobot"):
            episodes, tasks = (table[name].to_numpy() for name in ("episode_index", TASK_INDEX))
        for number in np.unique(episodes):
            found = np.unique(tasks[episodes == number])
            changing += len(found) > 1
            used |= set(found.tolist())
    if not changing:
        return {}
    unknown = sorted(used - dataset.tasks.keys())
    if unknown:
        raise DatasetError(f"{dataset.root}: rows are of task {unknown[0]}, which meta/tasks has not")
    texts = {str(task): dataset.tasks[task] for task in sorted(used)}
    return {TASK_TEXTS: texts, "notes": [_note(texts.values(), changing)]}


def _note(texts: Any, changing: int | None) -> str:
    where = "episodes" if changing is None else f"{changing} episodes"
    named = ", ".join(map(repr, texts))
    return f"the task changes within {where}: each row keeps its own text ({TASK_INDEX}) of {named}"


def row_tasks(rows: Mapping[str, np.ndarray], texts: Mapping[str, str], otherwise: str) -> list[str]:
    """Return the text of each of an episode's T rows; DatasetError for a number that has none."""
    if not texts or TASK_INDEX not in rows:
        return [otherwise] * len(rows["actions"])
    numbers = [str(int(number)) for number in rows[TASK_INDEX]]
    unknown = next((number for number in numbers if number not in texts), None)
    if unknown is not None:
        raise DatasetError(f"{TASK_INDEX} {unknown} has no text; known are {', '.join(texts)}")
    return [texts[number] for number in numbers]
