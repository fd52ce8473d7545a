"""How observations of a Minari dataset's space are kept: pictures in a dict as cameras, all the rest as one state.

The state is what `gymnasium.spaces.flatten` makes of the rest, in the order of the space in the file. Shape letters: T
rows, O numbers of the state, H height, W width, C channels.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces

from understudy.envs.store.column_kinds import SMALLEST, size_of
from understudy.envs.store.store import FINAL, IMAGES
from understudy.errors import DatasetError
from understudy.observations import PIXELS, STATE

OBSERVATIONS = "observations"


@dataclass(frozen=True)
class Observed:
    """A space, and which of its parts are what of an episode."""

    space: spaces.Space
    state: spaces.Space | None
    """The space without its cameras; None where there is nothing else."""
    cameras: Mapping[str, tuple[str, ...]]
    """Names of cameras, and the keys that lead to their pictures."""

    @classmethod
    def of(cls, space: spaces.Space, *, cameras: bool = True) -> Observed:
        """Return how a space is kept; with `cameras=False` all of it is flattened, as older stores are."""
        paths = _pictures(space) if cameras else []
        found = {_camera(path): path for path in paths}
        if len(found) < len(paths):
            raise DatasetError(f"observations of {space}: two of its pictures give one camera's name")
        return cls(space, _without(space, tuple(found.values())), found)

    @property
    def is_plain(self) -> bool:
        """Whether observations are arrays already, vectors or pictures."""
        return is_flat(self.space)

    def box(self, camera: str) -> spaces.Box:
        """Return the space of a camera's pictures."""
        part: Any = _at(self.space, self.cameras[camera])
        return part

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Shapes of a row of each column."""
        if self.is_plain:
            return {OBSERVATIONS: self.space.shape or ()}
        state = {} if self.state is None else {OBSERVATIONS: (spaces.flatdim(self.state),)}
        return {**state, **{IMAGES + name: self.box(name).shape for name in self.cameras}}

    def columns(self, rows: Any) -> dict[str, np.ndarray]:
        """Return `observations` [T, O] and `images/<camera>` of T observations as Minari keeps them."""
        state = {} if self.state is None else {OBSERVATIONS: flatten_rows(self.state, rows)}
        return {**state, **{IMAGES + name: np.asarray(_at(rows, path)) for name, path in self.cameras.items()}}

    def rows(self, columns: Mapping[str, np.ndarray]) -> Any:
        """Return T observations as Minari keeps them; the inverse of `columns`."""
        if not self.cameras:
            return unflatten_rows(self.space, columns[OBSERVATIONS])
        rows = {} if self.state is None else unflatten_rows(self.state, columns[OBSERVATIONS])
        for name, path in self.cameras.items():
            inside = rows
            for key in path[:-1]:
                inside = inside.setdefault(key, {})
            inside[path[-1]] = columns[IMAGES + name].astype(self.box(name).dtype)
        return rows

    def wrap(self, env: gymnasium.Env) -> gymnasium.Env:
        """Return the environment with observations as the data's."""
        return env if self.is_plain else AsKept(env, self)


class AsKept(gymnasium.ObservationWrapper):
    """An environment whose observations are a state, or a dict of a state and cameras, as the data are kept."""

    def __init__(self, env: gymnasium.Env, observed: Observed) -> None:
        super().__init__(env)
        self._observed = observed
        state = None if observed.state is None else spaces.flatten_space(observed.state)
        if observed.cameras:
            cameras = {name: observed.box(name) for name in observed.cameras}
            self.observation_space = spaces.Dict({**({} if state is None else {STATE: state}), **cameras})
        elif state is not None:
            self.observation_space = state

    def observation(self, observation: Any) -> Any:
        """Return the state [O], or a dict of it and pictures [H, W, C]."""
        kept = self._observed
        state = None if kept.state is None else spaces.flatten(kept.state, observation)
        if not kept.cameras:
            return state
        pictures = {name: np.asarray(_at(observation, path)) for name, path in kept.cameras.items()}
        return {**({} if state is None else {STATE: state}), **pictures}


def final_of(column: str) -> str:
    """Return what an episode calls the row of a column after its last action."""
    return "final_observation" if column == OBSERVATIONS else FINAL + column


def is_flat(space: spaces.Space) -> bool:
    """Return whether observations of this space are arrays already, vectors or pictures."""
    return isinstance(space, spaces.Box) and len(space.shape) > 0


def flatten_rows(space: spaces.Space, rows: Any) -> np.ndarray:
    """Return [T, *O] of T observations as Minari keeps them: `gymnasium.spaces.flatten` of each, boxes at once.

    Keys that a dict has beside those of the space are left out.
    """
    if is_flat(space):
        return np.asarray(rows)
    if isinstance(space, spaces.Dict):
        parts = [_as_vectors(flatten_rows(part, rows[key])) for key, part in space.spaces.items()]
        return np.concatenate(parts, axis=1)
    if isinstance(space, spaces.Tuple):
        parts = [_as_vectors(flatten_rows(part, item)) for part, item in zip(space.spaces, rows, strict=True)]
        return np.concatenate(parts, axis=1)
    return np.stack([np.asarray(spaces.flatten(space, row)) for row in rows])


def unflatten_rows(space: spaces.Space, rows: np.ndarray) -> Any:
    """Return T observations as Minari keeps them, from [T, *O]; the inverse of `flatten_rows`."""
    if isinstance(space, (spaces.Dict, spaces.Tuple)):
        parts = list(space.spaces.values() if isinstance(space, spaces.Dict) else space.spaces)
        edges = np.cumsum([spaces.flatdim(part) for part in parts])[:-1]
        split = [unflatten_rows(part, item) for part, item in zip(parts, np.split(rows, edges, axis=1), strict=True)]
        return dict(zip(space.spaces, split, strict=True)) if isinstance(space, spaces.Dict) else tuple(split)
    if isinstance(space, spaces.Box):
        return rows.reshape(len(rows), *space.shape).astype(space.dtype)
    return np.stack([np.asarray(spaces.unflatten(space, row.astype(np.int64))) for row in rows])


def _pictures(space: spaces.Space) -> list[tuple[str, ...]]:
    """Return the keys that lead to each picture of a dict space: boxes of a picture's shape and range."""
    if not isinstance(space, spaces.Dict):
        return []
    found: list[tuple[str, ...]] = []
    for key, part in space.spaces.items():
        found += [(key,)] if _is_picture(part) else [(key, *path) for path in _pictures(part)]
    return found


def _camera(path: tuple[str, ...]) -> str:
    name = "_".join(path).replace("/", "_")
    return PIXELS if name == STATE else name


def _is_picture(space: spaces.Space) -> bool:
    if not isinstance(space, spaces.Box):
        return False
    size = size_of(space.shape)
    if size is None or min(size) < SMALLEST:
        return False
    if len(space.shape) == 2 and space.dtype != np.uint8:
        return False  # a table
    low, high = float(space.low.min()), float(space.high.max())
    return (low, high) in ((0.0, 255.0), (0.0, 1.0), (-1.0, 1.0))


def _without(space: spaces.Space, paths: tuple[tuple[str, ...], ...]) -> spaces.Space | None:
    if not isinstance(space, spaces.Dict) or not paths:
        return space
    left = {}
    for key, part in space.spaces.items():
        inside = tuple(path[1:] for path in paths if path[0] == key)
        if () not in inside:
            left[key] = _without(part, inside)
    kept = {key: part for key, part in left.items() if part is not None}
    return spaces.Dict(kept) if kept else None


def _at(tree: Any, path: tuple[str, ...]) -> Any:
    for key in path:
        tree = tree[key]
    return tree


def _as_vectors(rows: np.ndarray) -> np.ndarray:
    return rows.reshape(len(rows), -1)
