"""Make environments of gymnasium's registry by id, gymnasium-robotics' among them.

Only ids that are registered on this machine are made. An id like `module:Name-v0`, which gymnasium would import the
module for, is no registered one: ids come out of files too.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import warnings
from collections.abc import Mapping
from typing import Any

import gymnasium
from gymnasium.envs.registration import EnvSpec

from understudy.envs.simulators.video import choose_renderer
from understudy.errors import UserError, did_you_mean, to_install


class ToldSuccess(gymnasium.Wrapper):
    """Add `success` to the infos of tasks that call it `is_success`, as gymnasium-robotics' Fetch and hand tasks do."""

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        """Step; nothing else changes."""
        answer: Any = self.env.step(action)  # of a user's environment anything, which rollouts then check
        info = answer[-1] if isinstance(answer, tuple) and answer else None
        if isinstance(info, dict) and "is_success" in info:
            info.setdefault("success", bool(info["is_success"]))
        return answer


def registered_spec(env_name: str, env_id: str) -> EnvSpec:
    """Return this machine's registration of `env_id`; raises UserError where there is none."""
    choose_renderer()
    if env_id not in gymnasium.registry and importlib.util.find_spec("gymnasium_robotics") is not None:
        with open(os.devnull, "w") as nowhere, contextlib.redirect_stderr(nowhere):  # it prints about its versions
            import gymnasium_robotics

        gymnasium.register_envs(gymnasium_robotics)
    if env_id not in gymnasium.registry:
        hint = did_you_mean(env_id, gymnasium.registry, limit=3)
        more = f"; for gymnasium-robotics' {to_install('envs')}"
        raise UserError(f"{env_name}: no environment {env_id!r} is registered here{hint}{more}")
    return gymnasium.registry[env_id]


def make_registered(
    env_name: str, env_id: str, *, render: bool = False, size: int = 256, arguments: Mapping[str, Any] | None = None
) -> gymnasium.Env:
    """Return the environment; `arguments` go over the registered ones.

    `render` makes `env.render()` give RGB frames, of `size` pixels where the environment can be told a size.
    Whatever keeps it from being made is a UserError.
    """
    spec = registered_spec(env_name, env_id)
    chosen = dict(arguments or {})
    robotics = str(spec.entry_point).startswith("gymnasium_robotics")
    if render:
        if "classic_control" in str(spec.entry_point) and importlib.util.find_spec("pygame") is None:
            raise UserError(
                f"{env_name}: pictures of {env_id} need 'pygame'; run `pip install pygame`, or make no video"
            )
        sized = robotics or "mujoco" in str(spec.entry_point)
        chosen |= {"render_mode": "rgb_array", **({"width": size, "height": size} if sized else {})}
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*is out of date.*")
            env = gymnasium.make(env_id, disable_env_checker=True, **chosen)
    except Exception as error:  # whatever an environment's constructor raises
        said = (str(error).splitlines() or [type(error).__name__])[0]
        raise UserError(f"{env_name}: {env_id} cannot be made here ({said})") from error
    return ToldSuccess(env) if robotics else env
