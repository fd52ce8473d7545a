"""The sweep's memory: an Optuna study in a database. What it holds survives the driver, so a sweep goes on from it.

A trial's number names its folder. Proposals are a pure function of (sweep seed, number, finished trials), and an
interrupted trial keeps its number and its parameters.
"""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import FrozenTrial, TrialState

from understudy.randomness import stream_key
from understudy.space import Choice, Dimension
from understudy.sweeping.spec import SweepSpec

optuna.logging.set_verbosity(optuna.logging.WARNING)
STUDY = "sweep"


def distribution(dimension: Dimension) -> BaseDistribution:
    """Return Optuna's form of a dimension."""
    if isinstance(dimension, Choice):
        return CategoricalDistribution(dimension.values)
    if dimension.integer:
        return IntDistribution(int(dimension.low), int(dimension.high), log=dimension.log)
    return FloatDistribution(dimension.low, dimension.high, log=dimension.log)


class Study:
    """One sweep's trials: ask, report, finish; open it again and it is where it was."""

    def __init__(self, folder: Path, spec: SweepSpec) -> None:
        self.spec = spec
        self._distributions = {key: distribution(item) for key, item in spec.dimensions.items()}
        self._study = optuna.create_study(
            storage=f"sqlite:///{(folder / 'study.db').absolute()}",
            study_name=STUDY,
            direction="maximize",
            load_if_exists=True,
            pruner=optuna.pruners.NopPruner(),
        )

    def trials(self, *states: TrialState) -> list[FrozenTrial]:
        """Return the trials in the given states, all when none is given, by number."""
        return self._study.get_trials(deepcopy=False, states=states or None)

    def ask(self) -> tuple[int, dict[str, Any]]:
        """Propose one more configuration: (trial number, parameters)."""
        number = len(self.trials())
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            self._study.sampler = self._sampler(number)
        trial = self._study.ask(self._distributions)
        # It has no say when trials end: Optuna's grid sampler would stop an optimize() that we never run.
        self._study.sampler = optuna.samplers.RandomSampler()
        return trial.number, dict(trial.params)

    def enqueue(self, parameters: dict[str, Any], **attributes: Any) -> None:
        """Have these parameters proposed next, as a new trial with `attributes`."""
        self._study.enqueue_trial(parameters, user_attrs=attributes)

    def _sampler(self, number: int) -> optuna.samplers.BaseSampler:
        """Return the sampler for one proposal, seeded by its number, so that a resumed sweep proposes the same."""
        options = self.spec.options
        seed = stream_key(options.sweep_seed, "propose", number) % 2**32
        if options.sampler == "random":
            return optuna.samplers.RandomSampler(seed=seed)
        if options.sampler == "qmc":
            return optuna.samplers.QMCSampler(seed=options.sweep_seed)
        if options.sampler == "grid":
            grid = {key: list(item.values) for key, item in self.spec.dimensions.items() if isinstance(item, Choice)}
            return optuna.samplers.GridSampler(grid, seed=options.sweep_seed)
        startup = max(4, options.num_trials // 4)
        return optuna.samplers.TPESampler(seed=seed, multivariate=True, constant_liar=True, n_startup_trials=startup)

    def report(self, number: int, step: int, value: float) -> None:
        """Keep an intermediate value; what is there already stays, and an ended trial takes no more."""
        held = self._study.trials[number]
        if not held.state.is_finished() and step not in held.intermediate_values:
            optuna.Trial(self._study, held._trial_id).report(value, step)

    def finish(self, number: int, state: TrialState, value: float | None, **attributes: Any) -> None:
        """Close a trial once; `attributes` (JSON-able) are kept with it."""
        trial = self._study.trials[number]
        if trial.state.is_finished():
            return
        for key, item in attributes.items():
            self._study._storage.set_trial_user_attr(trial._trial_id, key, item)
        self._study.tell(number, value if state == TrialState.COMPLETE else None, state=state)
