"""Q-chunking by flow_bc: learning rate, weight of the distillation, horizon, how the critics' values are joined."""

from __future__ import annotations

from understudy.registry import search_spaces
from understudy.spec.space import Choice, Interval, SearchSpace

Q_CHUNKING = search_spaces.register("q_chunking")(
    SearchSpace(
        algo="flow_bc",
        dimensions={
            "lr": Interval(low=1e-4, high=1e-3, log=True),
            "alpha": Interval(low=10.0, high=1000.0, log=True),
            "horizon_length": Choice(values=(1, 5, 10)),
            "q_agg": Choice(values=("mean", "min")),
        },
        fixed={"use_critic": True, "action_chunking": True, "actor": "one_step"},
    )
)
