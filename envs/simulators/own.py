"""Make environments of one's own by `module:Class`, or `module:function` that returns one.

The module is imported from Python's path, or from the folder that the command is given in. A name may come out of a
file too: only subclasses of gymnasium's Env and functions that the module itself defines are called, and with no
argument but `render_mode`.
"""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import os
import re
import sys
from collections.abc import Callable
from typing import Any

import gymnasium

from understudy.envs.simulators.registered import ToldSuccess
from understudy.errors import UnderstudyError, UserError, did_you_mean

REFERENCE = re.compile(r"(?P<module>[A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*):(?P<attribute>[A-Za-z_]\w*)")
LIMIT = 1000
"""Steps of an episode where the class has no `max_episode_steps`."""


def is_reference(text: str) -> bool:
    """Return whether a text has the form `module:Class`."""
    return REFERENCE.fullmatch(text) is not None


def has_module(reference: str) -> bool:
    """Return whether there is a module of the name that a `module:Class` begins with; nothing is imported."""
    module = reference.partition(":")[0].partition(".")[0]
    _look_here(module)
    try:
        return module in sys.modules or importlib.util.find_spec(module) is not None
    except (ImportError, ValueError):
        return False


def load_maker(env_name: str, reference: str) -> Callable[..., Any]:
    """Return the class or function that `module:Class` names; UserError for one that is not there or makes none."""
    module_name, _, attribute = reference.partition(":")
    _look_here(module_name.partition(".")[0])
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if not f"{module_name}.".startswith(f"{error.name}."):
            raise UserError(f"{env_name}: {module_name} cannot be imported here ({error})") from error
        raise UserError(
            f"{env_name}: there is no module {module_name!r} here: give the command in its folder, or set PYTHONPATH"
        ) from error
    except Exception as error:  # whatever the user's module raises
        raise UserError(f"{env_name}: {module_name} cannot be imported ({type(error).__name__}: {error})") from error
    made = getattr(module, attribute, None)
    if isinstance(made, type) and issubclass(made, gymnasium.Env):
        return made
    if inspect.isfunction(made) and made.__module__ == module.__name__:
        return made
    fit = [name for name, item in vars(module).items() if isinstance(item, type) and issubclass(item, gymnasium.Env)]
    what = "is no gymnasium.Env, nor a function of it" if made is not None else "is not there"
    raise UserError(f"{env_name}: {attribute!r} of {module_name} {what}{did_you_mean(attribute, fit)}")


def make_own(env_name: str, reference: str, *, render: bool = False) -> gymnasium.Env:
    """Return the environment; `render` makes it with `render_mode="rgb_array"` where it takes one."""
    maker = load_maker(env_name, reference)
    chosen = {"render_mode": "rgb_array"} if render and _takes_render_mode(maker) else {}
    try:
        env = maker(**chosen)
    except UnderstudyError:
        raise
    except Exception as error:  # whatever an environment's constructor raises
        said = (str(error).splitlines() or [type(error).__name__])[0]
        raise UserError(f"{env_name}: {reference} cannot be made here ({said})") from error
    if not isinstance(env, gymnasium.Env):
        raise UserError(f"{env_name}: {reference} returned a {type(env).__name__}; a gymnasium.Env is needed")
    limit = getattr(maker, "max_episode_steps", None)
    if isinstance(limit, int) and limit > 0:
        from gymnasium.wrappers import TimeLimit

        env = TimeLimit(env, limit)
    return ToldSuccess(env)


def own_limit(env_name: str, reference: str) -> int:
    """Return the steps of an episode: the class's `max_episode_steps`, else LIMIT."""
    limit = getattr(load_maker(env_name, reference), "max_episode_steps", None)
    return limit if isinstance(limit, int) and limit > 0 else LIMIT


def _takes_render_mode(maker: Callable[..., Any]) -> bool:
    taken = inspect.signature(maker).parameters.values()
    return any(item.name == "render_mode" or item.kind is item.VAR_KEYWORD for item in taken)


def _look_here(module: str) -> None:
    """Have Python look for a module in the command's folder too, where it is nowhere else."""
    here = os.getcwd()
    if module in sys.modules or here in sys.path:
        return
    try:
        found = importlib.util.find_spec(module) is not None
    except (ImportError, ValueError):
        found = False
    if not found and (os.path.isfile(f"{here}/{module}.py") or os.path.isdir(f"{here}/{module}")):
        sys.path.append(here)
