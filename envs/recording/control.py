"""What drives an environment in a policy's place: a person at a device, or an oracle.

A control is one file in `controls/` with `@controls.register("name")` on a subclass. Shape suffix: A action dims.
"""

from __future__ import annotations

import abc
import enum
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from understudy.envs.sources.task import Expert
from understudy.errors import UserError


class Event(enum.Enum):
    """What is said of an episode while it goes on."""

    SUCCESS = "success"
    FAILURE = "failure"
    AGAIN = "again"
    """Throw it away, and record it anew."""
    STOP = "stop"
    """End the recording; the open episode is thrown away."""


@dataclass(frozen=True)
class Said:
    """What a control says at one step."""

    action: np.ndarray | None = None
    """[A]; None leaves the step to the policy."""
    event: Event | None = None


@dataclass(frozen=True)
class Driven:
    """What is driven: the bounds of its actions, what they are, how many a second, and who else may act."""

    env_name: str
    low: np.ndarray
    """[A] float32."""
    high: np.ndarray
    names: tuple[str, ...] = ()
    """What each number of an action is, where the environment says."""
    fps: float = 10.0
    alone: bool = True
    """Whether nobody else acts; else a policy does, until the control takes over."""
    expert: Expert | None = None
    """The environment's own oracle, where it has one."""

    @classmethod
    def of(cls, env_name: str, env: Any, **facts: Any) -> Driven:
        """Return what there is to drive in an environment; UserError for actions without bounds."""
        space = env.action_space
        low, high = (np.asarray(bound, np.float32).ravel() for bound in (space.low, space.high))
        if not np.isfinite([low, high]).all():
            raise UserError(f"{env_name}: its actions have no bounds ({space}), so a device cannot span them")
        return cls(env_name, low, high, **facts)

    @property
    def neutral(self) -> np.ndarray:
        """The action [A] that moves least: zeros, as far as the bounds allow."""
        return np.clip(np.zeros_like(self.low), self.low, self.high)

    def action(self, shares: Sequence[float] | np.ndarray) -> np.ndarray:
        """Return the action [A] for each number's share in [-1, 1] of the way from neutral to its bound."""
        wanted, rest = np.clip(np.asarray(shares, np.float32), -1.0, 1.0), self.neutral
        return np.where(wanted > 0, rest + wanted * (self.high - rest), rest + wanted * (rest - self.low))


class Control(abc.ABC):
    """A device or an oracle. Registering gives it its `name`."""

    name: ClassVar[str]
    by_hand: ClassVar[bool] = True
    """Whether a person sits at it, for whom the environment keeps the time of a clock."""

    def __init__(self, driven: Driven) -> None:
        self.driven = driven

    def __enter__(self) -> Control:
        """Open the device; UserError where there is none."""
        return self

    def __exit__(self, *raised: object) -> None:  # noqa: B027  (an oracle has nothing to close)
        """Close the device."""

    def help(self) -> str:
        """Return how it is used, for people."""
        return ""

    def begin(  # noqa: B027  (a gamepad need not know)
        self, env: Any, observation: Any, info: dict[str, Any], rng: np.random.Generator
    ) -> None:
        """Take note that an episode begins; `rng` is what is random in it."""

    @abc.abstractmethod
    def read(self, env: Any, observation: Any, info: dict[str, Any]) -> Said:
        """Return what it says now, at once."""
