"""What a sweep varies: dimensions of a search space, as plain validated data. Must not import optuna."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from understudy.errors import SpecError


class Choice(BaseModel):
    """One of several values, as `horizon_length=1,5,10`."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    kind: Literal["choice"] = "choice"
    values: tuple[Any, ...] = Field(min_length=1)

    def holds(self, value: Any) -> bool:
        """Return whether a value, as a run holds it, is one of these."""
        return value in self.values

    def __str__(self) -> str:
        return ", ".join(str(value) for value in self.values)


class Interval(BaseModel):
    """A number between two ends, as `lr=interval(1e-5,1e-3)`; whole numbers when both ends are."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    kind: Literal["interval"] = "interval"
    low: float
    high: float
    log: bool = False
    integer: bool = False

    @model_validator(mode="after")
    def _ordered(self) -> Interval:
        if not self.low < self.high:
            raise ValueError(f"interval({self.low:g},{self.high:g}): the first end must be below the second")
        if self.log and self.low <= 0:
            raise ValueError(f"interval({self.low:g},{self.high:g}): a logarithmic interval must be above 0")
        return self

    def holds(self, value: Any) -> bool:
        """Return whether a number lies in the interval."""
        return self.low <= value <= self.high

    def __str__(self) -> str:
        return f"{self.low:g} .. {self.high:g}{' (log)' if self.log else ''}"


Dimension = Annotated[Choice | Interval, Field(discriminator="kind")]


class SearchSpace(BaseModel):
    """A registered space: what is swept for an algorithm, and what is set while sweeping it."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    algo: str
    dimensions: dict[str, Dimension]
    fixed: dict[str, Any] = Field(default_factory=dict)


def is_ordered(dimension: Dimension) -> bool:
    """Return whether a dimension is a list of numbers in rising order: neighbours are alike, whatever they are."""
    if not isinstance(dimension, Choice):
        return False
    numbers = [value for value in dimension.values if isinstance(value, int | float) and not isinstance(value, bool)]
    return len(numbers) == len(dimension.values) > 1 and numbers == sorted(numbers)


def largest(dimension: Dimension) -> Any:
    """Return the largest value of a numeric dimension."""
    if isinstance(dimension, Choice):
        return max(dimension.values)
    return int(dimension.high) if dimension.integer else dimension.high


def size(dimensions: Iterable[Dimension]) -> float:
    """Return how many configurations the dimensions span (infinite with an interval of floats)."""
    total = 1.0
    for dimension in dimensions:
        if isinstance(dimension, Choice):
            total *= len(dimension.values)
        elif dimension.integer:
            total *= dimension.high - dimension.low + 1
        else:
            return float("inf")
    return total


def every_value(dimension: Dimension) -> list[Any]:
    """Return all values of a dimension that has finitely many; SpecError for an interval of numbers."""
    if isinstance(dimension, Choice):
        return list(dimension.values)
    if not dimension.integer:
        raise SpecError(f"{dimension} has no end of values: give a list of them")
    return list(range(int(dimension.low), int(dimension.high) + 1))


def checked(dimensions: Mapping[str, Dimension], validate: Callable[[str, Any], Any]) -> dict[str, Dimension]:
    """Return the dimensions with every value as the run would hold it; SpecError for a wrong or repeated one.

    `validate(key, value)` raises SpecError or returns what becomes of the value: 128 of 128.0, say. So values that are
    the same however they are written (1 and 1.0, [64,64] and [64,64.0]) are found out.
    """
    found: dict[str, Dimension] = {}
    for key, dimension in dimensions.items():
        if isinstance(dimension, Interval):
            for end in (dimension.low, dimension.high):
                validate(key, int(end) if dimension.integer else end)
            found[key] = dimension
            continue
        values = [validate(key, value) for value in dimension.values]
        if len({json.dumps(value, default=str) for value in values}) != len(values):
            raise SpecError(f"{key}={dimension}: a value is repeated")
        found[key] = Choice(values=tuple(values))
    return found
