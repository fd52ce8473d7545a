"""Settings that members of one pack may each have their own value of, and which of them a network has a use for."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from torch import nn

from understudy.algorithm import Algorithm, belongs
from understudy.errors import SpecError, did_you_mean
from understudy.spec.population import OWN

Own = Mapping[str, float]
"""A member's own values of settings that OWN names."""


def check_own(settings: Own, algorithm: Algorithm) -> None:
    """Raise SpecError for a setting that members cannot differ in."""
    for name in settings:
        if name not in OWN:
            raise SpecError(f"{name}: members of a pack cannot differ in it{did_you_mean(name, OWN)}")
    if "ema_rate" in settings and algorithm.average_rate is None:
        raise SpecError("ema_rate: there is no average of the weights; give ema_rate= for there to be one")


def check_useful(settings: Collection[str], algorithm: Algorithm, network: nn.Module) -> None:
    """Raise SpecError for a setting that a population searches and no parameter of the network follows."""
    rates, names = algorithm.learning_rates, [name for name, _ in network.named_parameters()]
    if "lr" in settings and all(any(belongs(name, part) for part in rates) for name in names):
        raise SpecError(f"pbt: lr changes nothing: all parts have rates of their own ({', '.join(rates)})")
