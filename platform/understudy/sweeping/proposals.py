"""How configurations are proposed: Optuna's samplers, seeded by the trial's number, and none proposed twice."""

from __future__ import annotations

import itertools
import json
import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.samplers import (
    BaseSampler,
    CmaEsSampler,
    GPSampler,
    GridSampler,
    NSGAIISampler,
    QMCSampler,
    RandomSampler,
    TPESampler,
)
from optuna.search_space import IntersectionSearchSpace
from optuna.trial import FrozenTrial

from understudy.randomness import stream_key
from understudy.spec.space import Choice, Dimension, every_value, is_ordered
from understudy.sweeping.sweep_spec import SweepSpec

PROPOSALS, RANDOM = 20, 200
"""How often the sampler, and then chance, is asked for an untried configuration; after that all are gone through."""


def distribution(dimension: Dimension, ordered: bool = False) -> BaseDistribution:
    """Return Optuna's form of a dimension; a list of numbers is the place in it where lists are `ordered`."""
    if isinstance(dimension, Choice) and ordered and is_ordered(dimension):
        return IntDistribution(0, len(dimension.values) - 1)
    if isinstance(dimension, Choice):
        return CategoricalDistribution(dimension.values)
    if dimension.integer:
        return IntDistribution(int(dimension.low), int(dimension.high), log=dimension.log)
    return FloatDistribution(dimension.low, dimension.high, log=dimension.log)


class Coding:
    """How a study holds the parameters of a sweep: a list of rising numbers by places, all else as it is."""

    def __init__(self, spec: SweepSpec) -> None:
        self._dimensions = spec.dimensions
        items = spec.dimensions.items()
        self.space = {key: distribution(item, spec.ordered) for key, item in items}
        self._values = {
            key: list(item.values)
            for key, item in items
            if isinstance(item, Choice) and isinstance(self.space[key], IntDistribution)
        }

    def read(self, parameters: Mapping[str, Any]) -> dict[str, Any]:
        """Return a study's parameters as a run takes them."""
        return {key: self._values[key][value] if key in self._values else value for key, value in parameters.items()}

    def write(self, parameters: Mapping[str, Any]) -> dict[str, Any]:
        """Return a run's parameters as a study holds them."""
        return {
            key: self._values[key].index(value) if key in self._values else value for key, value in parameters.items()
        }

    def holds(self, parameters: Mapping[str, Any]) -> bool:
        """Return whether a run's parameters lie in the space."""
        return all(item.holds(parameters[key]) for key, item in self._dimensions.items())

    def every(self, key: str, dimension: Dimension) -> list[Any]:
        """Return all values of a dimension as a study holds them."""
        return list(range(len(self._values[key]))) if key in self._values else every_value(dimension)


class Known:
    """What is kept of a study from one proposal to the next: computed anew, at 1,000 trials, it would take longest."""

    def __init__(self) -> None:
        self.common = IntersectionSearchSpace(include_pruned=True)
        """The dimensions that all trials have, as TPE computes them."""
        self._numbers: list[tuple[dict[str, BaseDistribution], dict[int, list[float]]]] = []
        self._texts: set[str] = set()
        self._without: set[int] = set()
        self._seen = 0

    def numbers(self, space: dict[str, BaseDistribution]) -> dict[int, list[float]]:
        """Return what is kept for a space: finished trials' parameters as TPE's numbers, by the trial's number."""
        for known, numbers in self._numbers:
            if known == space:
                return numbers
        self._numbers.append((dict(space), {}))
        return self._numbers[-1][1]

    def tried(self, study: optuna.Study, but: int, space: Mapping[str, BaseDistribution]) -> set[str]:
        """Return the configurations of all trials `but` one, as `_text` has them; `space` is the same each time.

        `but` is being proposed and has none yet; what a trial has never changes again.
        """
        trials = study.get_trials(deepcopy=False)
        self._without.update(range(self._seen, len(trials)))
        self._seen = len(trials)
        for number in self._without - {but}:
            if trials[number].params.keys() >= space.keys():
                self._texts.add(_text(trials[number].params, space))
                self._without.remove(number)
        return self._texts


def sampler_for(spec: SweepSpec, number: int, known: Known) -> BaseSampler:
    """Return the sampler for one proposal, seeded by its number, so that a resumed sweep proposes the same."""
    options = spec.options
    if options.sampler == "grid":  # it proposes nothing twice by itself
        coding = Coding(spec)
        return GridSampler(
            {key: coding.every(key, item) for key, item in spec.dimensions.items()}, seed=options.sweep_seed
        )
    return NothingTwice(spec, number, known)


class NothingTwice(BaseSampler):
    """Propose what the spec's sampler does, again until it is a configuration that no trial has.

    A sampler of few choices proposes the best of them over and over, and a trial that is trained again with the same
    seeds gives the same result.
    """

    def __init__(self, spec: SweepSpec, number: int, known: Known) -> None:
        self._spec, self._number, self._known = spec, number, known
        self._coding = Coding(spec)
        self._space = self._coding.space

    def infer_relative_search_space(self, study: optuna.Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """Return all dimensions: they are proposed together."""
        return {key: item for key, item in self._space.items() if not item.single()}

    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """Return a configuration that no other trial has, the sampler's first such one."""
        tried = self._known.tried(study, trial.number, search_space)
        proposals = self._proposals(study, trial, search_space)
        nothing: dict[str, Any] = {}
        return next((item for item in proposals if _text(item, search_space) not in tried), nothing)

    def sample_independent(
        self, study: optuna.Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        """Return one parameter at random, once every configuration has been tried."""
        return RandomSampler(self._seed(0)).sample_independent(study, trial, param_name, param_distribution)

    def _proposals(
        self, study: optuna.Study, trial: FrozenTrial, space: Mapping[str, BaseDistribution]
    ) -> Iterator[dict[str, Any]]:
        for attempt in range(PROPOSALS + RANDOM):
            sampler = self._sampler(attempt)
            sampler.before_trial(study, trial)
            found = sampler.sample_relative(study, trial, self._searched(sampler, study, trial))
            for key, item in space.items():
                if key not in found:
                    found[key] = sampler.sample_independent(study, trial, key, item)
            yield {key: found[key] for key in space}
        lists = [self._coding.every(key, item) for key, item in self._spec.dimensions.items() if key in space]
        for values in itertools.product(*lists):
            yield dict(zip(space, values, strict=True))

    def _searched(self, sampler: BaseSampler, study: optuna.Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """Return the dimensions that a sampler proposes together."""
        if isinstance(sampler, TPESampler):
            common = self._known.common.calculate(study)
            return {name: item for name, item in common.items() if not item.single()}
        return sampler.infer_relative_search_space(study, trial)

    def _sampler(self, attempt: int) -> BaseSampler:
        options, seed = self._spec.options, self._seed(attempt)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            kind = self._spec.sampler if attempt < PROPOSALS else "random"
            startup = self._spec.startup or max(4, options.num_trials // 4)
            by_chance = self._number < startup
            if kind == "random" or (by_chance and kind in ("tpe", "gp", "cmaes")):
                return RandomSampler(seed=seed)
            if kind == "qmc":  # without scrambling it would take no seed
                return QMCSampler(seed=options.sweep_seed, scramble=True)
            if kind == "gp":
                return GPSampler(seed=seed, n_startup_trials=0, independent_sampler=RandomSampler(seed=seed))
            if kind == "cmaes":
                return CmaEsSampler(seed=seed, n_startup_trials=startup, warn_independent_sampling=False)
            if kind == "nsga2":
                return NSGAIISampler(seed=seed, population_size=max(4, startup))
            return KeptNumbers(self._known, seed=seed, multivariate=True, constant_liar=True, n_startup_trials=0)

    def _seed(self, attempt: int) -> int:
        again = (attempt,) if attempt else ()
        return stream_key(self._spec.options.sweep_seed, "propose", self._number, *again) % 2**32

    def after_trial(
        self, study: optuna.Study, trial: FrozenTrial, state: optuna.trial.TrialState, values: Sequence[float] | None
    ) -> None:
        """Do nothing: a sampler is made for one proposal."""


class KeptNumbers(TPESampler):
    """TPE whose finished trials' parameters are turned into numbers once, not all of them for each proposal."""

    def __init__(self, known: Known, **settings: Any) -> None:
        super().__init__(**settings)
        self._known = known

    def _get_internal_repr(
        self, trials: list[FrozenTrial], search_space: dict[str, BaseDistribution], *more: Any, **named: Any
    ) -> dict[str, np.ndarray]:
        """Return what Optuna's own does: for each dimension the numbers of the trials that have all dimensions."""
        kept, rows = self._known.numbers(search_space), list[list[float]]()
        for trial in trials:
            row = kept.get(trial.number)
            if row is None:
                found = super()._get_internal_repr([trial], search_space, *more, **named)
                row = [value for values in found.values() for value in values.tolist()]
                if trial.state.is_finished():
                    kept[trial.number] = row
            if row:
                rows.append(row)
        return {key: np.asarray([row[place] for row in rows]) for place, key in enumerate(search_space)}


def _text(parameters: Mapping[str, Any], space: Mapping[str, BaseDistribution]) -> str:
    """Return a configuration as a text that equal ones share; what is no longer searched is left out."""
    return json.dumps([parameters.get(key) for key in space], default=str)
