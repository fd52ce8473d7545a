"""VQ-BeT: learning rate, the window's and the chunks' length, codes."""

from __future__ import annotations

from understudy.registry import search_spaces
from understudy.spec.space import Choice, Interval, SearchSpace

VQ_BET = search_spaces.register("vq_bet")(
    SearchSpace(
        algo="vq_bet",
        dimensions={
            "lr": Interval(low=1e-5, high=1e-3, log=True),
            "obs_horizon": Choice(values=(5, 10)),
            "horizon_length": Choice(values=(1, 5, 10)),
            "codes": Choice(values=(8, 16, 32)),
        },
    )
)
