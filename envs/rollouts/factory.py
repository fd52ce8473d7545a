"""Make one dataset's environment as the policy sees it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

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
    obs_horizon: int = 1
    """Observations that the policy sees at once."""
    with_goal: bool = False
    """Whether the policy sees the episode's goal after them."""
    cameras: tuple[str, ...] | None = None
    """The cameras that the policy sees; None for all there are."""
    use_proprio: bool = True
    """Whether it sees the state beside pictures."""

    def __call__(self, *, render: bool = False) -> gymnasium.Env:
        """Return a new environment that gives what the policy sees."""
        from gymnasium import spaces

        from understudy.envs.rollouts.wrappers import Chosen, History, WithGoal

        env = self.source.make_env(self.env_name, render=render, size=self.size, settings=self._settings())
        if isinstance(env.observation_space, spaces.Dict):
            env = Chosen(env, self.cameras, self.use_proprio, self.with_goal)
        if self.obs_horizon > 1:
            env = History(env, self.obs_horizon)
        return WithGoal(env) if self.with_goal else env

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

    def normalized_score(self, returns: np.ndarray) -> np.ndarray | None:
        """Return normalised scores x 100, if they are published for this task."""
        return self.source.normalized_score(self.env_name, returns, self._settings())
