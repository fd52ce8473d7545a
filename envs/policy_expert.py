"""Let a trained policy make demonstrations: one member, no noise of its own, each chunk of actions executed in full."""

from __future__ import annotations

from collections import deque
from pathlib import Path
from typing import Any

import numpy as np
import torch

from understudy.errors import UserError
from understudy.policy import Policy


class PolicyExpert:
    """Act as a policy does in an evaluation with temperature 0.

    It sees what it was trained on: the last `obs_horizon` observations, and the episode's goal where it takes one.
    """

    def __init__(self, policy: Policy, member: int = 0) -> None:
        self._policy, self._member = policy, member
        self._seen: deque[np.ndarray] = deque(maxlen=int(policy.spec.get("obs_horizon", 1)))
        self._goal: np.ndarray | None = None
        self._chunk: list[np.ndarray] = []
        self._first = True

    @classmethod
    def load(cls, folder: Path) -> PolicyExpert:
        """Read the first member of a policy folder."""
        return cls(Policy.load(folder))

    def reset(self, env: Any, observation: np.ndarray, info: dict[str, Any], rng: np.random.Generator) -> None:
        """Forget the last episode; the first observation fills the history."""
        self._chunk, self._first, self._goal = [], True, None
        self._seen.extend([np.array(observation)] * (self._seen.maxlen or 1))
        if "goal" in info:  # many tasks tell one that their policies do not need
            alone, goal = self._input(), np.asarray(info["goal"])
            self._goal = goal if _joined_shape(alone, goal) == self._policy.algorithm.observation_shape else None
        self._check(env)

    def act(self, env: Any, observation: np.ndarray, info: dict[str, Any]) -> np.ndarray:
        """Return the chunk's next action [A], asking the policy when the last chunk is used up."""
        if not self._first:
            self._seen.append(np.array(observation))
        self._first = False
        if not self._chunk:
            self._chunk = list(self._ask())
        return self._chunk.pop(0)

    def _ask(self) -> np.ndarray:
        threads = torch.get_num_threads()
        torch.set_num_threads(1)  # the numbers must not depend on how many processes share the machine
        try:
            chunk = self._policy.act(self._input(), member=self._member)[0]
        finally:
            torch.set_num_threads(threads)
        if not np.isfinite(chunk).all():
            raise UserError("the policy returned NaN or infinite actions; it cannot make demonstrations")
        return chunk[: self._policy.algorithm.chunk_length]

    def _input(self) -> np.ndarray:
        """Return the observations, joined as in training, with the goal after them."""
        goal = [] if self._goal is None else [self._goal]
        return np.concatenate([*self._seen, *goal], axis=-1, dtype=self._seen[-1].dtype)

    def _check(self, env: Any) -> None:
        algorithm = self._policy.algorithm
        task = env.spec.id if env.spec else type(env.unwrapped).__name__
        shapes = (("observations", self._input().shape, algorithm.observation_shape),
                  ("actions", env.action_space.shape, (algorithm.action_dim,)))  # fmt: skip
        for what, given, taken in shapes:
            if given != taken:
                made_for = f" (it was trained on {self._policy.env_name})" if self._policy.env_name else ""
                raise UserError(f"the policy has {what} {taken}, {task} has {given}{made_for}")


def _joined_shape(first: np.ndarray, second: np.ndarray) -> tuple[int, ...] | None:
    if first.shape[:-1] != second.shape[:-1]:
        return None
    return (*first.shape[:-1], first.shape[-1] + second.shape[-1])
