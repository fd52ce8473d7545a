"""An environment of the user's while demonstrations are made in it: what it does wrong is one line."""

from __future__ import annotations

from typing import Any

import gymnasium

from understudy.envs.rollouts.checks import check_reset, check_spaces, check_step
from understudy.envs.simulators.own_expert import said
from understudy.errors import DatasetError, UnderstudyError


class CheckedEnv(gymnasium.Wrapper):
    """Check every answer as rollouts do: DatasetError with the environment's name and the step."""

    def __init__(self, env: gymnasium.Env, name: str) -> None:
        check_spaces(env, name)
        super().__init__(env)
        self._name, self._steps = name, 0

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Reset."""
        self._steps = 0
        try:
            answer: Any = self.env.reset(seed=seed, options=options)
        except UnderstudyError:
            raise
        except Exception as error:
            raise DatasetError(f"environment {self._name}: reset(seed={seed}) failed: {said(error)}") from error
        check_reset(answer, self.env, self._name)
        return answer

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        """Step."""
        self._steps += 1
        try:
            answer: Any = self.env.step(action)
        except UnderstudyError:
            raise
        except Exception as error:
            raise DatasetError(f"environment {self._name}: step {self._steps} failed: {said(error)}") from error
        check_step(answer, self.env, self._name)
        return answer
