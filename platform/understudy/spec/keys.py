"""The flat keys of a run: their names, other tools' names for them, and how values are checked."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any, get_args, get_origin

from pydantic import ValidationError
from pydantic.fields import FieldInfo

from understudy.errors import SpecError, did_you_mean
from understudy.registry import algorithms, augmentations
from understudy.spec.augmentation import AugmentationConfig, operations
from understudy.spec.part import Part, Redefines, Secret, mark
from understudy.spec.run import PARTS, RunSpec
from understudy.spec.words import canonical, unknown_key

MOST_SEEDS = 4096
_SPAN = re.compile(r"\[?(\d+)\.\.(\d+)\]?")


def shared_groups() -> dict[str, dict[str, FieldInfo]]:
    """Return the keys that a run of any algorithm takes, with their fields, by the title of their part."""
    own = {name: field for name, field in RunSpec.model_fields.items() if name not in PARTS}
    shared = [kind for name, kind in PARTS.items() if name not in ("config", "former")]
    return {RunSpec.title: own, **{kind.title: kind.flat_fields() for kind in shared}}


def key_groups(algo: str) -> dict[str, dict[str, FieldInfo]]:
    """Return the keys that `understudy train algo=<algo>` takes in the same way; raises UnknownName."""
    own, parts = algorithms.get(algo).Config.groups()
    anew = redefined(algorithms.get(algo).Config)
    shared = {
        title: {key: field for key, field in fields.items() if key not in anew}
        for title, fields in shared_groups().items()
    }
    groups = {**shared, f"algo={algo} ({', '.join(algorithms.names())})": own, **parts}
    held: dict[str, str] = {}
    for title, fields in groups.items():
        for key in fields:
            if held.setdefault(key, title) != title:
                owners = " and ".join(_owner(key, name, algo) for name in (held[key], title))
                raise SpecError(f"two have the key {key!r}, {owners}: one of them needs another name")
    return groups


def redefined(config: type[Part]) -> set[str]:
    """Return the keys of a run's other parts that an algorithm's settings define anew."""
    return {name for name, field in config.model_fields.items() if mark(field, Redefines)}


def _owner(key: str, title: str, algo: str) -> str:
    """Return who has a key among those of this title, for messages."""
    for kind in operations() if title == AugmentationConfig.title else ():
        if key in kind.model_fields:
            return f"augmentation operation {kind.name!r} ({augmentations.origin(kind.name)})"
    return f"algorithm {algo!r} ({algorithms.origin(algo)})" if title not in shared_groups() else title


def shared_fields() -> dict[str, FieldInfo]:
    """Return every key that a run of any algorithm takes, with its field."""
    return {name: field for fields in shared_groups().values() for name, field in fields.items()}


def run_fields(algo: str) -> dict[str, FieldInfo]:
    """Return every key that a run of this algorithm takes, with its field; raises UnknownName."""
    return {name: field for fields in key_groups(algo).values() for name, field in fields.items()}


def keys_that_train(algo: str) -> set[str]:
    """Return the keys that change how a run of this algorithm on its data is trained: those that can be swept."""
    kinds = [kind for kind in (*PARTS.values(), algorithms.get(algo).Config) if kind.role == "what"]
    return {key for kind in kinds for key in kind.flat_fields()}


def algo_of(values: Mapping[str, Any]) -> str:
    """Return the algorithm that flat keys name, the default one where they name none."""
    return str(values.get("algo", RunSpec.model_fields["algo"].default))


def resolve_key(key: str, allowed: Iterable[str]) -> str:
    """Return the canonical name of a key, or raise SpecError with the algorithms that have it and the nearest match."""
    names = set(allowed)
    name = canonical(key, names)
    if name not in names:
        raise unknown_key(key, names, f"unknown key {key!r}{_of_others(key)}")
    return name


def _of_others(key: str) -> str:
    """Return which algorithms have a key, for messages about one that has not."""
    owners: list[str] = []
    for algo in algorithms.names():
        fields = algorithms.get(algo).Config.flat_fields()
        if canonical(key, fields) in fields:
            owners.append(algo)
    *rest, last = owners or [""]
    return f" (algo={', '.join(rest)} and {last} have it)" if rest else f" (algo={last} has it)" if last else ""


def check_keys(keys: Iterable[str], algo: str) -> None:
    """Raise SpecError for a key that a run of this algorithm does not take.

    `build_run` does not ask: it also reads what earlier versions wrote.
    """
    allowed = run_fields(algo).keys()
    for key in keys:
        resolve_key(key, allowed)


def build_run(values: Mapping[str, Any]) -> RunSpec:
    """Build a RunSpec from flat keys, given or recorded; raises SpecError (or UnknownName) with one clear line."""
    algo = algo_of(values)
    config = algorithms.get(algo).Config
    allowed = run_fields(algo).keys() | config.former.model_fields.keys()
    fields = run_fields(algo)
    flat = {resolve_key(key, allowed): value for key, value in values.items()}
    flat = {key: _listed(key, value, fields) for key, value in flat.items()}
    built: dict[str, Any] = {}
    wrong: list[str] = []
    anew = redefined(config)
    for name, kind in {**PARTS, "config": config, "former": config.former}.items():
        try:
            mine = kind.flat_fields().keys() & (flat.keys() if name == "config" else flat.keys() - anew)
            built[name] = validate(kind, {key: flat.pop(key) for key in list(flat) if key in mine})
        except SpecError as error:
            wrong.append(str(error))
    if wrong:
        raise SpecError("; ".join(wrong))
    for name, part in built.items():
        theirs = {} if name == "config" else {key: getattr(built["config"], key) for key in anew & part.held().keys()}
        built[name] = part.model_copy(update=theirs) if theirs else part
    return validate(RunSpec, {**flat, **built})


def _listed(key: str, value: Any, fields: Mapping[str, FieldInfo]) -> Any:
    """Return a single value for a list of any length as that list.

    `seeds=3` is three seeds, 0 to 2, and `seeds=[3..9]` those from 3 to 9.
    """
    if key == "seeds" and (span := _SPAN.fullmatch(str(value).replace("'", ""))):
        first, last = int(span[1]), int(span[2])
        if not first <= last < first + MOST_SEEDS:
            raise SpecError(f"seeds={value}: from the first to the last one, at most {MOST_SEEDS}")
        return tuple(range(first, last + 1))
    if isinstance(value, bool) or not isinstance(value, int | float | str) or key not in fields:
        return value
    whole = fields[key].annotation
    kinds = [whole] if get_origin(whole) is tuple else [kind for kind in get_args(whole) if kind is not type(None)]
    if not kinds or not all(get_origin(kind) is tuple and get_args(kind)[1:] == (...,) for kind in kinds):
        return value  # no list, a pair, or a list or something else
    if key != "seeds":
        return (value,)
    if not isinstance(value, int) or not 1 <= value <= MOST_SEEDS:
        raise SpecError(f"seeds={value}: give how many, 1 to {MOST_SEEDS}, or a list of them like seeds=[0,1,2]")
    return tuple(range(value))


def with_changes(spec: RunSpec, **changes: Any) -> RunSpec:
    """Return a copy with flat keys replaced, everything validated again."""
    return build_run({**spec.flat(), **changes})


def validate(model: Any, values: dict[str, Any]) -> Any:
    """Return `model(**values)`; a pydantic error becomes one SpecError line naming key, value and bound."""
    try:
        return model(**values)
    except ValidationError as error:
        parts: list[str] = []
        errors = error.errors()
        inside = {item["loc"][0] for item in errors if len(item["loc"]) > 1}
        for item in errors:
            if item["type"] == "too_short" and item["loc"][0] in inside:
                continue  # pydantic counts the values that are left
            key = ".".join(str(part) for part in item["loc"])
            message = explain(item)
            field = model.model_fields.get(key)
            shown = "***" if field is not None and mark(field, Secret) else repr(item["input"])
            parts.append(f"{key}={shown}: {message}" if key else message)
        raise SpecError("; ".join(parts)) from None


def explain(item: Any) -> str:
    """Return what is wrong with one value, one of pydantic's errors, and what is allowed, in few words."""
    message = item["msg"].removeprefix("Value error, ")
    if item["type"] == "literal_error":
        allowed = item["ctx"]["expected"].replace("'", "").replace(" or ", ", ").split(", ")
        return f"no such choice{did_you_mean(str(item['input']), allowed)}"
    if item["type"] == "too_short":
        return f"must have at least {item['ctx']['min_length']} value"
    if item["type"] == "tuple_type":
        return f"must be a list, like {item['loc'][0]}=[{item['input']}]"
    return message.replace("Input should be", "must be").split(", unable to")[0]
