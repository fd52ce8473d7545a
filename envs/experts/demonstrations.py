"""What demonstrations are asked for, checked before anything is played."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from understudy.envs.experts.attempts import AttemptSpec
from understudy.envs.simulators.own import is_reference
from understudy.envs.sources.names import POLICY, SCRIPTED, made_name
from understudy.envs.sources.task import Task
from understudy.errors import UserError, did_you_mean
from understudy.registry import sources

SCRIPTED_NOISE = 0.2
Keep = Literal["successful", "all"]


@dataclass(frozen=True)
class Demonstrations:
    """So many episodes of a task by a scripted expert or a trained policy."""

    env_name: str
    """Name of a dataset of the task; what is made gets its name with the type scripted or policy."""
    episodes: int
    policy: str = SCRIPTED
    """`scripted`, or what `load_policy` takes."""
    member: int = 0
    """Which of the policy's seeds acts."""
    seed: int = 0
    noise: float | None = None
    """Standard deviation of what is added to the executed action; default 0.2 scripted, 0 for a policy."""
    keep: str | None = None
    """Which attempts become episodes, successful or all; default the successful ones, where the task tells success."""
    rendering: Mapping[str, str] = field(default_factory=dict)
    """Options of the pictures (`Task.rendering`), which become the dataset's; a policy's are those of its dataset."""
    tracking_uri: str | None = None
    """Store that the policy's models:/ address is in."""

    @property
    def made_name(self) -> str:
        """The name of the dataset that is made."""
        return made_name(self.env_name, SCRIPTED if self.policy == SCRIPTED else POLICY)

    def kept(self, task: Task) -> Keep:
        """Return which attempts at the task become episodes; UserError where that cannot be told."""
        if self.keep is None:
            return "successful" if task.has_success else "all"
        if self.keep not in ("successful", "all"):
            raise UserError(f"keep={self.keep!r}: allowed are successful and all")
        if self.keep == "successful" and not task.has_success:
            raise UserError(f"{task.env_name}: its environment tells no success; use --keep all")
        return self.keep

    def attempt(self, task: Task) -> AttemptSpec:
        """Return what each attempt at the task depends on; UserError for what cannot be made."""
        scripted = self.policy == SCRIPTED
        noise = (SCRIPTED_NOISE if scripted else 0.0) if self.noise is None else self.noise
        for name, value, least in (("episodes", self.episodes, 1), ("noise", noise, 0)):
            if value < least:
                raise UserError(f"{name}={value}: must be at least {least}")
        if scripted and task.expert() is None:
            if is_reference(task.env_name):
                raise UserError(
                    f"no scripted expert for {task.env_name!r}: give its class an `expert` (a class with reset and act;"
                    " docs/data.md has one), or --policy a model"
                )
            known = did_you_mean(task.env_name, supported_names(), limit=6)
            raise UserError(f"no scripted expert for {task.env_name!r}: give --policy a model{known}")
        settings = task.rendering(self.rendering)
        if self.rendering and not scripted:
            raise UserError("a policy sees pictures like those that it was trained on: leave the rendering options out")
        text = json.dumps(settings, sort_keys=True) if settings and scripted else ""  # a policy brings its own
        return AttemptSpec(task.env_name, self.policy, text, self.seed, noise)


def supported_names() -> list[str]:
    """Return the dataset names that a scripted expert can make."""
    known = [name for _, source in sources.items() for name in source.known_names()]
    return [name for name in known if SCRIPTED in re.split(r"[-/]", name)]
