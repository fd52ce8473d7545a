"""Keys whose values are the names of a registry: checked when a run is described, listed where a key is explained."""

from __future__ import annotations

import types
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Union, get_args, get_origin

from pydantic import GetCoreSchemaHandler
from pydantic.fields import FieldInfo
from pydantic_core import CoreSchema, core_schema

from understudy.errors import did_you_mean


@dataclass(frozen=True)
class OneOf:
    """Mark a text as one of `others` or of a registry's names: `Annotated[str, OneOf(encoders.names, "auto")]`."""

    names: Callable[[], Sequence[str]]
    others: tuple[str, ...]

    def __init__(self, names: Callable[[], Sequence[str]], *others: str) -> None:
        object.__setattr__(self, "names", names)
        object.__setattr__(self, "others", others)

    @property
    def choices(self) -> tuple[str, ...]:
        """Everything that is allowed."""
        return (*self.others, *self.names())

    def check(self, value: str | tuple[str, ...] | None) -> str | tuple[str, ...] | None:
        """Return the value; ValueError with the nearest name for another one. None is left to the type.

        A list, where the type takes one, holds names of the registry alone.
        """
        if isinstance(value, tuple):
            for name in value:
                if name not in self.names():
                    raise ValueError(f"no {name!r} to choose{did_you_mean(name, self.names())}")
        elif value is not None and value not in self.others and value not in self.names():
            raise ValueError(f"no such choice{did_you_mean(value, self.choices)}")
        return value

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_after_validator_function(self.check, handler(source))


def choices_of(field: FieldInfo) -> tuple[str, ...]:
    """Return the words that a field takes, if it takes only some: those of a Literal, or the names of a registry."""
    for mark in field.metadata:
        if isinstance(mark, OneOf):
            return mark.choices
    return _words(field.annotation)


def _words(annotation: Any) -> tuple[str, ...]:
    if get_origin(annotation) is Literal:
        return tuple(choice for choice in get_args(annotation) if isinstance(choice, str))
    if get_origin(annotation) in (Union, types.UnionType):
        return tuple(word for part in get_args(annotation) for word in _words(part))
    return ()
