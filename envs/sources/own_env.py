"""Environments of one's own, named `module:Class`: tasks without files, for `env_name=`, `--env` and `data generate`.

The class may have `max_episode_steps`, and `expert`, which is called without arguments and returns an Expert.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from understudy.envs.simulators.own import has_module, is_reference, load_maker, make_own, own_limit
from understudy.envs.simulators.own_expert import make_own_expert
from understudy.envs.simulators.registered import registered_spec
from understudy.envs.sources.source import Source
from understudy.envs.sources.task import Episode, Expert, Settings, Task
from understudy.errors import UserError
from understudy.registry import sources

if TYPE_CHECKING:
    import gymnasium


def environment_name(name: str, env: str) -> str:
    """Return what a store calls the environment that a user names, checked.

    It is a gymnasium id, `module:Class`, or the name of a published dataset of the environment.
    """
    if any(source.matches(env) for _, source in sources.items()):
        return env
    if is_reference(env):
        load_maker(name, env)
        return env
    registered_spec(name, env)
    return f"expert:{env}"


@dataclass(frozen=True)
class OwnTask(Task):
    """An environment that a class or function of the user's makes."""

    @property
    def env_id(self) -> str:
        """`module:Class`."""
        return self.env_name

    def make_env(self, *, render: bool = False, size: int = 256, settings: Settings | None = None) -> gymnasium.Env:
        """Return a new one, made without arguments."""
        return make_own(self.env_name, self.env_name, render=render)

    @property
    def max_episode_steps(self) -> int:
        """The class's `max_episode_steps`, else 1000."""
        return own_limit(self.env_name, self.env_name)

    @property
    def has_success(self) -> bool:
        """Whether the class says so: `has_success = True`; rollouts see `info["success"]` anyway."""
        return bool(getattr(load_maker(self.env_name, self.env_name), "has_success", False))

    def read(self, path: Path) -> Iterator[Episode]:
        """Raise UserError: there is no file format of an environment."""
        raise UserError(f"{self.env_name}: is an environment; data are imported as {_FORMATS} with --env")

    def import_commands(self) -> list[str]:
        """Return the command that imports data of it."""
        return [f"understudy data import hdf5 FILE --name my-data --env {self.env_name}"]

    def expert(self) -> Expert | None:
        """Return what the class's `expert()` returns, if it has one; UserError where it cannot be used."""
        return make_own_expert(self.env_name, load_maker(self.env_name, self.env_name))


_FORMATS = "arrays, hdf5, npz or zarr"


class OwnEnvironments(Source):
    """Classes of gymnasium environments by `module:Class`."""

    name = "own_env"
    title = "own environment's"
    example = "my_module:MyEnv"
    unit_actions = False

    def parse(self, env_name: str) -> Task | None:
        """Return None: other sources' names look alike, and go first."""
        return None

    def registered(self, env_name: str) -> OwnTask | None:
        """Return the task of a `module:Class` whose module is there."""
        return OwnTask(self, env_name) if is_reference(env_name) and has_module(env_name) else None

    def known_names(self) -> list[str]:
        """Return none: they are the user's."""
        return []


sources.register("own_env")(OwnEnvironments())
