"""The environment's own oracle in a person's place: for tests, and for machines that nobody sits at."""

from __future__ import annotations

from typing import Any

import numpy as np

from understudy.envs.recording.control import Control, Driven, Said
from understudy.errors import UserError
from understudy.registry import controls


@controls.register("scripted")
class Scripted(Control):
    """Drive as the scripted expert does; beside a policy, take over where an episode goes on for too long."""

    by_hand = False
    patience = 10
    """Steps of an episode that are left to a policy before the oracle takes over until the end."""

    def __init__(self, driven: Driven) -> None:
        super().__init__(driven)
        if driven.expert is None:
            raise UserError(f"control=scripted: {driven.env_name} has no scripted expert; control=keyboard drives it")
        self._expert, self._steps = driven.expert, 0
        self._rng = np.random.default_rng(0)

    def begin(self, env: Any, observation: Any, info: dict[str, Any], rng: np.random.Generator) -> None:
        """Begin an episode."""
        self._steps, self._rng = 0, rng

    def read(self, env: Any, observation: Any, info: dict[str, Any]) -> Said:
        """Return the oracle's action, or leave the step to the policy."""
        first = 0 if self.driven.alone else self.patience
        self._steps += 1
        if self._steps <= first:
            return Said()
        if self._steps == first + 1:
            self._expert.reset(env, observation, info, self._rng)
        action = self._expert.act(env, observation, info)
        return Said(np.clip(np.asarray(action, np.float32), self.driven.low, self.driven.high))
