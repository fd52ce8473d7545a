"""HIL-SERL: learning rate, updates a step, share of demonstrations and corrections."""

from __future__ import annotations

from understudy.registry import search_spaces
from understudy.spec.space import Choice, Interval, SearchSpace

HILSERL = search_spaces.register("hilserl")(
    SearchSpace(
        algo="hilserl",
        dimensions={
            "lr": Interval(low=1e-4, high=3e-3, log=True),
            "utd_ratio": Choice(values=(1, 2, 4)),
            "offline_ratio": Interval(low=0.25, high=0.75),
        },
    )
)
