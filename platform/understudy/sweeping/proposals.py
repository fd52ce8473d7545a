"""How configurations are proposed: Optuna's samplers, seeded by the trial's number, and none proposed twice."""

from __future__ import annotations

import itertools
import json
import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.samplers import BaseSampler, GridSampler, QMCSampler, RandomSampler, TPESampler
from optuna.trial import FrozenTrial

from understudy.randomness import stream_key
from understudy.spec.space import Choice, Dimension, every_value
from understudy.sweeping.spec import SweepSpec

PROPOSALS, RANDOM = 20, 200
"""How often the sampler is asked for a configuration that was not tried, then chance; then all are gone through."""


def distribution(dimension: Dimension) -> BaseDistribution:
    """Return Optuna's form of a dimension."""
    if isinstance(dimension, Choice):
        return CategoricalDistribution(dimension.values)
    if dimension.integer:
        return IntDistribution(int(dimension.low), int(dimension.high), log=dimension.log)
    return FloatDistribution(dimension.low, dimension.high, log=dimension.log)


def sampler_for(spec: SweepSpec, number: int) -> BaseSampler:
    """Return the sampler for one proposal, seeded by its number, so that a resumed sweep proposes the same."""
    options = spec.options
    if options.sampler == "grid":  # it proposes nothing twice by itself
        return GridSampler({key: every_value(item) for key, item in spec.dimensions.items()}, seed=options.sweep_seed)
    return NothingTwice(spec, number)


class NothingTwice(BaseSampler):
    """Propose what the spec's sampler does, again until it is a configuration that no trial has.

    A sampler of few choices proposes the best of them over and over, and a trial that is trained again with the same
    seeds gives the same result.
    """

    def __init__(self, spec: SweepSpec, number: int) -> None:
        self._spec, self._number = spec, number
        self._space = {key: distribution(item) for key, item in spec.dimensions.items()}

    def infer_relative_search_space(self, study: optuna.Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """Return all dimensions: they are proposed together."""
        return {key: item for key, item in self._space.items() if not item.single()}

    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """Return a configuration that no other trial has, the sampler's first such one."""
        tried = {
            _text(other.params, search_space)
            for other in study.get_trials(deepcopy=False)
            if other.number != trial.number
        }
        proposals = self._proposals(study, trial, search_space)
        return next((item for item in proposals if _text(item, search_space) not in tried), {})

    def sample_independent(
        self, study: optuna.Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        """Return one parameter by chance: when every configuration has been tried."""
        return RandomSampler(self._seed(0)).sample_independent(study, trial, param_name, param_distribution)

    def _proposals(
        self, study: optuna.Study, trial: FrozenTrial, space: Mapping[str, BaseDistribution]
    ) -> Iterator[dict[str, Any]]:
        for attempt in range(PROPOSALS + RANDOM):
            sampler = self._sampler(attempt)
            sampler.before_trial(study, trial)
            found = sampler.sample_relative(study, trial, sampler.infer_relative_search_space(study, trial))
            for key, item in space.items():
                if key not in found:
                    found[key] = sampler.sample_independent(study, trial, key, item)
            yield {key: found[key] for key in space}
        lists = [every_value(item) for key, item in self._spec.dimensions.items() if key in space]
        for values in itertools.product(*lists):
            yield dict(zip(space, values, strict=True))

    def _sampler(self, attempt: int) -> BaseSampler:
        options, seed = self._spec.options, self._seed(attempt)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            if options.sampler == "random" or attempt >= PROPOSALS:
                return RandomSampler(seed=seed)
            if options.sampler == "qmc":
                return QMCSampler(seed=options.sweep_seed)
            startup = max(4, options.num_trials // 4)
            return TPESampler(seed=seed, multivariate=True, constant_liar=True, n_startup_trials=startup)

    def _seed(self, attempt: int) -> int:
        again = (attempt,) if attempt else ()
        return stream_key(self._spec.options.sweep_seed, "propose", self._number, *again) % 2**32

    def after_trial(
        self, study: optuna.Study, trial: FrozenTrial, state: optuna.trial.TrialState, values: Sequence[float] | None
    ) -> None:
        """Nothing: a sampler is made for one proposal."""


def _text(parameters: Mapping[str, Any], space: Mapping[str, BaseDistribution]) -> str:
    """Return a configuration as a text that equal ones share; what is no longer searched is left out."""
    return json.dumps([parameters.get(key) for key in space], default=str)
