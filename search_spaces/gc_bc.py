"""Goal-conditioned behaviour cloning: learning rate, weight decay, which later states are goals, chunk length."""

from __future__ import annotations

from understudy.registry import search_spaces
from understudy.spec.space import Choice, Interval, SearchSpace

GC_BC = search_spaces.register("gc_bc")(
    SearchSpace(
        algo="gc_bc",
        dimensions={
            "lr": Interval(low=1e-5, high=1e-3, log=True),
            "weight_decay": Interval(low=1e-6, high=1e-2, log=True),
            "goal_relabelling": Choice(values=("uniform", "geometric", "final")),
            "horizon_length": Choice(values=(1, 5, 10)),
        },
        fixed={"action_chunking": True},
    )
)
