"""What a policy sees: one array, or several named ones (a state, cameras, a goal). Shapes, rows and checks of both.

A single array is a state vector [O] or a picture [H, W, C]. Several are a dict: `state` [O], one uint8 picture
[H, W, C] a camera, `goal/state`, `goal/<camera>` where the policy is told a goal, and `language` [D], the vector of the
task's text, where it is told that. With a history kept as a sequence there is one more leading dim: [n, O],
[n, H, W, C].
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias, cast

import numpy as np

from understudy.errors import UserError

if TYPE_CHECKING:  # the command line and the specs read shapes; torch takes seconds to import
    import torch

STATE, PIXELS, GOAL, LANGUAGE = "state", "pixels", "goal/", "language"
"""The key of a state, that of the only camera of data without camera names, the prefix of a goal's parts, and the key
of the vector of a task's text."""

ObservationShape = tuple[int, ...] | dict[str, tuple[int, ...]]
"""Shape of one observation, without batch dims."""
Observations: TypeAlias = "torch.Tensor | dict[str, torch.Tensor]"
"""A batch of observations: `observation_shape` with the same leading dims in front of every part."""
Arrays = np.ndarray | dict[str, np.ndarray]
"""The same in numpy."""


def as_shape(value: Sequence[int] | Mapping[str, Sequence[int]]) -> ObservationShape:
    """Return a shape as tuples, from what JSON or a caller gave."""
    if isinstance(value, Mapping):
        return {str(name): tuple(int(n) for n in shape) for name, shape in value.items()}
    return tuple(int(n) for n in value)


def named_parts(observation: Any) -> Mapping[str, Any] | None:
    """Return the named parts of an observation; None for a single array."""
    return cast("Mapping[str, Any]", observation) if _has_names(cast("type[Any]", type(observation))) else None


@functools.cache  # asked of every array of every batch
def _has_names(kind: type[Any]) -> bool:
    return issubclass(kind, Mapping)


def shape_of(observation: Any, leading: int = 0) -> ObservationShape:
    """Return the shape of an observation (or of anything with `.shape`, such as spaces), less `leading` dims."""
    parts = named_parts(observation)
    if parts is None:
        return tuple(observation.shape[leading:])
    return {str(name): tuple(part.shape[leading:]) for name, part in parts.items()}


def parts_of(shape: ObservationShape) -> dict[str, tuple[int, ...]]:
    """Return the named parts of a shape; a single array is `state` or, with three dims or more, `pixels`."""
    if isinstance(shape, dict):
        return shape
    return {(PIXELS if len(shape) >= 3 else STATE): shape}


def told_text(shape: ObservationShape) -> bool:
    """Return whether a task's text is among what is seen."""
    return isinstance(shape, dict) and LANGUAGE in shape


def without_text(shape: ObservationShape) -> ObservationShape:
    """Return the shape of what is seen beside a task's text: a part that is alone then is a single array."""
    if not told_text(shape):
        return shape
    rest = {name: part for name, part in parts_of(shape).items() if name != LANGUAGE}
    return rest if len(rest) > 1 else next(iter(rest.values()))


def with_text(observation: Any, vectors: Any) -> dict[str, Any]:
    """Return an observation, or a batch of them, with the vectors of its texts; a single array gets its name.

    Of arrays that have a batch in front, `vectors` have it too: [D] or [B, D].
    """
    parts = named_parts(observation)
    if parts is None:
        dims = observation.ndim - vectors.ndim + 1
        parts = {PIXELS if dims >= 3 else STATE: observation}
    return {**parts, LANGUAGE: vectors}


def is_picture(name: str) -> bool:
    """Return whether a part of this name holds pictures."""
    return name.removeprefix(GOAL) not in (STATE, LANGUAGE)


def has_pictures(shape: ObservationShape) -> bool:
    """Return whether any part is a picture."""
    return any(is_picture(name) for name in parts_of(shape))


def each(function: Callable[[Any], Any], observation: Any) -> Any:
    """Return `function` of a single array, or of each part."""
    parts = named_parts(observation)
    if parts is None:
        return function(observation)
    return {name: function(part) for name, part in parts.items()}


def together(join: Callable[[list[Any]], Any], observations: Sequence[Any]) -> Any:
    """Return `join` of several single arrays, or of each part of several observations."""
    if isinstance(observations[0], Mapping):
        first = cast("Mapping[str, Any]", observations[0])
        return {name: join([one[name] for one in observations]) for name in first}
    return join(list(observations))


def describe(shape: ObservationShape) -> str:
    """Return a shape for messages: `(17,)`, or `state (9,), front (64, 64, 3)`."""
    return ", ".join(f"{name} {part}" for name, part in shape.items()) if isinstance(shape, dict) else str(shape)


def batch_size(observations: Any) -> int:
    """Return the leading length of a batch, which all of its parts have."""
    parts = named_parts(observations)
    return len(observations if parts is None else next(iter(parts.values())))


def dtype_of(name: str) -> type[np.generic]:
    """Return what the numbers of a part are: uint8 for pictures, float32 for states."""
    return np.uint8 if is_picture(name) else np.float32


def as_levels(pictures: Any, what: str) -> np.ndarray:
    """Return pictures as uint8: whole numbers are 0 to 255, floats 0 to 1; UserError for values out of these."""
    array = np.asarray(pictures)
    if array.dtype == np.uint8 or array.dtype.kind not in "biuf" or array.size == 0:
        return array
    most = 1.0 if array.dtype.kind in "bf" else 255.0
    low, high = float(array.min()), float(array.max())
    if not (low >= 0 and high <= most):
        raise UserError(
            f"{what}: pictures of {array.dtype} hold {low:g} to {high:g}; give uint8, 0 to 255, or floats, 0 to 1"
        )
    return np.rint(array.astype(np.float32) * np.float32(255 / most)).astype(np.uint8)


def batched(observations: Any, shape: ObservationShape, what: str) -> tuple[Arrays, bool]:
    """Return observations [B, *shape] in the policy's dtypes, and whether a single one was given (then B is 1).

    UserError, in one line with both shapes, for anything else; extra parts of a dict are left out.
    """
    parts = parts_of(shape)
    if isinstance(shape, dict):
        given = named_parts(observations) or {}
        missing = [name for name in parts if name not in given]
        if missing:
            raise UserError(f"{what} needs {missing[0]!r}: its observations are {describe(shape)}")
    else:
        given = dict.fromkeys(parts, observations)
    arrays: dict[str, np.ndarray] = {}
    singles: set[bool] = set()
    for name, wanted in parts.items():
        given_part = as_levels(given[name], f"{name} of {what}") if is_picture(name) else given[name]
        array = np.ascontiguousarray(given_part, dtype_of(name))
        singles.add(array.shape == wanted)
        array = array[None] if array.shape == wanted else array
        if array.ndim != len(wanted) + 1 or array.shape[1:] != wanted:
            found = array.shape if not isinstance(shape, dict) else f"{name} {array.shape}"
            raise UserError(f"observations have shape {found}; {what} takes {describe(shape)} or a batch of them")
        arrays[name] = array
    if len(singles) > 1 or len({len(array) for array in arrays.values()}) > 1:
        raise UserError(f"the parts of the observations have different batch sizes; {what} takes one")
    return (arrays if isinstance(shape, dict) else next(iter(arrays.values()))), singles.pop()
