"""TD3+BC: learning rate, and how much the critic counts beside the data's actions."""

from __future__ import annotations

from understudy.registry import search_spaces
from understudy.spec.space import Interval, SearchSpace

TD3_BC = search_spaces.register("td3_bc")(
    SearchSpace(
        algo="td3_bc",
        dimensions={
            "lr": Interval(low=1e-4, high=1e-3, log=True),
            "alpha": Interval(low=0.5, high=10.0, log=True),
        },
    )
)
