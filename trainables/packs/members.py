"""Settings that members of one pack may each have a value of their own of, and a member's algorithm with its own.

Such a setting is marked PerMember: it changes how a member learns and nothing that members share, which are the
network's shape, what a batch holds, how often phases are taken, and how a policy acts.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from torch import nn

from understudy.algorithm import Algorithm, belongs
from understudy.errors import SpecError, did_you_mean
from understudy.spec.parts import Optimisation

Own = Mapping[str, Any]
"""A member's own values of settings that `AlgorithmConfig.may_differ` names."""


def check_own(settings: Own, algorithm: Algorithm) -> None:
    """Raise SpecError for a setting that members cannot differ in."""
    known = algorithm.Config.may_differ()
    for name in settings:
        if name not in known:
            raise SpecError(f"{name}: members of a pack cannot differ in it{did_you_mean(name, known)}")
    if settings.get("ema_rate", 0.0) is None:
        raise SpecError("ema_rate: either all members of a pack act with an average of their weights, or none")
    if "ema_rate" in settings and algorithm.average_rate is None:
        raise SpecError("ema_rate: there is no average of the weights; give ema_rate= for there to be one")


def with_own(algorithm: Algorithm, settings: Own) -> Algorithm:
    """Return a member's algorithm; SpecError for settings that a pack's members cannot have beside the others'."""
    if not settings:
        return algorithm
    check_own(settings, algorithm)
    other = algorithm.with_config(**settings)
    if other.config.sampling != algorithm.config.sampling:
        said = ", ".join(f"{name}={value}" for name, value in settings.items())
        raise SpecError(f"{said}: members of a pack learn from batches of one kind, and these need another")
    return other


class Settings:
    """What each member of a pack has of its own, and the algorithm that it learns by."""

    def __init__(self, algorithm: Algorithm, members: int, own: Sequence[Own] | None) -> None:
        self._algorithm = algorithm
        none: list[Own] = [{}] * members
        self.own: list[Own] = [dict(settings) for settings in own or none]
        self.learners = [with_own(algorithm, settings) for settings in self.own]

    def change(self, k: int, settings: Own) -> None:
        """Give member k values of its own; SpecError for one that it cannot have."""
        own = {**self.own[k], **settings}
        self.learners[k] = with_own(self._algorithm, own)
        self.own[k] = own

    @property
    def of_losses(self) -> list[Own]:
        """Each member's settings that change more than its optimiser's step."""
        return [{name: own[name] for name in own if name not in Optimisation.model_fields} for own in self.own]

    @property
    def losses_differ(self) -> bool:
        """Whether any member has such a setting."""
        return any(self.of_losses)

    @property
    def of_loss(self) -> list[Algorithm]:
        """Each member's algorithm for its loss: those that differ in the optimiser alone share one, compiled once."""
        pairs = zip(self.learners, self.of_losses, strict=True)
        return [learner if own else self._algorithm for learner, own in pairs]


def check_useful(settings: Collection[str], algorithm: Algorithm, network: nn.Module) -> None:
    """Raise SpecError for a setting that a population searches and no parameter of the network follows."""
    rates, names = algorithm.learning_rates, [name for name, _ in network.named_parameters()]
    if "lr" in settings and all(any(belongs(name, part) for part in rates) for name in names):
        raise SpecError(f"pbt: lr changes nothing: all parts have rates of their own ({', '.join(rates)})")
