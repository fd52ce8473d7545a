"""Flow transformer: learning rate, chunk length, where samples lie; Euler steps without training of their own."""

from __future__ import annotations

from understudy.registry import search_spaces
from understudy.spec.space import Choice, Interval, SearchSpace

FLOW_TRANSFORMER = search_spaces.register("flow_transformer")(
    SearchSpace(
        algo="flow_transformer",
        dimensions={
            "lr": Interval(low=1e-5, high=1e-3, log=True),
            "horizon_length": Choice(values=(8, 16, 32)),
            "time_sampling": Choice(values=("uniform", "logit_normal", "beta")),
            "flow_steps": Choice(values=(5, 10, 20)),
        },
    )
)
