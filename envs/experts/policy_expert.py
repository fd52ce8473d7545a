"""Let a trained policy make demonstrations: one member, no noise of its own, chunks executed as in an evaluation."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from understudy.envs.rollouts.acting import Acting
from understudy.envs.rollouts.runner import Runner
from understudy.errors import UserError
from understudy.observations import describe
from understudy.policy import Policy


class PolicyExpert:
    """Act as a policy does in an evaluation, with its own temperature.

    It sees what it was trained on: the last `obs_horizon` observations, and the episode's goal where it takes one.
    """

    def __init__(self, policy: Policy, member: int = 0) -> None:
        if not policy.algorithm.acts:
            raise UserError(f"{policy.algorithm.name} gives no actions: it cannot make demonstrations")
        self._runner = _Alone(policy, member)

    @classmethod
    def load(cls, folder: Path) -> PolicyExpert:
        """Read the first member of a policy folder."""
        return cls(Policy.load(folder))

    def reset(self, env: Any, observation: Any, info: dict[str, Any], rng: np.random.Generator) -> None:
        """Forget the last episode; the first observation fills the history."""
        policy = self._runner.policy
        task = env.spec.id if env.spec else type(env.unwrapped).__name__
        self._runner.reset(observation, info, where=task)
        given, taken = tuple(env.action_space.shape), (policy.algorithm.action_dim,)
        if given != taken:
            made_for = f" (it was trained on {policy.env_name})" if policy.env_name else ""
            raise UserError(f"the policy has actions {describe(taken)}, {task} has {describe(given)}{made_for}")

    def act(self, env: Any, observation: Any, info: dict[str, Any]) -> np.ndarray:
        """Return the chunk's next action [A], asking the policy when the last chunk is used up."""
        return self._runner.act(observation)


class _Alone(Runner):
    """Decide for one observation at a time: what is generated again must be equal to what was generated before."""

    def _decide(self, acting: Acting) -> None:
        if not acting.needs_decision:
            return
        threads = torch.get_num_threads()
        torch.set_num_threads(1)  # the numbers must not depend on how many processes share the machine
        try:
            acting.decided(self.policy.act(acting.shown(), member=self.member)[0])
        finally:
            torch.set_num_threads(threads)
