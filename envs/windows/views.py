"""What a policy sees of a store: which columns, how many of the past, which goal. `observing.py` is for environments.

A state vector, its history and its goal are joined along the last axis into one array, oldest first. A history of
pictures is a sequence of frames: to join them on the channels byte by byte took forty times as long as to read them,
and encoders do it on their device. Several parts are a dict: `state`, pictures of each camera, and `goal/<camera>`.
Shapes: b samples, n observations of the history, O state dims, [H, W, C] a picture.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from understudy.envs.store.store import FINAL, IMAGES, SALIENCY, EpisodeStore
from understudy.envs.windows.saliency import aggregate_saliency
from understudy.errors import DatasetError, did_you_mean
from understudy.normaliser import Mode, Normaliser
from understudy.observations import GOAL, PIXELS, STATE, Arrays, ObservationShape, is_picture
from understudy.spec.data import DataSpec

GOAL_COLUMN = "achieved_goals"
"""The column of goals that states reach, in stores where a goal is not an observation."""


@dataclass(frozen=True)
class _Part:
    """One part of the observation: its column, and the column of final observations."""

    name: str
    column: str
    final: str
    shape: tuple[int, ...]
    gather: Callable[[np.ndarray], np.ndarray]
    """Return rows [n, *shape] of the column."""


class StoreView:
    """The parts of a store's observations that a policy is shown.

    `data.cameras` names those that it sees (None: all); `data.use_proprio` says whether it sees the state beside them.
    `with_goal` adds a goal: a state's is a state, and where there are pictures, goals are pictures.
    """

    def __init__(self, store: EpisodeStore, data: DataSpec, *, with_goal: bool) -> None:
        self._store, self._length, self._with_goal = store, data.obs_horizon, with_goal
        self.parts = _parts(store, data.cameras, data.use_proprio)
        names = [part.name for part in self.parts]
        self._single = len(names) == 1 and not (with_goal and is_picture(names[0]))

    @property
    def shape(self) -> ObservationShape:
        """Shape of one observation."""
        shapes = {part.name: self._seen_shape(part) for part in self.parts}
        if not self._with_goal:
            return next(iter(shapes.values())) if self._single else shapes
        if self._single:
            *outer, width = shapes[STATE]
            return (*outer, width + self._goal_states().shape[-1])
        return shapes | {GOAL + part.name: part.shape for part in self._pictures()}

    def gather(
        self,
        rows: np.ndarray,
        episodes: np.ndarray | None,
        goal_rows: np.ndarray | None = None,
        *,
        after: bool = False,
    ) -> Arrays:
        """Return what is seen at `rows` [b] of the store, with the states or pictures of `goal_rows` [b] as goals.

        `episodes` [b] are the rows' episodes; a history, a goal or `after` needs them. A goal row one past its
        episode's last is what came after the last action, where that was kept, else the last row. `after` is what is
        seen after the rows' actions.
        """
        if after:
            assert episodes is not None
            history = self._history(rows + 1, episodes)
            seen = {part.name: self._after(part, history, episodes) for part in self.parts}
        elif self._length == 1:
            seen = {part.name: part.gather(rows) for part in self.parts}
        else:
            assert episodes is not None
            history = self._history(rows, episodes)
            seen = {part.name: self._with_history(part, history) for part in self.parts}
        if self._with_goal:
            assert episodes is not None
            assert goal_rows is not None
            if self._single:
                return np.concatenate([seen[STATE], self._state_goals(episodes, goal_rows)], axis=-1)
            for part in self._pictures():
                seen[GOAL + part.name] = self._goals_of(part, episodes, goal_rows)
        return next(iter(seen.values())) if self._single else seen

    def normaliser(self, mode: Mode, select: Callable[[np.ndarray], np.ndarray]) -> Normaliser:
        """Fit to the rows that `select` keeps of a column; pictures are left as they are."""

        def fit(values: np.ndarray) -> Normaliser:
            return Normaliser.fit(select(values), mode) if mode != "none" else Normaliser.identity(values.shape[1:])

        states = [part for part in self.parts if not is_picture(part.name)]
        parts = [fit(self._store.column(states[0].column))] * self._length if states else []
        if not self._single:
            return Normaliser.of_parts({STATE: Normaliser.join(parts)} if states else {})
        if not states:
            return Normaliser.identity(self._seen_shape(self.parts[0]))
        if self._with_goal:
            known = GOAL_COLUMN in self._store.manifest.columns
            parts.append(fit(self._goal_states()) if known else parts[0])
        return Normaliser.join(parts) if len(parts) > 1 else parts[0]

    def saliency_columns(self) -> list[str]:
        """Return the saliency columns of the cameras that are seen."""
        columns = [SALIENCY + part.column.removeprefix(IMAGES) for part in self._pictures()]
        return [column for column in columns if column in self._store.manifest.columns]

    def saliency(self, rows: np.ndarray, episodes: np.ndarray | None, alpha: float) -> dict[str, np.ndarray]:
        """Return each camera's map [b, H, W, 1] at `rows` [b]; with `alpha` above 0 those of the history too."""
        if alpha == 0.0 or self._length == 1:
            return {name: self._store.column(name)[rows] for name in self.saliency_columns()}
        assert episodes is not None
        history = self._history(rows, episodes)
        maps = {name: self._store.column(name)[history] for name in self.saliency_columns()}
        return {name: aggregate_saliency(values, alpha) for name, values in maps.items()}

    def _seen_shape(self, part: _Part) -> tuple[int, ...]:
        if is_picture(part.name) and self._length > 1:
            return (self._length, *part.shape)
        *outer, width = part.shape
        return (*outer, width * self._length)

    def _history(self, rows: np.ndarray, episodes: np.ndarray) -> np.ndarray:
        """Return [b, n] rows that end with `rows` [b], oldest first; an episode's first row is repeated before it."""
        back = np.arange(self._length - 1, -1, -1)
        return np.maximum(rows[:, None] - back, self._store.starts[episodes, None])

    def _with_history(self, part: _Part, history_bn: np.ndarray) -> np.ndarray:
        count, length = history_bn.shape
        if is_picture(part.name):
            return part.gather(history_bn.ravel()).reshape(count, length, *part.shape)
        frames = part.gather(history_bn.T.ravel()).reshape(length, count, *part.shape)
        return np.concatenate([*frames], axis=-1)

    def _after(self, part: _Part, history_bn: np.ndarray, episodes: np.ndarray) -> np.ndarray:
        """Return a part at rows that may lie one past their episode's last, joined as its history is."""
        frames = [self._goals_of(part, episodes, rows) for rows in history_bn.T]
        if len(frames) == 1:
            return frames[0]
        return np.stack(frames, axis=1) if is_picture(part.name) else np.concatenate(frames, axis=-1)

    def _pictures(self) -> list[_Part]:
        return [part for part in self.parts if is_picture(part.name)]

    def _goal_states(self) -> np.ndarray:
        known = GOAL_COLUMN in self._store.manifest.columns
        return self._store.column(GOAL_COLUMN if known else "observations")

    def _state_goals(self, episodes: np.ndarray, goal_rows: np.ndarray) -> np.ndarray:
        if GOAL_COLUMN not in self._store.manifest.columns:
            return self._goals_of(self.parts[0], episodes, goal_rows)
        return self._goal_states()[np.minimum(goal_rows, self._ends(episodes) - 1)]

    def _goals_of(self, part: _Part, episodes: np.ndarray, goal_rows: np.ndarray) -> np.ndarray:
        ends = self._ends(episodes)
        goals = part.gather(np.minimum(goal_rows, ends - 1))
        if part.final in self._store.manifest.episode_columns:
            after = np.flatnonzero(goal_rows == ends)
            if len(after):
                goals[after] = self._store.frames(part.final).gather(episodes[after])
        return goals

    def _ends(self, episodes: np.ndarray) -> np.ndarray:
        """Return the row after each episode's last."""
        return self._store.starts[episodes] + self._store.lengths[episodes]


def opaque(array: np.ndarray, rows: int) -> np.ndarray:
    """Return a view in which element i is the bytes of rows i to i + rows - 1 of a contiguous array.

    Gathers of whole rows and of whole chunks take a third of the time of numpy's or torch's own.
    """
    width = array[0].nbytes
    return np.ndarray((len(array) - rows + 1,), dtype=f"V{width * rows}", buffer=array.data, strides=(width,))


def _parts(store: EpisodeStore, cameras: Sequence[str] | None, use_proprio: bool) -> list[_Part]:
    present = store.cameras()
    for camera in cameras or []:
        if camera not in present:
            hint = did_you_mean(camera, present) if present else "; it has none"
            raise DatasetError(f"{store.name!r} has no camera {camera!r}{hint}")
    if not present:
        if "observations" not in store.manifest.columns:
            raise DatasetError(f"{store.path}: its manifest names neither observations nor pictures: import it again")
        picture = store.manifest.columns["observations"].holds_pictures
        return [_part(store, PIXELS if picture else STATE, "observations", "final_observations")]
    wanted = present if cameras is None else list(cameras)
    parts = [_part(store, camera, IMAGES + camera, FINAL + IMAGES + camera) for camera in wanted]
    if (use_proprio or not parts) and "observations" in store.manifest.columns:
        parts.insert(0, _part(store, STATE, "observations", "final_observations"))
    if not parts:
        raise DatasetError(f"{store.name!r}: with cameras=[] there is nothing to see, for it has no states")
    return parts


def _part(store: EpisodeStore, name: str, column: str, final: str) -> _Part:
    schema = store.manifest.columns[column]
    shape = schema.shape
    if not schema.holds_pictures and (is_picture(name) or len(shape) > 2):
        raise DatasetError(
            f"{store.path}: {column!r} holds {schema.dtype} rows of shape {list(shape)}, neither pictures nor a"
            " state: an older version imported it so; import the dataset again"
        )
    if is_picture(name):
        return _Part(name, column, final, shape, store.frames(column).gather)
    values = store.column(column)
    rows = opaque(values, rows=1)

    def gather(wanted: np.ndarray) -> np.ndarray:
        found = rows.take(wanted).view(values.dtype).reshape(len(wanted), *shape)
        return found.astype(np.float32, copy=False)

    return _Part(name, column, final, shape, gather)
