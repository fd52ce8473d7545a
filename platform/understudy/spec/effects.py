"""Given keys that change nothing beside the others: they are refused or noted, and never ignored in silence.

What a key needs stands at its field (`Needs`, `OnlyWith`, `GivesWayTo`, `ActsOnly`). Only what was given is looked at:
flags.json holds every key, and an old run must load. A key with its default value, or with one that switches
something off, asks for nothing and passes.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

from pydantic.fields import FieldInfo

from understudy.errors import SpecError
from understudy.registry import algorithms
from understudy.spec.keys import build_run, run_fields
from understudy.spec.part import ActsOnly, GivesWayTo, Needs, OnlyWith, Part, mark, marks
from understudy.spec.parts import Interaction
from understudy.spec.run import PARTS, RunSpec
from understudy.spec.words import canonical


@dataclass(frozen=True)
class Fact:
    """A fact about a run, which conditions refer to by a word of its own."""

    text: str
    """What a message says is lacking."""
    holds: Callable[[RunSpec], bool] | None = None
    """Whether it holds, by the spec; None when only the run's data can tell: until they are opened it is assumed."""


FACTS = {
    "acts": Fact("a method that acts in an environment", lambda spec: algorithms.get(spec.algo).acts),
    "dataset": Fact(
        "a dataset to learn from: a method of fixed data, or offline_ratio",
        lambda spec: (
            not isinstance(spec.config, Interaction)
            or spec.config.offline_ratio > 0
            or spec.config.sampling.demonstrations > 0
        ),
    ),
    "policy_data": Fact(
        "a dataset that the policy learns of: a method of fixed data, or offline_ratio",
        lambda spec: not isinstance(spec.config, Interaction) or spec.config.offline_ratio > 0,
    ),
    "fixed_data": Fact(
        "a method that learns from a dataset alone", lambda spec: not isinstance(spec.config, Interaction)
    ),
    "online": Fact("a method that acts while it learns", lambda spec: spec.config.acts_online),
    "judges": Fact("a method that only judges", lambda spec: not algorithms.get(spec.algo).acts),
    "held_out": Fact("validation_fraction", lambda spec: spec.data.holds_out),
    "rewards": Fact(
        "a method that learns from rewards, such as actor=best_of_n",
        lambda spec: bool(spec.config.sampling.columns or spec.config.sampling.transitions),
    ),
    "noise": Fact("a policy that draws noise", lambda spec: spec.config.acts_at_random),
    "states": Fact("states in what the policy sees"),
    "pictures_here": Fact("pictures in the dataset"),
    "several_cameras": Fact("several cameras in what the policy sees"),
    "goals": Fact("goals (goal_relabelling=, or a task or method that has them)"),
}


def check_effects(spec: RunSpec, given: Collection[str], searched: Collection[str] = ()) -> list[str]:
    """Return a note for each given key that changes nothing; SpecError for one that is refused.

    `searched` are keys that take several values in the runs which the spec is one of: they lack nothing.
    """
    return _Effects.of(spec, _of_spec(spec), searched=searched).notes(given)


def check_searched(spec: RunSpec, searched: Collection[str]) -> None:
    """Raise SpecError for a key that is tried at several values, and changes nothing at any of them."""
    effects = _Effects.of(spec, _of_spec(spec), searched=searched)
    for key in searched:
        reason = next((reason for reason, _ in effects.reasons(key)), None) or effects.idle_in_acting(key)
        if reason:
            raise SpecError(f"{key} changes nothing {reason}: do not sweep it")


def check_with_data(spec: RunSpec, facts: Mapping[str, bool]) -> list[str]:
    """Check every key that differs from its default as check_effects does, by what only the run's data tell."""
    return _Effects.of(spec, facts, of_data=True).notes(run_fields(spec.algo))


def check_acting(spec: RunSpec, given: Collection[str]) -> None:
    """Raise SpecError for a given evaluation-time key that changes nothing in how the spec's policy acts."""
    effects = _Effects.of(spec, {})
    for key in (canonical(key, effects.fields) for key in given):
        reason = effects.idle_in_acting(key)
        if reason:
            raise SpecError(f"{key}={_shown(effects.values[key])} changes nothing {reason}")


def _of_spec(spec: RunSpec) -> dict[str, bool]:
    return {name: fact.holds(spec) for name, fact in FACTS.items() if fact.holds is not None}


@dataclass(frozen=True)
class _Effects:
    """A run's values, and what its keys need to change something."""

    values: Mapping[str, Any]
    """The value of every key, also of those that flags.json leaves out."""
    defaults: Mapping[str, Any]
    fields: Mapping[str, FieldInfo]
    lacking: Mapping[str, str]
    facts: Mapping[str, bool]
    searched: Collection[str]
    of_data: bool
    """Whether only the facts count that the data tell."""

    @classmethod
    def of(
        cls, spec: RunSpec, facts: Mapping[str, bool], searched: Collection[str] = (), of_data: bool = False
    ) -> _Effects:
        """Return the effects of a run's keys."""
        values, defaults = _values(spec), _values(build_run({"algo": spec.algo}))
        lacking = {key: text for part in _parts_of(spec) for key, text in part.lacking.items()}
        return cls(values, defaults, run_fields(spec.algo), lacking, facts, searched, of_data)

    def notes(self, given: Collection[str]) -> list[str]:
        """Return a line for each key that changes nothing and is only noted; SpecError for one that is refused."""
        notes: list[str] = []
        for key in dict.fromkeys(canonical(key, self.fields) for key in given):
            value, default = self.values.get(key), self.defaults.get(key)
            if key not in self.fields or value == default or _off(value, default):
                continue
            for reason, note in self.reasons(key):
                line = f"{key}={_shown(value)} changes nothing {reason}"
                if not note:
                    raise SpecError(line)
                notes.append(line)
                break
        return notes

    def reasons(self, key: str) -> Iterator[tuple[str, bool]]:
        """Yield why a key changes nothing, and whether that is only noted."""
        for needs in marks(self.fields[key], Needs):
            told_by_data = any(condition in FACTS and FACTS[condition].holds is None for condition in needs.conditions)
            if told_by_data == self.of_data and not any(map(self.holds, needs.conditions)):
                text = needs.says or " or ".join(map(_text, needs.conditions))
                yield f"without {text}{f' ({needs.hint})' if needs.hint else ''}", needs.note
        only, other = mark(self.fields[key], OnlyWith), mark(self.fields[key], GivesWayTo)
        if self.of_data:
            return
        if key in self.lacking:
            yield f"without {self.lacking[key]}", False
        if only is not None and only.field != key and not self.holds(_condition(only)):
            yield f"without {_text(_condition(only))}", False
        searching = cast("Mapping[str, Any]", self.values.get("pbt") or {})
        if key in searching and key != "ema_rate":  # whose value has there be an average at all
            yield "beside pbt, which draws it for each seed: give one of the two", False
        if other is not None and self.values[other.field] is not None:
            yield f"beside {other.field}={_shown(self.values[other.field])}: give one of the two", False

    def idle_in_acting(self, key: str) -> str:
        """Return why an evaluation-time key changes nothing in how the policy acts, '' where it does."""
        acting = mark(self.fields[key], ActsOnly) if key in self.fields else None
        idle = acting is not None and acting.needs and not self.holds(acting.needs)
        return f"in acting without {_text(acting.needs)}" if acting is not None and idle else ""

    def holds(self, condition: str) -> bool:
        """Return whether a condition holds, or may hold as far as is known."""
        if condition in FACTS:
            return self.facts.get(condition, True)
        key, sign, wanted = _parts(condition)
        value = self.values.get(key)
        if key in self.searched:
            return True
        if not sign:
            return value not in (None, 0, "", "none", ())
        if sign == "=":
            return _shown(value) in wanted.split("|")
        if value is None:
            return False
        return value >= float(wanted) if sign == ">=" else value < float(wanted)


def _condition(only: OnlyWith) -> str:
    return only.field if only.value is None else f"{only.field}={_shown(only.value)}"


def _values(spec: RunSpec) -> dict[str, Any]:
    own = {key: value for key, value in spec.held().items() if key not in PARTS}
    return own | {key: value for part in _parts_of(spec) for key, value in part.held().items()}


def _parts_of(spec: RunSpec) -> list[Part]:
    return [getattr(spec, name) for name in PARTS if name != "former"]


def _off(value: Any, default: Any) -> bool:
    """Return whether a value switches off what is off by default, or asks for none of it."""
    return value in (None, 0, "", "none") and default is not True


def _text(condition: str) -> str:
    if condition in FACTS:
        return FACTS[condition].text
    key, sign, wanted = _parts(condition)
    words = {"": key, "=": f"{key}={wanted.replace('|', ' or ')}", ">=": f"{key} of at least {wanted}"}
    return words.get(sign, f"{key} below {wanted}")


def _parts(condition: str) -> tuple[str, str, str]:
    found = re.fullmatch(r"(\w+)(?:(>=|<|=)(.+))?", condition)
    assert found is not None, condition
    return found[1], found[2] or "", found[3] or ""


def _shown(value: Any) -> str:
    """Return a value as a user writes it."""
    if isinstance(value, bool) or value is None:
        return str(value).lower()
    if isinstance(value, tuple | list):
        return f"[{','.join(map(_shown, cast('Sequence[Any]', value)))}]"
    return str(value)
