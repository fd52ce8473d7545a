"""Inverse policy mirror descent: learning rates of the policy and of the reward, the reward's penalty."""

from __future__ import annotations

from understudy.registry import search_spaces
from understudy.spec.space import Interval, SearchSpace

IPMD = search_spaces.register("ipmd")(
    SearchSpace(
        algo="ipmd",
        dimensions={
            "lr": Interval(low=1e-4, high=3e-3, log=True),
            "reward_lr": Interval(low=1e-5, high=1e-3, log=True),
            "reward_output_penalty": Interval(low=1e-2, high=1.0, log=True),
        },
    )
)
