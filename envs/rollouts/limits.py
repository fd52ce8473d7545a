"""The number of steps after which an environment ends an episode, whatever the policy does."""

from __future__ import annotations

from typing import Any

from understudy.errors import UserError


def episode_limit(env: Any) -> int | None:
    """Return the least limit of steps that an environment or a wrapper around it sets; None where none sets one.

    That is gymnasium's TimeLimit, which registered limits become, or a `max_episode_steps` of the class itself.
    """
    from gymnasium.wrappers import TimeLimit

    limits: list[int] = []
    while env is not None:
        own = env._max_episode_steps if isinstance(env, TimeLimit) else getattr(env, "max_episode_steps", None)
        if isinstance(own, int):
            limits.append(own)
        env = vars(env).get("env")
    return min((limit for limit in limits if limit > 0), default=None)


def limited(env: Any, steps: int) -> Any:
    """Return the environment with episodes that end after `steps` at the latest; 0 leaves it as it is."""
    from gymnasium.wrappers import TimeLimit

    return TimeLimit(env, steps) if steps else env


def check_limit(env_name: str, limit: int | None) -> None:
    """Raise UserError where an episode might never end."""
    if limit is None:
        raise UserError(
            f"{env_name}: its environment sets no limit to the steps of an episode, which might never end: give"
            " eval_max_steps=1000, say, or its class a line `max_episode_steps = 1000`, or register it with one"
        )
