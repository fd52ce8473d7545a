"""The reward classifier: learning rate, weight decay, dropout; ranked by held-out episodes."""

from __future__ import annotations

from understudy.registry import search_spaces
from understudy.spec.space import Choice, Interval, SearchSpace

REWARD_CLASSIFIER = search_spaces.register("reward_classifier")(
    SearchSpace(
        algo="reward_classifier",
        dimensions={
            "lr": Interval(low=3e-5, high=1e-3, log=True),
            "weight_decay": Interval(low=1e-6, high=1e-2, log=True),
            "dropout": Choice(values=(0.0, 0.1, 0.3)),
        },
        fixed={"validation_fraction": 0.2},
    )
)
