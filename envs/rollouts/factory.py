"""Make one dataset's environment, and say what a policy is shown of it."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from understudy.envs.rollouts.acting import View
from understudy.envs.sources.source import Settings, Source, source_for

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

    def __call__(self, *, render: bool = False) -> gymnasium.Env:
        """Return a new environment; DatasetError when a policy cannot act in its spaces."""
        from understudy.envs.rollouts.checks import check_spaces

        env = self.source.make_env(self.env_name, render=render, size=self.size, settings=self._settings())
        check_spaces(env, self.env_name)
        return env

    def _settings(self) -> Settings | None:
        return json.loads(self.settings) if self.settings else None

    @property
    def source(self) -> Source:
        """The dataset's source."""
        return source_for(self.env_name)

    @property
    def has_success(self) -> bool:
        """Whether the task tells success."""
        return self.source.has_success(self.env_name)

    def stored_reward(self, reward: float) -> float:
        """Return a reward of the environment as the source's stores have it."""
        return self.source.stored_reward(self.env_name, reward)

    def normalized_score(self, returns: np.ndarray) -> np.ndarray | None:
        """Return normalised scores x 100, if they are published for this task."""
        return self.source.normalized_score(self.env_name, returns, self._settings())
