"""Flow matching: learning rate, integration steps, chunk length. flow_steps needs no training of its own."""

from __future__ import annotations

from understudy.registry import search_spaces
from understudy.spec.space import Choice, Interval, SearchSpace

FLOW_BC = search_spaces.register("flow_bc")(
    SearchSpace(
        algo="flow_bc",
        dimensions={
            "lr": Interval(low=1e-5, high=1e-3, log=True),
            "flow_steps": Choice(values=(5, 10, 20)),
            "horizon_length": Choice(values=(1, 5, 10)),
        },
        fixed={"action_chunking": True},
    )
)
