"""Let a trained policy make demonstrations: one member, no noise of its own, chunks executed as in an evaluation."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from understudy.envs.rollouts.acting import Acting, Execution, View
from understudy.envs.rollouts.collecting import goal_of, stored
from understudy.errors import UserError
from understudy.observations import GOAL, STATE, describe, each, has_pictures, is_picture, shape_of
from understudy.policy import Policy


class PolicyExpert:
    """Act as a policy does in an evaluation, with its own temperature.

    It sees what it was trained on: the last `obs_horizon` observations, and the episode's goal where it takes one.
    """

    def __init__(self, policy: Policy, member: int = 0) -> None:
        if not policy.algorithm.acts:
            raise UserError(f"{policy.algorithm.name} gives no actions: it cannot make demonstrations")
        self._policy, self._member = policy, member
        self._execution = Execution.of(policy.algorithm)
        self._acting: Acting | None = None
        self._first = True

    @classmethod
    def load(cls, folder: Path) -> PolicyExpert:
        """Read the first member of a policy folder."""
        return cls(Policy.load(folder))

    def reset(self, env: Any, observation: Any, info: dict[str, Any], rng: np.random.Generator) -> None:
        """Forget the last episode; the first observation fills the history."""
        view, goal, wanted = self._view(observation), goal_of(info), self._policy.algorithm.observation_shape
        acting = Acting(view, self._execution, each(stored, observation), goal)
        if goal is not None and shape_of(acting.shown()) != wanted:  # many tasks tell one that policies do not need
            told = Acting(replace(view, with_goal=True), self._execution, each(stored, observation), goal)
            acting = told if shape_of(told.shown()) == wanted else acting
        self._check(env, acting)
        self._acting, self._first = acting, True

    def act(self, env: Any, observation: Any, info: dict[str, Any]) -> np.ndarray:
        """Return the chunk's next action [A], asking the policy when the last chunk is used up."""
        acting = self._acting
        assert acting is not None, "reset comes first"
        if not self._first:
            acting.see(each(stored, observation))
        self._first = False
        if acting.needs_decision:
            acting.decided(self._ask(acting.shown()))
        return acting.next_action()

    def _ask(self, shown: Any) -> np.ndarray:
        threads = torch.get_num_threads()
        torch.set_num_threads(1)  # the numbers must not depend on how many processes share the machine
        try:
            return self._policy.act(shown, member=self._member)[0]
        finally:
            torch.set_num_threads(threads)

    def _view(self, observation: Any) -> View:
        """Return what the policy was shown in training, of an environment that may show more."""
        spec, shape = self._policy.spec, self._policy.algorithm.observation_shape
        length = int(spec.get("obs_horizon", 1))
        if not isinstance(observation, Mapping):
            return View(length)
        if isinstance(shape, dict):
            cameras = tuple(name for name in shape if is_picture(name) and not name.startswith(GOAL))
            return View(length, cameras=cameras, use_proprio=STATE in shape)
        if not has_pictures(shape):
            return View(length, cameras=())
        known = [name for name in observation if is_picture(name)]
        return View(length, cameras=tuple((spec.get("cameras") or known)[:1]), use_proprio=False)

    def _check(self, env: Any, acting: Acting) -> None:
        algorithm = self._policy.algorithm
        task = env.spec.id if env.spec else type(env.unwrapped).__name__
        given = describe(shape_of(acting.shown())), describe(tuple(env.action_space.shape))
        taken = describe(algorithm.observation_shape), describe((algorithm.action_dim,))
        for what, found, wanted in zip(("observations", "actions"), given, taken, strict=True):
            if found != wanted:
                made_for = f" (it was trained on {self._policy.env_name})" if self._policy.env_name else ""
                raise UserError(f"the policy has {what} {wanted}, {task} has {found}{made_for}")
