"""When a sweep starts no more trials: its time, seed runs or trials without progress are spent. Running ones go on."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from typing import Any

from optuna.trial import TrialState

from understudy.sweeping.racing import first_seeds
from understudy.sweeping.study import Study

logger = logging.getLogger("understudy")


class Budget:
    """What the options allow, counted from the study, so that a resumed sweep has what is left of it."""

    def __init__(self, study: Study, state: Mapping[str, Any]) -> None:
        self._study, self._before = study, float(state.get("driven_seconds", 0.0))
        self._began, self._said = time.monotonic(), False

    def spent(self) -> bool:
        """Return whether no trial may be begun any more, saying why once."""
        reason = self._reason()
        if reason and not self._said:
            self._said = True
            logger.info("%s: no further trial is begun", reason)
        return bool(reason)

    def _reason(self) -> str:
        options = self._study.spec.options
        hours = (self._before + time.monotonic() - self._began) / 3600
        if options.max_hours is not None and hours >= options.max_hours:
            return f"max_hours={options.max_hours:g} are over"
        if options.max_seed_runs is not None:
            each = len(first_seeds(self._study.spec))
            if (len(self._study.trials()) + 1) * each > options.max_seed_runs:
                return f"max_seed_runs={options.max_seed_runs} are begun"
        if options.patience is not None and no_better(self._study) >= options.patience:
            return f"the last {options.patience} trials were no better (patience)"
        return ""


def no_better(study: Study) -> int:
    """Return how many trials ended since the one that is the best so far."""
    goal = study.spec.goal
    done = [trial for trial in study.trials() if trial.state in (TrialState.COMPLETE, TrialState.PRUNED)]
    done.sort(key=lambda trial: (trial.datetime_complete, trial.number))
    best, since = None, 0
    for trial in done:
        metrics = trial.user_attrs.get("metrics")
        key = goal.key(metrics) if metrics else None
        if key is not None and (best is None or key > best):
            best, since = key, 0
        else:
            since += 1
    return since
