"""Tasks that nothing simulates: their data are learned from, and policies are judged by held-out episodes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from understudy.envs.sources.task import Settings, Task
from understudy.errors import UserError

if TYPE_CHECKING:
    import gymnasium

LIMIT = 1000


@dataclass(frozen=True)
class UnplayedTask(Task):
    """A dataset without an environment; `WHY` says so, and what to give instead."""

    WHY: ClassVar[str]

    def make_env(self, *, render: bool = False, size: int = 256, settings: Settings | None = None) -> gymnasium.Env:
        """Raise UserError: there is none."""
        raise UserError(f"{self.env_name}: {self.WHY}")

    @property
    def playable(self) -> bool:
        """Whether there is an environment: no."""
        return False

    @property
    def max_episode_steps(self) -> int:
        """1000: the length of an episode is the data's own."""
        return LIMIT

    @property
    def has_success(self) -> bool:
        """Whether the task tells success: no."""
        return False
