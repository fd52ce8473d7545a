"""Check an environment before anything is trained for it: its spaces, its reset and one step.

What is unfit is one line. What is checked is gymnasium's interface as rollouts use it. Numbers are checked at every
later step too: an environment may break in the middle of an evaluation.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from gymnasium import spaces

from understudy.errors import DatasetError, UnderstudyError
from understudy.observations import Arrays, describe, each, is_picture, shape_of

NUMBERS = "biuf"
"""Kinds of numpy dtypes that are numbers."""


def check_spaces(env: Any, name: str) -> None:
    """Raise DatasetError unless the actions are a vector in a Box, and the observations boxes of numbers."""
    for space in ("action_space", "observation_space"):
        if not isinstance(getattr(env, space, None), spaces.Space):
            raise DatasetError(f"environment {name}: {type(env).__name__} has no {space} of gymnasium's")
    actions = env.action_space
    if not isinstance(actions, spaces.Box) or actions.dtype.kind != "f" or len(actions.shape) != 1:
        raise DatasetError(f"environment {name}: its actions are {actions}; a Box of float32 with one axis is needed")
    for part, space in _parts(env).items():
        if not isinstance(space, spaces.Box) or space.dtype.kind not in NUMBERS:
            raise DatasetError(f"environment {name}: {_what(part)} {space}; a Box is needed")


def check_cameras(env: Any, name: str) -> None:
    """Raise DatasetError unless all parts of an observation but `state` are pictures, as a store has them."""
    for part, space in _parts(env).items():
        if part and is_picture(part) and not (len(space.shape) == 3 and space.dtype == np.uint8):
            raise DatasetError(
                f"environment {name}: {_what(part)} {space};"
                " beside the vector `state` only pictures [H, W, C] of uint8 can be"
            )


def _parts(env: Any) -> dict[str, Any]:
    seen = env.observation_space
    return dict(seen.items()) if isinstance(seen, spaces.Dict) else {"": seen}


def _what(part: str) -> str:
    return f"part {part!r} of its observations is" if part else "its observations are"


def check_reset(answer: Any, env: Any, name: str) -> Arrays:
    """Return the observation of a reset; DatasetError unless it is a pair, and the observation as its space says."""
    if not isinstance(answer, tuple) or len(answer) != 2 or not isinstance(answer[1], Mapping):
        raise DatasetError(f"environment {name}: reset() returned {_shown(answer)}; (observation, info) is needed")
    return check_observation(answer[0], env, f"environment {name}: reset()")


def check_step(answer: Any, env: Any, name: str) -> Arrays:
    """Return the observation of a step; DatasetError unless its five values are of the kinds that gymnasium's are."""
    where = f"environment {name}: step()"
    if not isinstance(answer, tuple) or len(answer) != 5:
        raise DatasetError(
            f"{where} returned {_shown(answer)}; (observation, reward, terminated, truncated, info) is needed"
        )
    observation, reward, terminated, truncated, info = answer
    if not isinstance(info, Mapping):
        raise DatasetError(f"{where} gave {_shown(info)} as info; a dict is needed")
    for key, value in (("terminated", terminated), ("truncated", truncated)):
        if not isinstance(value, bool | np.bool_) and not (np.ndim(value) == 0 and value in (0, 1)):
            raise DatasetError(f"{where} gave {_shown(value)} as {key}; a bool is needed")
    try:
        one_number(reward, "reward")
        one_number(info.get("success", 0.0), "success")
    except UnderstudyError as error:
        raise DatasetError(f"{where} gave {error}") from None
    return check_observation(observation, env, where)


def check_observation(observation: Any, env: Any, where: str) -> Arrays:
    """Return an observation as arrays; DatasetError unless it has its space's shape and holds finite numbers."""
    wanted = shape_of(env.observation_space)
    if isinstance(observation, Mapping) != isinstance(wanted, dict):
        raise DatasetError(f"{where} gave {_shown(observation)}; its space says {describe(wanted)}")
    arrays = each(np.asarray, observation)
    if shape_of(arrays) != wanted:
        raise DatasetError(f"{where} gave observations {describe(shape_of(arrays))}; its space says {describe(wanted)}")
    for part in _each_part(arrays):
        if part.dtype.kind not in NUMBERS:
            raise DatasetError(f"{where} gave observations of {part.dtype}; numbers are needed")
    if not finite(arrays):
        raise DatasetError(f"{where} gave an observation with NaN or infinite numbers")
    return arrays


def finite(observation: Arrays) -> bool:
    """Return whether every number of an observation is finite."""
    return all(part.dtype.kind != "f" or bool(np.isfinite(part).all()) for part in _each_part(observation))


def one_number(value: Any, what: str) -> float:
    """Return a reward or a success as a float; UnderstudyError unless it is one finite number."""
    try:
        single = float(np.asarray(value).item())
    except (TypeError, ValueError):
        raise UnderstudyError(f"{_shown(value)} as {what}; one number is needed") from None
    if not math.isfinite(single):
        raise UnderstudyError(f"{single} as {what}; a finite number is needed")
    return single


def _each_part(observation: Any) -> list[np.ndarray]:
    return list(observation.values()) if isinstance(observation, Mapping) else [observation]


def _shown(value: Any) -> str:
    """Return what a value is, in few words."""
    if isinstance(value, np.ndarray):
        return f"an array of shape {value.shape} and dtype {value.dtype}"
    if isinstance(value, tuple):
        return f"{len(value)} values"
    text = repr(value)
    return f"{type(value).__name__} {text}" if len(text) <= 40 and "\n" not in text else f"a {type(value).__name__}"
