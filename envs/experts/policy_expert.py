"""Let a trained policy make demonstrations: one member, no noise of its own, chunks executed as in an evaluation."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from understudy.envs.rollouts.ensembling import TemporalEnsemble
from understudy.envs.rollouts.wrappers import join_goal, join_history
from understudy.errors import UserError
from understudy.observations import STATE, describe, has_pictures, is_picture, shape_of
from understudy.policy import Policy


class PolicyExpert:
    """Act as a policy does in an evaluation, with its own temperature.

    It sees what it was trained on: the last `obs_horizon` observations, and the episode's goal where it takes one.
    """

    def __init__(self, policy: Policy, member: int = 0) -> None:
        if not policy.algorithm.acts:
            raise UserError(f"{policy.algorithm.name} gives no actions: it cannot make demonstrations")
        self._policy, self._member = policy, member
        self._seen: deque[Any] = deque(maxlen=int(policy.spec.get("obs_horizon", 1)))
        self._goal: Any = None
        self._chunk: list[np.ndarray] = []
        self._ensemble: TemporalEnsemble | None = None
        self._first = True

    @classmethod
    def load(cls, folder: Path) -> PolicyExpert:
        """Read the first member of a policy folder."""
        return cls(Policy.load(folder))

    def reset(self, env: Any, observation: Any, info: dict[str, Any], rng: np.random.Generator) -> None:
        """Forget the last episode; the first observation fills the history."""
        self._chunk, self._first, self._goal = [], True, None
        coefficient = self._policy.algorithm.config.temporal_ensemble_coeff
        self._ensemble = None if coefficient is None else TemporalEnsemble(coefficient)
        self._seen.extend([self._chosen(observation)] * (self._seen.maxlen or 1))
        wanted = self._policy.algorithm.observation_shape
        if "goal" in info and shape_of(self._input()) != wanted:  # many tasks tell one that their policies do not need
            self._goal = info["goal"]
            if shape_of(self._input()) != wanted:
                self._goal = None
        self._check(env)

    def act(self, env: Any, observation: Any, info: dict[str, Any]) -> np.ndarray:
        """Return the chunk's next action [A], asking the policy when the last chunk is used up."""
        if not self._first:
            self._seen.append(self._chosen(observation))
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
        if self._ensemble is not None:
            return self._ensemble.add(chunk)[None]
        return chunk[: self._policy.algorithm.executed]

    def _chosen(self, observation: Any) -> Any:
        """Return a copy of what the policy sees of one observation."""
        if not isinstance(observation, Mapping):
            return np.array(observation)
        shape = self._policy.algorithm.observation_shape
        if isinstance(shape, dict):
            return {name: np.array(part) for name, part in observation.items() if name in shape}
        cameras = self._policy.spec.get("cameras") or [name for name in observation if is_picture(name)]
        return np.array(observation[STATE if not has_pictures(shape) else cameras[0]])

    def _input(self) -> Any:
        """Return the observations, joined as in training, with the goal after them."""
        seen = list(self._seen)
        if isinstance(seen[0], dict):
            joined: Any = {name: join_history([one[name] for one in seen]) for name in seen[0]}
        else:
            joined = join_history(seen)
        return joined if self._goal is None else join_goal(joined, self._goal)

    def _check(self, env: Any) -> None:
        algorithm = self._policy.algorithm
        task = env.spec.id if env.spec else type(env.unwrapped).__name__
        given = describe(shape_of(self._input())), describe(tuple(env.action_space.shape))
        taken = describe(algorithm.observation_shape), describe((algorithm.action_dim,))
        for what, found, wanted in zip(("observations", "actions"), given, taken, strict=True):
            if found != wanted:
                made_for = f" (it was trained on {self._policy.env_name})" if self._policy.env_name else ""
                raise UserError(f"the policy has {what} {wanted}, {task} has {found}{made_for}")
