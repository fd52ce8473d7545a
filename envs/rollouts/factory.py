"""Make one dataset's environment, and say what a policy is shown of it."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from understudy.envs.rollouts.acting import View
from understudy.envs.rollouts.limits import limited
from understudy.envs.simulators.own import is_reference, load_maker
from understudy.envs.sources.source import task_of
from understudy.envs.sources.task import Settings, Task
from understudy.errors import UnknownName

if TYPE_CHECKING:
    import gymnasium


@dataclass(frozen=True)
class EnvFactory:
    """Make one dataset's environment; hashable and picklable, so that rollouts can cache and send it."""

    env_name: str
    size: int = 256
    settings: str = ""
    """The file's own settings as JSON, which is hashable; empty for the published ones."""
    view: View = field(default_factory=View)
    """What the policy is shown of what the environment gives."""
    forms: str = ""
    """What was done to the columns of the data when they came in, as JSON; empty where nothing was."""
    max_steps: int = 0
    """Steps after which an episode ends at the latest; 0: the environment's own limit."""

    def __call__(self, *, render: bool = False) -> gymnasium.Env:
        """Return a new environment that shows what the data show; DatasetError when a policy cannot act in it."""
        from understudy.envs.rollouts.checks import check_cameras, check_spaces
        from understudy.envs.rollouts.forms import in_stored_form

        env = self.task.make_env(render=render, size=self.size, settings=self._settings())
        check_spaces(env, self.env_name)
        env = in_stored_form(env, self.env_name, json.loads(self.forms) if self.forms else None)
        check_cameras(env, self.env_name)
        return limited(env, self.max_steps)

    def _settings(self) -> Settings | None:
        return json.loads(self.settings) if self.settings else None

    @cached_property
    def task(self) -> Task:
        """The dataset's task; UnknownName where its name is no known one and its data name no environment."""
        try:
            return task_of(self.env_name)
        except UnknownName as error:
            if is_reference(self.env_name):
                load_maker(self.env_name, self.env_name)  # which says what is not there
            raise UnknownName(
                f"{error}; data without an environment are trained with eval_episodes=0 (validation_fraction=0.1 scores"
                " them on held-out episodes)"
            ) from None

    @property
    def playable(self) -> bool:
        """Whether there is an environment to evaluate in; not for data of one's own that name none."""
        try:
            return task_of(self.env_name).playable
        except UnknownName:
            return is_reference(self.env_name)

    @property
    def has_success(self) -> bool:
        """Whether the task tells success."""
        return self.task.has_success

    def stored_reward(self, reward: float) -> float:
        """Return a reward of the environment as the source's stores have it."""
        return self.task.stored_reward(reward)

    def normalized_score(self, returns: np.ndarray) -> np.ndarray | None:
        """Return normalised scores x 100, if they are published for this task."""
        return self.task.normalized_score(returns, self._settings())
