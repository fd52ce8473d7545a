"""Make the environment that a Minari file describes, without trusting the file.

Its `env_spec` names an import path and wrappers, which gymnasium would import and call. Of it only the id, plain
arguments and the time limit are taken: what runs is this machine's registration of that id, and a few wrappers of
gymnasium's by name.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import gymnasium
from gymnasium import spaces

from understudy.envs.simulators.registered import make_registered, registered_spec
from understudy.envs.sources.minari.observed import Observed
from understudy.envs.sources.source import task_of
from understudy.envs.sources.task import Settings
from understudy.errors import UnderstudyError, UserError

WRAPPERS = ("FlattenObservation", "FilterObservation", "RescaleAction", "ClipAction", "TimeAwareObservation")
LONGEST = 10_000
"""Limits above this are for collecting without end, as D4RL's mazes were: the registered limit is used."""


def recover(env_name: str, settings: Settings, *, render: bool = False, size: int = 256) -> gymnasium.Env:
    """Return the environment of `settings` (env_spec, eval_env_spec, observation_space, cameras).

    It shows what the data show. What the settings want that is not registered here or not plain data is a UserError.
    """
    said = settings.get("eval_env_spec") or settings.get("env_spec")
    if not said:
        raise UserError(f"{env_name}: its file names no environment (env_spec); train with eval_episodes=0")
    spec = parse_spec(env_name, said)
    env_id = spec["id"]
    limit = registered_spec(env_name, env_id).max_episode_steps
    wanted = spec.get("max_episode_steps")
    if isinstance(wanted, int) and 0 < wanted <= LONGEST:
        limit = wanted
    arguments = {**spec.get("kwargs", {}), **({"max_episode_steps": limit} if limit else {})}
    env = make_registered(env_name, env_id, render=render, size=size, arguments=arguments)
    for wrapper in spec.get("additional_wrappers") or []:
        env = _wrapped(env_name, env, wrapper)
    return _as_kept(env_name, env, settings)


def parse_spec(env_name: str, said: Any) -> dict[str, Any]:
    """Return the id, kwargs, max_episode_steps and additional_wrappers of an env_spec, checked to be plain data."""
    try:
        spec = json.loads(said) if isinstance(said, str) else dict(said)
        wrappers = [dict(item) for item in spec.get("additional_wrappers") or []]
        arguments = {key: value for key, value in dict(spec.get("kwargs") or {}).items() if key != "render_mode"}
        checked = {"id": str(spec["id"]), "kwargs": arguments, "additional_wrappers": wrappers}
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise UserError(f"{env_name}: its env_spec cannot be understood ({type(error).__name__}: {error})") from error
    if ":" in checked["id"]:
        raise UserError(f"{env_name}: its env_spec's id {checked['id']!r} wants a module imported, which is not done")
    for value in _texts(checked["kwargs"]):
        if any(sign in value for sign in "/\\:"):
            raise UserError(f"{env_name}: its env_spec has the argument {value!r}: paths and imports are not followed")
    return {**checked, "max_episode_steps": spec.get("max_episode_steps")}


def describe_registered(env_name: str, known: Settings | None) -> dict[str, Any]:
    """Return settings with the spaces of the name's environment in gymnasium's registry, {} where there is none."""
    from minari.serialization import serialize_space

    spec = parse_spec(env_name, known["env_spec"]) if known else {"id": _env_id(env_name), "kwargs": {}}
    try:
        local = registered_spec(env_name, spec["id"])
        if str(local.entry_point).partition(".")[0] not in ("gymnasium", "gymnasium_robotics"):
            return {}
        limit = {"max_episode_steps": spec["max_episode_steps"]} if spec.get("max_episode_steps") else {}
        env = make_registered(env_name, spec["id"], arguments={**spec["kwargs"], **limit})
    except UserError:
        return {}  # no such environment here: the spaces are then those of the arrays
    described = env.spec.to_json() if env.spec is not None else None
    text = json.loads(described) if described else None
    if text is not None:
        text["additional_wrappers"] = []
    made = {
        "observation_space": serialize_space(env.observation_space),
        "action_space": serialize_space(env.action_space),
    }
    env.close()
    return {**made, **({"env_spec": json.dumps(text)} if text else {})}


def _env_id(env_name: str) -> str:
    try:
        return task_of(env_name).env_id
    except UnderstudyError:
        return ""


def _texts(value: Any) -> list[str]:
    if isinstance(value, Mapping):
        return [text for item in value.items() for part in item for text in _texts(part)]
    if isinstance(value, (list, tuple)):
        return [text for item in value for text in _texts(item)]
    return [value] if isinstance(value, str) else []


def _wrapped(env_name: str, env: gymnasium.Env, wrapper: Mapping[str, Any]) -> gymnasium.Env:
    name, path = str(wrapper.get("name")), str(wrapper.get("entry_point"))
    if name not in WRAPPERS or not path.startswith("gymnasium.wrappers."):
        allowed = ", ".join(WRAPPERS)
        raise UserError(
            f"{env_name}: its env_spec wants the wrapper {path!r}; of gymnasium's these are used: {allowed}"
        )
    try:
        return getattr(gymnasium.wrappers, name)(env, **(wrapper.get("kwargs") or {}))
    except (TypeError, ValueError, AssertionError) as error:
        raise UserError(f"{env_name}: its env_spec's wrapper {name} does not fit ({error})") from error


def _as_kept(env_name: str, env: gymnasium.Env, settings: Settings) -> gymnasium.Env:
    """Show what the data show, after checking that the environment gives such observations."""
    space, text = env.observation_space, settings.get("observation_space")
    if text:
        from minari.serialization import deserialize_space

        space = deserialize_space(text)
        if not _fits(space, env.observation_space):
            raise UserError(f"{env_name}: observes {env.observation_space}, the data are of {space}".replace("\n", " "))
    return Observed.of(space, cameras=bool(settings.get("cameras"))).wrap(env)


def _fits(wanted: spaces.Space, given: spaces.Space) -> bool:
    """Return whether `given` holds all that `wanted` does: data may keep some keys of a dict only."""
    if isinstance(wanted, spaces.Dict):
        if not isinstance(given, spaces.Dict):
            return False
        return all(key in given.spaces and _fits(part, given.spaces[key]) for key, part in wanted.spaces.items())
    if isinstance(wanted, spaces.Tuple):
        if not isinstance(given, spaces.Tuple) or len(given.spaces) != len(wanted.spaces):
            return False
        return all(_fits(part, other) for part, other in zip(wanted.spaces, given.spaces, strict=True))
    return type(wanted) is type(given) and wanted.shape == given.shape
