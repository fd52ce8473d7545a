"""Show what an environment observes in the form that stores have: pictures uint8 [H, W, C], states numbers.

By the same rules as imports (`envs.store.column_kinds`): an environment whose pictures have the channels first, are
floats or stacks of frames, is shown as its data are kept. What a store did to its own columns counts first.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces

from understudy.envs.store.column_kinds import Rows, decide_form
from understudy.envs.store.form import DEPTH, NUMBERS, PICTURE, STATE, Form
from understudy.envs.store.store import IMAGES
from understudy.errors import DatasetError
from understudy.observations import STATE as STATE_PART

ALONE = ""
"""The name of the one part of an observation that is a single array."""


def in_stored_form(env: gymnasium.Env, name: str, recorded: Mapping[str, Any] | None = None) -> gymnasium.Env:
    """Return the environment, wrapped where its observations have another form than a store's.

    `recorded` are the forms of the data by column (`provenance["forms"]`); `name` is the dataset's. DatasetError for
    pictures whose form neither these nor the environment's space tell.
    """
    space = env.observation_space
    parts = dict(space.spaces) if isinstance(space, spaces.Dict) else {ALONE: space}
    forms = {part: _form(part, box, name, recorded or {}) for part, box in parts.items() if isinstance(box, spaces.Box)}
    converted = {part: form for part, form in forms.items() if form.converts}
    return StoredForm(env, converted, name) if converted else env


class StoredForm(gymnasium.ObservationWrapper):
    """Convert parts of the observations, and of the goals that `reset` tells."""

    def __init__(self, env: gymnasium.Env, forms: Mapping[str, Form], name: str) -> None:
        super().__init__(env)
        self._forms, self._dataset = dict(forms), name
        space = env.observation_space
        if isinstance(space, spaces.Dict):
            self.observation_space = spaces.Dict({part: self._space(part, box) for part, box in space.spaces.items()})
        else:
            self.observation_space = self._space(ALONE, space)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Reset; a goal is converted like an observation."""
        observation, info = self.env.reset(seed=seed, options=options)
        if "goal" in info:
            info = {**info, "goal": self.observation(info["goal"])}
        return self.observation(observation), info

    def observation(self, observation: Any) -> Any:
        """Return an observation in the store's form."""
        if isinstance(observation, Mapping):
            return {part: self._converted(part, value) for part, value in observation.items()}
        return self._converted(ALONE, observation)

    def _converted(self, part: str, value: Any) -> Any:
        form = self._forms.get(part)
        if form is None or np.shape(value) != form.shape:
            return value
        return form.apply(np.asarray(value)[None], f"{self._dataset}: the environment's {_column(part)}")[0]

    def _space(self, part: str, space: spaces.Space) -> spaces.Space:
        form = self._forms.get(part)
        if form is None or not isinstance(space, spaces.Box):
            return space
        if form.kind == PICTURE:
            return spaces.Box(0, 255, form.stored_shape, np.uint8)
        return spaces.Box(space.low.reshape(-1), space.high.reshape(-1), dtype=space.dtype.type)


def _form(part: str, box: spaces.Box, name: str, recorded: Mapping[str, Any]) -> Form:
    column, plain = _column(part), Form(NUMBERS, box.shape, box.dtype.name)
    if column in recorded:
        known = Form.from_json(recorded[column])
        if known.shape == box.shape and not (
            known.kind == PICTURE and box.dtype == np.uint8 and known.dtype != "uint8"
        ):
            return known if known.kind == STATE else replace(known, dtype=box.dtype.name)
    if len(box.shape) < 2 or (len(box.shape) == 2 and box.dtype.kind == "f"):
        return plain
    rows = _rows(column, box)
    try:
        form = decide_form(rows, camera=column.startswith(IMAGES))
    except DatasetError as error:
        raise DatasetError(_untold(name, column, box)) from error
    if form.kind == DEPTH or (form.kind == NUMBERS and len(box.shape) > 2):
        raise DatasetError(_untold(name, column, box))
    return form


def _rows(column: str, box: spaces.Box) -> Rows:
    low, high = float(box.low.min()), float(box.high.max())
    even = bool((box.low == low).all() and (box.high == high).all())
    layout = "hwc" if column.startswith(IMAGES) else ""
    bounded = even and np.isfinite([low, high]).all()
    return Rows(column, box.shape, box.dtype, low, high, box.dtype.kind in "biu", bool(bounded), layout)


def _untold(name: str, column: str, box: spaces.Box) -> str:
    bounds = f"{float(box.low.min()):g} to {float(box.high.max()):g}"
    return (
        f"{name}: the environment's {column} are {box.dtype} {list(box.shape)} of {bounds}, which tells no picture of"
        f" light: its Box needs bounds of 0 to 1 or 0 to 255, or its data an import with --as {column}=WORDS"
    )


def _column(part: str) -> str:
    return "observations" if part in (ALONE, STATE_PART) else IMAGES + part
