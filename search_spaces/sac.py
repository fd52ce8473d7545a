"""Soft actor-critic: learning rate, target rate, updates a step."""

from __future__ import annotations

from understudy.registry import search_spaces
from understudy.spec.space import Choice, Interval, SearchSpace

SAC = search_spaces.register("sac")(
    SearchSpace(
        algo="sac",
        dimensions={
            "lr": Interval(low=1e-4, high=3e-3, log=True),
            "tau": Interval(low=2e-3, high=5e-2, log=True),
            "utd_ratio": Choice(values=(1, 2, 4)),
        },
    )
)
