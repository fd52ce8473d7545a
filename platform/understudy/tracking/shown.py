"""Which columns of a run's csv files become metrics in MLflow: few, that people look at. The files have all of them.

MLflow's pages draw a chart for each metric and compare runs by them: of every seed's curves its loss and its scores
are sent, and in a population its settings; of a grid of evaluation-time settings the score at each, of an interval its
ends.
"""

from __future__ import annotations

import re

SCORES = ("success", "normalized_return", "return")
_OF_A_SEED = re.compile(r"^sd\d+/")
_UNSEEN = ("_seeds", "_episodes", "_iqm", "mean_std", "max_std")
"""Endings of columns that are counts, or constants of most policies."""
_HELD_OUT = ("loss", "mse", "accuracy", "log_probs")


def is_shown(key: str) -> bool:
    """Return whether a metric, like `sd001/eval/success` or `eval/flow_steps_10/success_low`, is sent."""
    name = _OF_A_SEED.sub("", key)
    kind, _, column = name.partition("/")
    if column.endswith(_UNSEEN):
        return False
    if kind == "eval" and "/" in column and not column.startswith(("best/", "validation/")):
        return column.rpartition("/")[2] in SCORES
    if name == key or kind == "pbt":
        return True
    if kind == "train":
        return column.endswith("loss")
    return column in SCORES or (column.startswith("validation/") and column.endswith(_HELD_OUT))
