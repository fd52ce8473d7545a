"""Experts of one's own: what they do wrong is one line, which names the class and the line of its file."""

from __future__ import annotations

import traceback
from collections.abc import Callable
from typing import Any

import numpy as np

from understudy.errors import UnderstudyError, UserError


def make_own_expert(reference: str, maker: Any) -> OwnExpert | None:
    """Return what the `expert` of a class or function returns, checked; None where it has none."""
    make = getattr(maker, "expert", None)
    if make is None:
        return None
    needed = "called without arguments it returns an object with reset(env, observation, info, rng) and act(env, ...)"
    if not callable(make):
        raise UserError(f"{reference}: its `expert` is a {type(make).__name__}; a class or a @staticmethod is needed")
    try:
        made = make()
    except UnderstudyError:
        raise
    except Exception as error:
        raise UserError(
            f"{reference}: its `expert` cannot be called ({said(error)}): as a class, or a @staticmethod, {needed}"
        ) from error
    missing = [name for name in ("reset", "act") if not callable(getattr(made, name, None))]
    if missing:
        raise UserError(
            f"{reference}: its `expert` gives an object of {type(made).__name__!r} without {missing[0]}(): {needed}"
        )
    return OwnExpert(reference, made)


class OwnExpert:
    """The user's expert, whose failures and unfit actions are UserErrors."""

    def __init__(self, reference: str, expert: Any) -> None:
        self._reference, self._expert = reference, expert

    def reset(self, env: Any, observation: Any, info: dict[str, Any], rng: np.random.Generator) -> None:
        """Start an episode."""
        self._asked("reset", lambda: self._expert.reset(env, observation, info, rng))

    def act(self, env: Any, observation: Any, info: dict[str, Any]) -> np.ndarray:
        """Return the action [A]; UserError unless it has the shape of the environment's and is finite."""
        answer = self._asked("act", lambda: self._expert.act(env, observation, info))
        wanted = env.action_space.shape
        try:
            action = np.asarray(answer, np.float64)
        except (TypeError, ValueError):
            raise UserError(
                f"{self._reference}: act() of its expert returned {answer!r:.60}; {wanted} numbers are needed"
            ) from None
        if action.shape != wanted:
            raise UserError(
                f"{self._reference}: act() of its expert returned shape {action.shape}; its actions have {wanted}"
            )
        if not np.isfinite(action).all():
            raise UserError(f"{self._reference}: act() of its expert returned NaN or infinity")
        return np.asarray(answer)

    def _asked(self, what: str, ask: Callable[[], Any]) -> Any:
        try:
            return ask()
        except UnderstudyError:
            raise
        except Exception as error:
            hint = ""
            if isinstance(error, AttributeError) and isinstance(getattr(error, "obj", None), _wrapper()):
                hint = "; `env` is wrapped: env.unwrapped is your own object"
            raise UserError(f"{self._reference}: {what}() of its expert failed: {said(error)}{hint}") from error


def said(error: Exception) -> str:
    """Return an exception's kind, what it says and the line of code that it comes from."""
    text = (str(error).splitlines() or [""])[0]
    frames = traceback.extract_tb(error.__traceback__)
    last = next((frame for frame in reversed(frames) if "site-packages" not in frame.filename), None)
    where = f" at {last.filename}, line {last.lineno}" if last is not None and last.filename != __file__ else ""
    return f"{type(error).__name__}: {text}{where}"


def _wrapper() -> type:
    import gymnasium

    return gymnasium.Wrapper
