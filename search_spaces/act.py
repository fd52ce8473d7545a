"""ACT: learning rate, weight of the divergence; how much of a chunk is executed needs no training of its own."""

from __future__ import annotations

from understudy.registry import search_spaces
from understudy.spec.space import Choice, Interval, SearchSpace

ACT = search_spaces.register("act")(
    SearchSpace(
        algo="act",
        dimensions={
            "lr": Interval(low=1e-5, high=1e-4, log=True),
            "kl_weight": Choice(values=(1.0, 10.0, 100.0)),
            "n_action_steps": Choice(values=(5, 10, 20)),
        },
        fixed={"action_chunking": True, "horizon_length": 20},
    )
)
