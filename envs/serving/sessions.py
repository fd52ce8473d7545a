"""What a server keeps of each client: its episode, with the history, the goal and the decisions so far.

A session is a Runner, as an environment loop of one's own has, that hands out whole chunks: how many of its actions are
executed before the next decision is the client's business, so that it may ask ahead of need.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from understudy.envs.rollouts.acting import Acting
from understudy.envs.rollouts.runner import Runner
from understudy.errors import UserError, did_you_mean
from understudy.language import TELLS
from understudy.observations import PIXELS, as_levels, is_picture, named_parts, parts_of, without_text
from understudy.policy import Policy

KEYS = ("observation", "observations", "reset", "goal", TELLS, "episode", "session")
PROMPTS = (TELLS, "prompt")
"""Parts of an observation in which clients send their task's text; openpi's is `prompt`."""


class Session(Runner):
    """One client's episodes, one after another."""

    def __init__(self, policy: Policy, member: int, temperature: float | None, seed: int) -> None:
        super().__init__(policy, member, temperature, seed)
        if self._execution.ensemble is None:
            self._execution = replace(self._execution, executed=policy.algorithm.chunk_length)

    def take(self, message: Any, fresh_episode: int) -> Acting:
        """Take a request's observations and return the episode, which needs a decision; UserError for what is wrong.

        A new episode begins with `reset`, and at the first request. It has the number `episode` of the request, which
        its noise is drawn for, or `fresh_episode`. A text in a later request holds from that one on.
        """
        request = self._request(message)
        text = self._text_of(request)
        seen = [self._observation(one) for one in request["observations"]]
        if request.get("reset") or self._acting is None:
            number = request.get("episode", fresh_episode)
            if not isinstance(number, int) or isinstance(number, bool) or number < 0:
                raise UserError(f"episode={number!r}: give a whole number from 0 on")
            self.episode = number - 1
            goal = request.get("goal")
            told = {} if goal is None else {"goal": self._observation(goal, "goal")}
            told |= {TELLS: text}
            self.reset(seen[0], told, where="the request")
        for observation in seen:
            acting = self.see(observation)
        if text is not None:
            acting.tell(text)
        return acting

    def _text_of(self, request: Mapping[str, Any]) -> str | None:
        """Return the text that a request tells a policy that goes by one; UserError where it should and does not."""
        told = self._execution.told
        if told is None:
            return None
        text = _text(request)
        if text is not None and not isinstance(text, str):
            raise UserError(f"the task's text of a request is a text, not {type(text).__name__}")
        if text is None and told.text is None and (request.get("reset") or self._acting is None):
            raise UserError(
                "the policy goes by its task's text and the request tells none: give `language`, or `prompt` in the"
                " observation, or serve it with eval_language='pick up the cup'"
            )
        return text

    def _request(self, message: Any) -> dict[str, Any]:
        """Return a request with `observations`; one that has no key of ours is an observation by itself."""
        if not isinstance(message, Mapping):
            raise UserError(f"a request is a map with `observation`, not {type(message).__name__}")
        shape = without_text(self.policy.algorithm.observation_shape)
        parts = parts_of(shape)
        if "observation" not in message and "observations" not in message:
            known = {name: part for name, part in message.items() if name in parts}
            if not known:
                raise UserError(f"the request has no `observation`; it has {', '.join(map(str, message)) or 'nothing'}")
            single = not isinstance(shape, dict)
            told = {name: message[name] for name in PROMPTS if name in message}
            return {"observations": [next(iter(known.values())) if single else known], **told}
        for key in message:
            if key not in KEYS:
                raise UserError(f"{key!r} is no key of a request{did_you_mean(str(key), KEYS)}")
        several = message.get("observations", [message.get("observation")])
        if not isinstance(several, list | tuple) or not several:
            raise UserError("`observations` is a list of what was seen since the last request, oldest first")
        return {**message, "observations": several}

    def _observation(self, given: Any, what: str = "observation") -> Any:
        """Return an observation or a goal as policies are shown it: numbers that are finite, pictures as uint8."""
        parts = named_parts(given)
        if parts is None:
            return _numbers(given, PIXELS if np.ndim(given) >= 3 else "state", what)
        if not all(isinstance(name, str) for name in parts):
            raise UserError(f"the parts of the {what} have names that are no texts")
        told = {name: part for name, part in parts.items() if not isinstance(part, str)}  # a prompt, say
        return {name: _numbers(part, name, what) for name, part in told.items()}


def _text(request: Mapping[str, Any]) -> Any:
    """Return the task's text that a request tells, itself or in its newest observation; None where it tells none."""
    parts = named_parts(request["observations"][-1]) or {}
    told = [*(request.get(name) for name in PROMPTS), *(parts.get(name) for name in PROMPTS)]
    return next((text for text in told if text is not None), None)


def _numbers(given: Any, name: str, what: str) -> np.ndarray:
    try:
        array = np.asarray(given)
    except ValueError:
        array = np.empty(0, object)
    if array.dtype.kind not in "biuf" or array.size == 0:
        raise UserError(f"{name} of the {what} holds no numbers: give an array")
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise UserError(f"{name} of the {what} holds NaN or infinity")
    return as_levels(array, f"{name} of the {what}") if is_picture(name) and array.ndim >= 3 else array


def described(policy: Policy, member: int, temperature: float | None) -> dict[str, Any]:
    """Return what a client has to know of a served policy, JSON-able."""
    algorithm = policy.algorithm
    config = algorithm.config
    shapes = parts_of(without_text(algorithm.observation_shape))
    told = {TELLS: config.language.eval_language or ""} if config.language.language_encoder else {}
    return {
        "algorithm": algorithm.name,
        "env_name": policy.env_name,
        "seed": policy.seeds[member],
        "temperature": float(config.default_temperature if temperature is None else temperature),
        "observation": {name: list(shape) for name, shape in shapes.items()},
        "action_dim": algorithm.action_dim,
        "chunk_length": 1 if config.chunks.temporal_ensemble_coeff is not None else algorithm.chunk_length,
        "executed": algorithm.executed,
        "history": int(policy.spec.get("obs_horizon", 1)),
        **told,
    }


def ready_made(policy: Policy, rows: Sequence[int]) -> None:
    """Ask the policy once for each number of rows, so that no client waits for what torch does at first."""
    shapes = parts_of(policy.algorithm.observation_shape)
    noise_shape = tuple(policy.algorithm.noise_shape())
    for count in rows:
        made = {
            name: np.zeros((1, count, *shape), np.uint8 if is_picture(name) else np.float32)
            for name, shape in shapes.items()
        }
        shown = made if isinstance(policy.algorithm.observation_shape, dict) else next(iter(made.values()))
        policy.act_members(shown, np.zeros((1, count, *noise_shape), np.float32), [0])
