"""One environment as rollouts drive it: reset, a whole chunk of actions at a time, and what came of them.

Whatever an environment does wrong is an UnderstudyError that names it, the step and the episode's seed.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from understudy.envs.rollouts.checks import check_reset, check_step, finite, one_number
from understudy.envs.rollouts.collecting import Step, goal_of, stored
from understudy.envs.rollouts.limits import episode_limit
from understudy.errors import DatasetError, UnderstudyError
from understudy.language import text_of
from understudy.observations import Arrays, each

Poll = Callable[[], None]
"""Called between the steps of environments, and while other processes step them; what it raises ends the work."""


@dataclass(frozen=True)
class Command:
    """Reset `slot` with `seed`, or execute `actions` [H, A] in it; a frame is kept each `frame_skip` steps if not 0."""

    slot: int
    seed: int | None = None
    actions: np.ndarray | None = None
    frame_skip: int = 0
    recent: int = 1
    """The newest observations that are wanted back; fewer come when fewer actions were executed."""
    record: bool = False
    """Whether every step is wanted back."""
    check: bool = False
    """Whether the reset begins a check of the environment: one step follows it."""


@dataclass
class CommandResult:
    """What a command did: what was seen after it, and the sums over its steps."""

    observations: list[Arrays] = field(default_factory=list)
    """The newest ones, oldest first."""
    reward: float = 0.0
    steps: int = 0
    done: bool = False
    success: float | None = None
    frames: list[np.ndarray] = field(default_factory=list)
    recorded: list[Step] = field(default_factory=list)
    goal: Arrays | None = None
    """The episode's goal, where the environment tells one (in the answer to a reset)."""
    text: str | None = None
    """The task's text, where the environment tells one (in the answer to a reset)."""
    action_dim: int = 0
    """Numbers in one action (in the answer to a reset)."""
    limit: int | None = None
    """Most steps of an episode, where the environment sets a limit (in the answer to a reset)."""
    info: dict[str, Any] = field(default_factory=dict)
    """What the environment told last, where every step is wanted back."""

    @property
    def observation(self) -> Arrays:
        """The newest observation."""
        return self.observations[-1]


class Slot:
    """One environment and the number of steps since its reset."""

    def __init__(self, env: Any, name: str) -> None:
        self.env, self._name = env, name
        self._steps, self._seed = 0, None

    def run(self, command: Command, poll: Poll | None = None) -> CommandResult:
        """Reset, or execute a chunk until its end or the episode's; UnderstudyError where the environment breaks."""
        if command.actions is not None:
            return self._execute(command, command.actions, poll)
        if command.check:
            self._check(command.seed)
        observation, info = self._call(self.env.reset, seed=command.seed)
        self._steps, self._seed = 0, command.seed
        frames = [self._call(self.env.render)] if command.frame_skip else []
        size = int(np.prod(self.env.action_space.shape or ()))
        told = {"goal": goal_of(info), "text": text_of(info, self.env)}
        told |= {"action_dim": size, "limit": episode_limit(self.env)}
        told |= {"info": dict(info)} if command.record else {}
        return CommandResult([self._stored(observation)], frames=frames, **told)

    def _check(self, seed: int | None) -> None:
        """Reset and take one step in the middle of the action space; DatasetError for what rollouts cannot use."""
        space = self.env.action_space
        middle = np.clip(np.zeros(space.shape, space.dtype), space.low, space.high)
        try:
            check_reset(self.env.reset(seed=seed), self.env, self._name)
            check_step(self.env.step(middle), self.env, self._name)
        except UnderstudyError:
            raise
        except Exception as error:
            raise DatasetError(f"environment {self._name} fails when it is tried: {one_line(error)}") from error

    def _execute(self, command: Command, actions: np.ndarray, poll: Poll | None) -> CommandResult:
        outcome = CommandResult()
        seen: deque[Any] = deque(maxlen=command.recent)
        for action in actions:
            if poll is not None:
                poll()
            observation, reward, terminated, truncated, info = self._call(self.env.step, action)
            reward = self._number(reward, "reward")
            self._steps += 1
            outcome.steps += 1
            outcome.reward += reward
            if "success" in info:
                outcome.success = max(self._number(info["success"], "success"), outcome.success or 0.0)
            outcome.done = bool(terminated or truncated)
            seen.append(self._stored(observation))
            if command.record:
                outcome.recorded.append(Step(action, seen[-1], reward, bool(terminated), bool(truncated)))
                outcome.info = info
            if command.frame_skip and (outcome.done or self._steps % command.frame_skip == 0):
                outcome.frames.append(self._call(self.env.render))
            if outcome.done:
                break
        outcome.observations = list(seen)
        return outcome

    def _call(self, function: Callable[..., Any], *values: Any, **named: Any) -> Any:
        """Call the environment; whatever it raises is one line that says when."""
        try:
            return function(*values, **named)
        except Exception as error:
            raise UnderstudyError(f"{self._where()} fails: {one_line(error)}") from error

    def _number(self, value: Any, what: str) -> float:
        if type(value) is float and math.isfinite(value):  # most are
            return value
        try:
            return one_number(value, what)
        except UnderstudyError as error:
            raise UnderstudyError(f"{self._where()} gave {error}") from None

    def _stored(self, observation: Any) -> Arrays:
        seen = each(stored, observation)
        if not finite(seen):
            raise UnderstudyError(f"{self._where()} gave an observation with NaN or infinite numbers")
        return seen

    def _where(self) -> str:
        return f"environment {self._name} at step {self._steps} of the episode of seed {self._seed}"


def one_line(error: Exception) -> str:
    """Return an exception's type and message in one line."""
    return " ".join(f"{type(error).__name__}: {error}".split())[:300]
