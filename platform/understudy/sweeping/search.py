"""Ray Tune's view of the study: a searcher that hands out trials, a scheduler that stops the poor ones.

Both take their memory from the study, never from Tune's own snapshots (which lose results after a kill -9): an
interrupted trial is handed out again first, and ASHA's rungs are filled with what all trials reported.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Protocol, cast

import numpy as np
from optuna.trial import TrialState
from ray.tune import Callback
from ray.tune.experiment import Trial
from ray.tune.schedulers import AsyncHyperBandScheduler, TrialScheduler
from ray.tune.schedulers.async_hyperband import _Bracket  # pyright: ignore[reportPrivateUsage]  (no public one)
from ray.tune.search import Searcher

from understudy.runs.directory import RunDir
from understudy.sweeping.budget import Budget
from understudy.sweeping.outcomes import outcome_of
from understudy.sweeping.study import Study
from understudy.sweeping.together import forget, prune, pruned
from understudy.sweeping.trial import trial_folder

OBJECTIVE = "objective"
TOGETHER = "together"
"""Where a proposal of several trials at once has them all."""
ENOUGH = 4
"""Values at a rung before a trial is stopped there."""
logger = logging.getLogger("understudy")


class StudySearch(Searcher):
    """Propose configurations from the study and write every result back into it at once."""

    def __init__(self, study: Study, folder: Path, together: int = 1) -> None:
        """Propose `together` configurations at once, which one process trains as one pack."""
        super().__init__(metric=OBJECTIVE, mode="max")
        self._study, self._folder, self._together = study, folder, together
        self._waiting = [(trial.number, dict(trial.params)) for trial in study.trials(TrialState.RUNNING)]
        self._numbers: dict[str, list[int]] = {}
        self._budget = Budget(study, RunDir(folder).state())

    def suggest(self, trial_id: str) -> Any:
        """Return the next trial's configuration, or Searcher.FINISHED (a text, which Ray's own type leaves out)."""
        proposals: list[dict[str, Any]] = []
        while len(proposals) < self._together and (proposal := self._next()) is not None:
            proposals.append(proposal)
        if not proposals:
            return Searcher.FINISHED
        self._numbers[trial_id] = [proposal["number"] for proposal in proposals]
        return proposals[0] if len(proposals) == 1 else {**proposals[0], TOGETHER: proposals}

    def _next(self) -> dict[str, Any] | None:
        """Return one more proposal, if there is one."""
        if self._waiting:
            number, parameters = self._waiting.pop(0)
            forget(self._folder, number)
        elif not self._budget.spent() and self._study.left():
            number, parameters = self._study.ask()
        else:
            return None
        return {"number": number, "parameters": parameters}

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        if math.isnan(result.get(OBJECTIVE, math.nan)):
            return
        number, step = int(result.get("number", self._numbers[trial_id][0])), int(result["step"])
        self._study.report(number, step, float(result[OBJECTIVE]))
        if pruned(self._folder, number):  # the scheduler's word on one of several
            self._study.finish(number, TrialState.PRUNED, None, step=step)

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Close the trial, or the several of a pack, with what the run directories say: there it was made durable."""
        numbers = self._numbers[trial_id]
        for number in numbers:
            self._close(trial_id, number, (result or {}) if len(numbers) == 1 else {}, error)

    def _close(self, trial_id: str, number: int, result: dict[str, Any], error: bool) -> None:
        state = RunDir(trial_folder(self._folder, number)).state()
        spec = self._study.spec
        outcome = outcome_of(self._folder, spec, number, self._study.parameters(number))
        if outcome is not None:
            self._study.finish(
                number,
                TrialState.COMPLETE,
                spec.goal.scores(outcome.metrics),
                metrics=outcome.metrics,
                best_parameters=outcome.chosen,
            )
        elif error:
            message = state.get("error") or "its process died"
            self._study.finish(number, TrialState.FAIL, None, error=message, crashed=True)
        elif state.get("status") == "failed":
            self._study.finish(number, TrialState.PRUNED, None, error=state.get("error"), crashed=False, diverged=True)
        else:
            # Tune shows a searcher the result that a trial was stopped by only here.
            self.on_trial_result(trial_id, result)
            self._study.finish(number, TrialState.PRUNED, None, step=int(result.get("step", 0)))

    def save(self, checkpoint_path: str) -> None:
        """Do nothing: the study is in its database."""

    def restore(self, checkpoint_path: str) -> None:
        """Do nothing: the study is in its database."""


class Packs(Searcher):
    """Hand out packs of seeds to train, each once: what they come to is in their run directories."""

    def __init__(self, packs: Sequence[Mapping[str, Any]]) -> None:
        super().__init__(metric=OBJECTIVE, mode="max")
        self._waiting = [dict(pack) for pack in packs]

    def suggest(self, trial_id: str) -> Any:
        """Return the next pack, or Searcher.FINISHED."""
        return self._waiting.pop(0) if self._waiting else Searcher.FINISHED

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Do nothing: the run directory has it."""

    def save(self, checkpoint_path: str) -> None:
        """Do nothing: a pack that is not done is handed out again."""

    def restore(self, checkpoint_path: str) -> None:
        """Do nothing."""


class _Configured(Protocol):
    """What is read of Tune's trials, whose attributes have types in part only."""

    @property
    def config(self) -> Mapping[str, Any]:
        """What `suggest` gave."""
        ...


class SayCrashes(Callback):
    """Log in one line what Tune logs as a traceback: that a trial's process died, and what becomes of the trial."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        logging.getLogger("ray.tune.execution.tune_controller").setLevel(logging.CRITICAL)

    def on_trial_recover(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        self._say(trial, "it is started again and goes on from its checkpoint")

    def on_trial_error(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        self._say(trial, "it counts as failed")

    def _say(self, trial: _Configured, then: str) -> None:
        for proposal in trial.config.get(TOGETHER, [trial.config]):
            folder = trial_folder(self._folder, proposal["number"])
            folder = folder.with_name(proposal.get("name", folder.name))
            reason = RunDir(folder).state().get("error") or "its process or its node died"
            logger.warning("trial %s: %s; %s", folder.name, reason, then)


def keyed(number: int) -> Trial:
    """Return what a bracket knows of a trial: its key, ours instead of Tune's, which a restart would change."""
    return cast(Trial, SimpleNamespace(trial_id=number))


class Rungs(_Bracket):
    """ASHA's rungs where noise stops nobody: a trial is stopped clearly below the cut-off, and not by the first few.

    An evaluation of some seeds and episodes is noisy, and Ray's rule compares with whatever came before: in simulated
    sweeps (20 trials, 3 seeds x 10 episodes) it stops the truly best configuration in a third of them.
    """

    def __init__(self, slack: float, *rungs: Any, **settings: Any) -> None:
        super().__init__(*rungs, **settings)
        self.slack, self.rate = slack, True
        """`slack` is in units of a rate, else a share of the spread of the values at the rung."""

    def cutoff(self, recorded: Mapping[Any, float]) -> float | None:
        """Return what a trial must reach to go on, None before enough values are there to compare with."""
        if len(recorded) < ENOUGH:
            return None
        values = list(recorded.values())
        unit = 1.0 if self.rate else max(values) - min(values)
        return float(np.nanpercentile(values, (1 - 1 / self.rf) * 100)) - self.slack * unit


class StudyAsha(AsyncHyperBandScheduler):
    """ASHA (Li et al. 2018, arXiv 1810.05934) keyed by the study's trial numbers, its rungs filled from the study.

    A trial at its last step is never stopped: it still has to close its run.
    """

    _trial_info: dict[str, Any]

    def __init__(
        self, study: Study, folder: Path, max_t: int, grace_steps: int, reduction_factor: int, slack: float
    ) -> None:
        super().__init__(
            time_attr="step",
            metric=OBJECTIVE,
            mode="max",
            max_t=max_t,
            grace_period=min(grace_steps, max_t),
            reduction_factor=reduction_factor,
            stop_last_trials=False,
        )
        self._folder, grace = folder, min(grace_steps, max_t)
        self._rungs = Rungs(slack, grace, max_t, reduction_factor, 0, stop_last_trials=False)
        self._brackets = [self._rungs]
        # What a trial that is not done reported is there since ASHA let it go on: that is not decided anew.
        for trial in study.trials(TrialState.COMPLETE, TrialState.PRUNED, TrialState.RUNNING):
            for step, score in study.rungs(trial):
                self._rungs.on_result(keyed(trial.number), step, score)

    def set_search_properties(self, metric: str | None, mode: str | None, **spec: Any) -> bool:
        return True  # both are fixed above

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        if "step" not in result or OBJECTIVE not in result or result["step"] >= self._max_t:
            return TrialScheduler.CONTINUE
        value = result[OBJECTIVE]
        if math.isnan(value):
            return TrialScheduler.CONTINUE
        self._rungs.rate = bool(result.get("rate", True))
        number = int(result.get("number", trial.config["number"]))
        decision = self._rungs.on_result(keyed(number), result["step"], value)
        if decision == TrialScheduler.STOP and TOGETHER in trial.config:
            prune(self._folder, number)  # it leaves the others, which go on
            return TrialScheduler.CONTINUE
        return decision

    def on_trial_complete(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> None:
        self._trial_info.pop(trial.trial_id, None)

    def on_trial_remove(self, tune_controller: Any, trial: Any) -> None:
        self._trial_info.pop(trial.trial_id, None)
