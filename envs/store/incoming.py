"""Bring the episodes that come into a store to its form, and keep a word on what was done to them.

What the columns are is decided from the first episode, from what the source's file says of them, and from what the user
says (`--as`); every later episode must be like it. Policies see the column `observations` and cameras, `images/<name>`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import replace
from typing import Any

import numpy as np

from understudy.envs.store.column_kinds import (
    SMALLEST,
    Asked,
    Declared,
    Rows,
    decide_form,
    doubt,
    flattened_size,
    size_of,
    upper,
    words_for,
)
from understudy.envs.store.episode import is_episode_column, steps_of_final
from understudy.envs.store.form import DEPTH, LEFT_OUT, NUMBERS, PICTURE, STATE, Form
from understudy.envs.store.store import FINAL, IMAGES, SALIENCY
from understudy.errors import DatasetError, did_you_mean
from understudy.observations import PIXELS

OTHERS = ("actions", "rewards", "terminals")
"""Columns that are what their name says."""


class Incoming:
    """The forms of a dataset's columns, decided when the first episode comes."""

    def __init__(self, declared: Mapping[str, Declared] | None = None, asked: Mapping[str, str] | None = None) -> None:
        self._declared = dict(declared or {})
        self.asked = dict(asked or {})
        self._asked = {name: Asked.parse(name, words) for name, words in self.asked.items()}
        self._forms: dict[str, Form] = {}
        self._like: dict[str, tuple[tuple[int, ...], str]] = {}
        self._names: dict[str, str] = {}
        """What columns are called here, where that is another name."""
        self.notes: list[str] = []

    def bring(self, episode: Mapping[str, Any], number: int) -> dict[str, Any]:
        """Return an episode with its pictures in the store's form; DatasetError where it is unlike the first one."""
        columns = {key: np.asarray(value) for key, value in episode.items() if _is_judged(key, value)}
        if not self._forms:
            self._decide(columns)
            self.notes += _of_actions(episode)
        brought: dict[str, Any] = {}
        for key, value in episode.items():
            of = steps_of_final(_canonical(key)) or key
            form = self._forms.get(of)
            if form is None or (of == key and key not in columns):
                brought[key] = value
            elif _stays(form):
                what = f"episode {number}: column {key!r}"
                rows = np.asarray(value) if of == key else np.asarray(value)[None]
                rows = form.apply(self._checked(rows, of, what), what)
                brought[self._name(key, of)] = rows if of == key else rows[0]
        return brought

    def record(self) -> dict[str, Any]:
        """Return what was done to the columns that a policy sees, as JSON values, for what an environment shows."""
        forms = {self._names.get(name, name): form for name, form in self._forms.items() if form.converts}
        return {name: form.to_json() for name, form in forms.items()}

    @property
    def left_out(self) -> list[str]:
        """Columns that are not kept."""
        return [name for name, form in self._forms.items() if not _stays(form)]

    def _decide(self, columns: Mapping[str, np.ndarray]) -> None:
        unknown = [name for name in self._asked if name not in columns and name.removeprefix(IMAGES) not in columns]
        if unknown:
            raise DatasetError(f"--as {unknown[0]}=...: no such column{did_you_mean(unknown[0], columns)}")
        rows = {name: self._rows(name, array) for name, array in columns.items()}
        for name, array in columns.items():
            self._like[name] = array.shape[1:], array.dtype.kind
            self._forms[name] = self._form(rows[name])
        self._name_cameras(columns)
        self.notes = [line for name, form in self._forms.items() for line in self._said(rows[name], form)]
        lost = any(not _stays(form) for form in self._forms.values())
        if lost and not any(
            _is_seen(self._names.get(name, name)) and _stays(form) for name, form in self._forms.items()
        ):
            raise DatasetError("nothing is observed, neither states nor pictures are left: " + "; ".join(self.notes))

    def _form(self, rows: Rows) -> Form:
        asked = self._asked.get(rows.name) or self._asked.get(IMAGES + rows.name)
        if not _is_seen(rows.name) and asked is None:
            return _form_beside(rows)
        form = decide_form(rows, asked, camera=rows.name.startswith(IMAGES))
        if rows.name == "observations" and form.kind == DEPTH:
            raise doubt(rows, "depth, and policies see light of 8 bits", f"0..{upper(rows)}")
        if rows.name == "observations" and form.kind == NUMBERS and len(rows.shape) > 2:
            raise doubt(rows, "neither a state nor surely pictures", words_for(rows), STATE)
        return form

    def _name_cameras(self, columns: Mapping[str, np.ndarray]) -> None:
        """Call pictures cameras: of columns beside the observations, and of these where there are other cameras."""
        pictures = [name for name, form in self._forms.items() if form.kind == PICTURE]
        if pictures == ["observations"]:
            return
        for name in pictures:
            new = name if name.startswith(IMAGES) else IMAGES + (PIXELS if name == "observations" else name)
            if new != name and new in columns:
                raise DatasetError(f"columns {name!r} and {new!r} are both pictures of one name; give --as {name}=out")
            self._names[name] = new

    def _rows(self, name: str, array: np.ndarray) -> Rows:
        said = self._declared.get(name) or self._declared.get(IMAGES + name)
        layout = said.layout if said else ("hwc" if name.startswith(IMAGES) else "")
        rows = Rows.of(name, array, layout)
        if said is None or said.bounds is None:
            return rows
        if said.bounds == (0, 255) and rows.high <= 1 and not rows.whole:
            raise doubt(rows, "the file says that they go from 0 to 255", "0..1", "0..255")
        return replace(rows, low=said.bounds[0], high=said.bounds[1], bounded=True)

    def _said(self, rows: Rows, form: Form) -> Iterator[str]:
        """Yield what there is to say of a column, a line each."""
        name, shape, new = rows.name, list(rows.shape), self._names.get(rows.name, rows.name)
        if form.kind == DEPTH:
            yield (
                f"{name}: depth, {rows.dtype} {shape}, is left out: policies see light of 8 bits"
                f" (as grey pictures: --as {name}=0..{upper(rows)})"
            )
        elif form.kind == LEFT_OUT:
            yield f"{name}: left out, as asked"
        elif form.converts:
            yield f"{new}: {form.describe()}"
        elif new != name:
            yield f"{new}: pictures, {shape}, from the column {name}"
        elif form.kind == NUMBERS and (len(shape) > 2 or (flattened_size(rows.shape) and 0 <= rows.low <= 255)):
            kept = "taken for a state" if name == "observations" else "kept as they are, and policies do not see them"
            yield f"{name}: {shape} numbers a step are {kept} (pictures: --as {name}={words_for(rows)})"

    def _checked(self, rows: np.ndarray, of: str, what: str) -> np.ndarray:
        shape, kind = self._like[of]
        if rows.shape[1:] != shape or rows.dtype.kind != kind:
            has = f"{what} has rows {rows.shape[1:]} {rows.dtype.name}, earlier ones {shape} {self._forms[of].dtype}"
            raise DatasetError(f"{has}: it is not shaped like the others")
        return rows

    def _name(self, key: str, of: str) -> str:
        if of not in self._names:
            return key
        return self._names[of] if key == of else FINAL + self._names[of]


def _of_actions(episode: Mapping[str, Any]) -> list[str]:
    """Return a line on actions that may be choices, where the first episode's are no real numbers."""
    kind = np.asarray(episode.get("actions", 0.0)).dtype
    if kind.kind not in "iub":
        return []
    return [f"actions: {kind.name}, are kept as float32: policies learn continuous actions, never a choice among some"]


def _form_beside(rows: Rows) -> Form:
    """Return the form of a column that policies do not see: numbers, unless it surely is a camera's, or depth."""
    size = size_of(rows.shape)
    if size is not None and min(size) >= SMALLEST:
        with suppress(DatasetError):  # whatever it may be, it is kept
            return decide_form(rows)
    return Form(NUMBERS, rows.shape, rows.dtype.name)


def _is_seen(name: str) -> bool:
    return name == "observations" or name.startswith(IMAGES)


def _stays(form: Form) -> bool:
    return form.kind not in (LEFT_OUT, DEPTH)


def _canonical(key: str) -> str:
    return "final_observations" if key == "final_observation" else key


def _is_judged(key: str, value: Any) -> bool:
    """Return whether what a column is must be decided."""
    if key in OTHERS or key.startswith(SALIENCY) or is_episode_column(_canonical(key)):
        return False
    array = np.asarray(value)
    return array.dtype.kind in "biuf" and array.ndim > 0 and array.size > 0
