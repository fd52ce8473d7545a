"""What each row of a store is told to do: its own text where tasks change within episodes, else its episode's."""

from __future__ import annotations

import numpy as np

from understudy.envs.store.store import TEXTS, EpisodeStore

TASK_INDEX = "task_index"
"""Column [T] int64: the number of a row's text."""
TASK_TEXTS = "task_texts"
"""Key of the provenance: the texts by their numbers, where tasks change within episodes."""


def row_texts(store: EpisodeStore, rows: np.ndarray) -> list[str] | None:
    """Return the text of each of the rows [N] of a store's transitions; None where it has no texts."""
    texts = store.manifest.provenance.get(TASK_TEXTS)
    if texts and TASK_INDEX in store.manifest.columns:
        return [texts[str(number)] for number in store.column(TASK_INDEX)[rows].tolist()]
    if TEXTS[0] not in store.manifest.episode_columns:
        return None
    of_episodes = store.texts(TEXTS[0])
    return [of_episodes[episode] for episode in np.searchsorted(store.starts, rows, side="right") - 1]
