"""The task's text of each row as one more part of what a policy sees: a table of vectors, and each row's place in it.

Every text is embedded once; batches gather from the table, and nothing is stored beside the data.
Shape suffixes: b samples, D numbers of a text's vector.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from understudy.envs.store.row_texts import TASK_INDEX, TASK_TEXTS
from understudy.envs.store.store import TEXTS, EpisodeStore
from understudy.envs.windows.views import StoreView
from understudy.errors import DatasetError
from understudy.language import TextEncoder
from understudy.normaliser import Mode, Normaliser
from understudy.observations import LANGUAGE, STATE, ObservationShape, has_pictures, parts_of, with_text


class TaskTexts:
    """The vectors of a store's texts. Of a text of several lines, paraphrases, rows take one after the other."""

    def __init__(self, store: EpisodeStore, encoder: TextEncoder) -> None:
        """Embed every line of every text once; DatasetError where the store has none."""
        self._store, self._numbers = store, None
        noted = store.manifest.provenance.get(TASK_TEXTS)
        if noted and TASK_INDEX in store.manifest.columns:
            keys = sorted(int(number) for number in noted)
            self._numbers, told = np.array(keys), [str(noted[str(number)]) for number in keys]
        elif TEXTS[0] in store.manifest.episode_columns:
            told = [str(text) for text in store.texts(TEXTS[0])]
        else:
            told = []
        lines = [_lines(text) for text in told]
        self.texts = sorted({line for several in lines for line in several})
        """Every line, in order."""
        if not any(self.texts):
            raise DatasetError(
                f"{store.name!r} has no task texts, which language_encoder= is for: episodes have them as `language`"
            )
        self.vectors = encoder.embed(self.texts)
        """Their vectors, float32."""
        place = {line: number for number, line in enumerate(self.texts)}
        self._places = np.array([place[line] for several in lines for line in several])
        self._counts = np.array([len(several) for several in lines])
        self._firsts = np.cumsum(self._counts) - self._counts

    def gather(self, rows: np.ndarray) -> np.ndarray:
        """Return the vectors [b, D] of the texts of the store's rows [b]."""
        if self._numbers is None:
            told = np.searchsorted(self._store.starts, rows, side="right") - 1
        else:
            numbers = np.asarray(self._store.column(TASK_INDEX)[rows])
            told = np.minimum(np.searchsorted(self._numbers, numbers), len(self._numbers) - 1)
            if (self._numbers[told] != numbers).any():
                unknown = numbers[self._numbers[told] != numbers][0]
                raise DatasetError(f"{self._store.name!r}: {TASK_INDEX} {unknown} has no text")
        return self.vectors[self._places[self._firsts[told] + rows % self._counts[told]]]


class ToldView:
    """A store's view with the vector of each row's text beside what is seen."""

    def __init__(self, view: StoreView, texts: TaskTexts) -> None:
        self._view, self._texts = view, texts
        self.saliency_columns, self.saliency = view.saliency_columns, view.saliency

    @property
    def shape(self) -> ObservationShape:
        """Shape of one observation, always in parts."""
        return {**parts_of(self._view.shape), LANGUAGE: self._texts.vectors.shape[1:]}

    def gather(self, rows: np.ndarray, *others: Any, after: bool = False) -> dict[str, np.ndarray]:
        """Return what the view shows at rows [b], and the texts of these rows."""
        return with_text(self._view.gather(rows, *others, after=after), self._texts.gather(rows))

    def normaliser(self, mode: Mode, select: Callable[[np.ndarray], np.ndarray]) -> Normaliser:
        """Fit to what is seen; the vectors of texts are left as they are."""
        fitted = self._view.normaliser(mode, select)
        single = not isinstance(self._view.shape, dict) and not has_pictures(self._view.shape)
        return Normaliser.of_parts({STATE: fitted} if single else fitted.parts)


def _lines(text: str) -> list[str]:
    """Return the lines of a text that say something; an empty one where none does."""
    return [line.strip() for line in text.split("\n") if line.strip()] or [""]
