"""The flat keys of a run: their names, other tools' names for them, and how values are checked."""

from __future__ import annotations

from typing import Any

from pydantic import ValidationError

from understudy.errors import SpecError, did_you_mean
from understudy.registry import algorithms
from understudy.spec.augmentation import AugmentationConfig
from understudy.spec.run import RunSpec
from understudy.spec.words import canonical, unknown_key

SECRET = ("tracking_uri", "study_storage", "checkpoint_storage")
"""Keys whose values may hold a password: refused ones are not shown."""


def resolve_key(key: str, allowed: set[str]) -> str:
    """Return the canonical name of a key, or raise SpecError with the nearest match."""
    ours = canonical(key, allowed)
    if ours not in allowed:
        raise unknown_key(key, allowed)
    return ours


def run_keys(algo: str) -> set[str]:
    """Return every key that `understudy train algo=<algo>` takes."""
    nested = set(AugmentationConfig.model_fields) | set(algorithms.get(algo).Config.model_fields)
    return (set(RunSpec.model_fields) - {"config", "augment"}) | nested


def build_run(values: dict[str, Any]) -> RunSpec:
    """Build a RunSpec from flat keys; raises SpecError (or UnknownName) with one clear line."""
    algo = str(values.get("algo", RunSpec.model_fields["algo"].default))
    config_type = algorithms.get(algo).Config
    allowed = run_keys(algo)
    flat = {resolve_key(key, allowed): value for key, value in values.items()}
    nested = {"config": config_type, "augment": AugmentationConfig}
    built = {
        name: validate(kind, {key: value for key, value in flat.items() if key in kind.model_fields})
        for name, kind in nested.items()
    }
    rest = {key: value for key, value in flat.items() if not any(key in kind.model_fields for kind in nested.values())}
    return validate(RunSpec, {**rest, **built})


def with_changes(spec: RunSpec, **changes: Any) -> RunSpec:
    """Return a copy with flat keys replaced, everything validated again."""
    return build_run({**spec.flat(), **changes})


def validate(model: Any, values: dict[str, Any]) -> Any:
    """Return `model(**values)`; a pydantic error becomes one SpecError line naming key, value and bound."""
    try:
        return model(**values)
    except ValidationError as error:
        parts = []
        errors = error.errors()
        inside = {item["loc"][0] for item in errors if len(item["loc"]) > 1}
        for item in errors:
            if item["type"] == "too_short" and item["loc"][0] in inside:
                continue  # pydantic counts the values that are left
            key = ".".join(str(part) for part in item["loc"])
            message = _explain(item)
            shown = "***" if key in SECRET else repr(item["input"])
            parts.append(f"{key}={shown}: {message}" if key else message)
        raise SpecError("; ".join(parts)) from None


def _explain(item: Any) -> str:
    """Return what is wrong with one value, and what is allowed, in few words."""
    message = item["msg"].removeprefix("Value error, ")
    if item["type"] == "literal_error":
        allowed = item["ctx"]["expected"].replace("'", "").replace(" or ", ", ").split(", ")
        return f"no such choice{did_you_mean(str(item['input']), allowed)}"
    if item["type"] == "too_short":
        return f"must have at least {item['ctx']['min_length']} value"
    return message.replace("Input should be", "must be").split(", unable to")[0]
