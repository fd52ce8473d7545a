"""List everything that a shell can complete: every key of every algorithm, which imports them all, and torch."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from types import UnionType
from typing import Any, Union, cast, get_args, get_origin

from pydantic.fields import FieldInfo

from understudy import registry
from understudy.plugins import is_plug_in
from understudy.spec.choices import choices_of
from understudy.spec.compose import CONF, OTHER, groups_in
from understudy.spec.evaluation import EvaluationSpec
from understudy.spec.keys import run_fields, shared_fields
from understudy.spec.placement import PLACES_OF_AN_EVALUATION
from understudy.sweeping.options import SweepOptions

Values = dict[str, list[str]]


def list_tables() -> tuple[dict[str, Any], list[str]]:
    """Return the fields of `completion.Tables`, and the files and folders that they were read from."""
    shared = _values(shared_fields())
    algos = {name: _values(run_fields(name)) for name in registry.algorithms.names()}
    shared["algo"] = list(algos)
    acting = {key for name in algos for key in registry.algorithms.get(name).evaluation_parameters}
    spaces = {name: space.algo for name, space in registry.search_spaces.items()}
    every = {key: values for fields in algos.values() for key, values in fields.items()} | shared
    of_an_evaluation = ["env_name", *EvaluationSpec.model_fields, *PLACES_OF_AN_EVALUATION, *sorted(acting)]
    groups = {name: [option for option in options if option != OTHER] for name, options in groups_in(None).items()}
    listed: dict[str, Any] = dict(
        shared={**groups, **shared},
        algos={name: {key: own[key] for key in own if key not in shared} for name, own in algos.items()},
        sweep={**_values(SweepOptions.model_fields), "space": sorted(spaces)},
        evaluate={key: every[key] for key in of_an_evaluation},
        spaces=spaces,
    )
    return listed, _files()


def _values(fields: Mapping[str, FieldInfo]) -> Values:
    return {key: _offered(field) for key, field in fields.items()}


def _offered(field: FieldInfo) -> list[str]:
    """Return the values that a field allows, else its examples, else its default as it is written in a command."""
    choices = [*choices_of(field), *(str(example) for example in field.examples or ())]
    if bool in (field.annotation, *_of_union(field.annotation)):
        choices += ["true", "false"]
    if choices:
        return choices
    default = _written(field.get_default(call_default_factory=True))
    return [default] if default else []


def _of_union(annotation: Any) -> tuple[Any, ...]:
    return get_args(annotation) if get_origin(annotation) in (Union, UnionType) else ()


def _written(value: Any) -> str:
    """Return a default as a word has it; '' for a text, which is the user's own to choose."""
    if isinstance(value, list | tuple):
        items = [str(item) for item in cast("list[Any]", value)]
        return f"[{','.join(items)}]"
    return str(value) if isinstance(value, int | float) else ""


def _files() -> list[str]:
    """Return the files of this package and of plug-ins that are imported, and the folders that they lie in."""
    places: set[Path] = {*CONF.glob("*"), CONF}
    for name, module in list(sys.modules.items()):
        file = getattr(module, "__file__", None)
        if file and (name.partition(".")[0] == "understudy" or is_plug_in(name)):
            places |= {Path(file), Path(file).parent}
    return sorted(map(str, places))
