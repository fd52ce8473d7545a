"""BC-Transformer: learning rate, the window's length, dropout."""

from __future__ import annotations

from understudy.registry import search_spaces
from understudy.spec.space import Choice, Interval, SearchSpace

BC_TRANSFORMER = search_spaces.register("bc_transformer")(
    SearchSpace(
        algo="bc_transformer",
        dimensions={
            "lr": Interval(low=1e-5, high=1e-3, log=True),
            "obs_horizon": Choice(values=(5, 10, 20)),
            "dropout": Choice(values=(0.0, 0.1, 0.3)),
        },
    )
)
