"""Implicit Q-learning: learning rate, expectile, how much advantages count."""

from __future__ import annotations

from understudy.registry import search_spaces
from understudy.spec.space import Choice, Interval, SearchSpace

IQL = search_spaces.register("iql")(
    SearchSpace(
        algo="iql",
        dimensions={
            "lr": Interval(low=1e-4, high=1e-3, log=True),
            "expectile": Choice(values=(0.7, 0.8, 0.9)),
            "beta": Interval(low=0.5, high=10.0, log=True),
        },
    )
)
