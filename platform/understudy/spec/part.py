"""A part of a run: keys that belong together, as one frozen value that says all that holds for them.

What makes the fingerprint, what may hold a password, what lies on one machine and what has no effect beside the other
values is declared with the part or with the field itself; there are no lists of keys beside them.
"""

from __future__ import annotations

import itertools
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, TypeVar, get_args

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    GetCoreSchemaHandler,
    JsonValue,
    SerializationInfo,
    SerializerFunctionWrapHandler,
    model_serializer,
    model_validator,
)
from pydantic.fields import FieldInfo
from pydantic_core import CoreSchema, core_schema

from understudy.errors import UserError
from understudy.files import user_path
from understudy.secrecy import holds_secret

Role = Literal["what", "when", "where"]
"""What is trained, which makes the fingerprint; when it is logged, evaluated and kept; where that happens."""
LOG: dict[str, JsonValue] = {"scale": "log"}
"""`json_schema_extra` of a field whose intervals are searched on a logarithmic scale."""
ADDRESS = re.compile(r"(models|runs):/")
M = TypeVar("M")


# ---- marks, in the annotation of a field ----


@dataclass(frozen=True)
class OnlyWith:
    """Mark a field that has an effect only where `field` has `value`, or any value but None where that is None."""

    field: str
    value: Any = None
    reason: str = ""
    """The error for a value other than the default when the field has no effect; '': no error."""

    def holds(self, part: Part) -> bool:
        """Return whether the marked field of `part` has an effect."""
        held = getattr(part, self.field)
        return held is not None if self.value is None else held == self.value


@dataclass(frozen=True)
class Needs:
    """Mark a field that changes nothing unless one of the conditions holds: `Needs("launcher=ray")`.

    A condition is KEY (neither none, 0 nor false), KEY=VALUE, KEY=VALUE|VALUE, KEY>=N, KEY<N, or a word of
    `understudy.spec.effects.FACTS`. Of several marks each must hold. A user who gives the field in vain gets an
    error, or a note where the field's usual commands give it all the same (`note`).
    """

    conditions: tuple[str, ...]
    note: bool
    says: str
    """What a message says is lacking; '': the conditions."""
    hint: str

    def __init__(self, *conditions: str, note: bool = False, says: str = "", hint: str = "") -> None:
        for name, value in {"conditions": conditions, "note": note, "says": says, "hint": hint}.items():
            object.__setattr__(self, name, value)


@dataclass(frozen=True)
class GivesWayTo:
    """Mark a field that changes nothing where another one is given."""

    field: str


@dataclass(frozen=True)
class Secret:
    """Mark an address: with a password in it, it is refused, and a refused one is never shown."""

    kept_in: str
    instead: str
    """Where the password would be kept, and what to do instead."""

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        """Validate as the annotated type, then refuse a password."""
        return core_schema.no_info_after_validator_function(self._checked, handler(source))

    def _checked(self, address: str) -> str:
        if holds_secret(address):
            raise ValueError(f"holds a password or a token, which {self.kept_in} would keep: {self.instead}")
        return address


@dataclass(frozen=True)
class OfThisMachine:
    """Mark a path that means nothing elsewhere: policies go without it."""


@dataclass(frozen=True)
class ActsOnly:
    """Mark a setting of an algorithm that only changes how a trained policy acts: it needs no training of its own."""

    needs: str = ""
    """The condition, written as those of Needs, under which it does; '': always."""


@dataclass(frozen=True)
class PerMember:
    """Mark a setting of training that members of one pack may each have a value of their own of."""


@dataclass(frozen=True)
class Redefines:
    """Mark a setting of an algorithm that is also a key of another part: the algorithm's default and bounds hold."""


@dataclass(frozen=True)
class IsPath:
    """Mark the path of a file or folder."""


def mark(field: FieldInfo, kind: type[M]) -> M | None:
    """Return a field's mark of this kind, if it has one."""
    return next(iter(marks(field, kind)), None)


def marks(field: FieldInfo, kind: type[M]) -> list[M]:
    """Return a field's marks of this kind."""
    of_choices = (getattr(choice, "__metadata__", ()) for choice in get_args(field.annotation))
    return [item for item in itertools.chain(field.metadata, *of_choices) if isinstance(item, kind)]


def absolute(path: str) -> str:
    """Return the whole path: workers start in other folders than the command did."""
    return str(_of_user(path).absolute()) if path else path


def _place(text: str) -> str:
    """Return an address as it is, and the whole path of a file or folder."""
    return text if ADDRESS.match(text) else absolute(text)


def _of_user(path: str) -> Path:
    if "://" in path:
        raise ValueError("must be a path of this machine, no address")
    try:
        return user_path(path)
    except UserError as error:
        raise ValueError(str(error).removeprefix(f"{path}: ")) from None


def _below(name: str) -> str:
    """Return what can name a folder below another: a name that leads elsewhere would write there."""
    if not name or Path(name).is_absolute() or ".." in Path(name).parts or "://" in name:
        raise ValueError("must be a name: not empty, no path that leads elsewhere")
    return name


LocalPath = Annotated[str, AfterValidator(absolute), IsPath()]
ModelPlace = Annotated[str, AfterValidator(_place), IsPath()]
"""A path, or the address of a model: models:/NAME@ALIAS, runs:/RUN_ID/model."""
FolderName = Annotated[str, AfterValidator(_below)]
Width = Annotated[int, Field(gt=0, le=16_384)]
"""Units of a layer: two layers of the widest hold a quarter of a billion weights between them."""


class Part(BaseModel):
    """Keys of a run that belong together."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", validate_default=True, allow_inf_nan=False, protected_namespaces=()
    )

    role: ClassVar[Role] = "what"
    title: ClassVar[str] = ""
    """Heading of these keys in help texts."""

    @property
    def idle(self) -> set[str]:
        """Fields that have no effect beside the others' values; flags and fingerprint go without them."""
        known = ((name, mark(field, OnlyWith)) for name, field in type(self).model_fields.items())
        return {name for name, only in known if only is not None and not only.holds(self)}

    @property
    def lacking(self) -> dict[str, str]:
        """What fields without effect beside the others' values need in order to have one, when no mark says it."""
        return {}

    def held(self) -> dict[str, Any]:
        """Return every field's value, those of idle ones too."""
        return {name: getattr(self, name) for name in type(self).model_fields}

    @classmethod
    def flat_fields(cls) -> dict[str, FieldInfo]:
        """Return the flat keys that this part takes and writes, with their fields."""
        return cls.model_fields

    @classmethod
    def groups(cls) -> tuple[dict[str, FieldInfo], dict[str, dict[str, FieldInfo]]]:
        """Return the fields of this class alone, and those of the parts that it is made of by their titles."""
        parts = [base for base in cls.__mro__[1:] if issubclass(base, Part) and "title" in vars(base) and base.title]
        taken: dict[str, dict[str, FieldInfo]] = {}
        for base in parts:
            above = (part for part in parts if part is not base and issubclass(base, part))
            deeper = {name for part in above for name in part.model_fields}
            taken[base.title] = {name: cls.model_fields[name] for name in base.model_fields if name not in deeper}
        inherited = {name for fields in taken.values() for name in fields}
        return {name: field for name, field in cls.model_fields.items() if name not in inherited}, taken

    @classmethod
    def local(cls) -> set[str]:
        """Return the fields that hold paths of this machine."""
        return {name for name, field in cls.flat_fields().items() if mark(field, OfThisMachine)}

    def shared(self) -> dict[str, Any]:
        """Return the values as JSON, without paths of this machine."""
        return self.model_dump(mode="json", exclude=self.local())

    @model_validator(mode="after")
    def _given_fields_have_an_effect(self) -> Part:
        for name, field in sorted(type(self).model_fields.items()):
            only, value = mark(field, OnlyWith), getattr(self, name)
            if only is None or not only.reason or only.holds(self):
                continue
            if value != field.get_default(call_default_factory=True):
                raise ValueError(f"{name}={value} {only.reason}")
        return self

    @model_serializer(mode="wrap")
    def _without_idle_fields(self, serialise: SerializerFunctionWrapHandler, info: SerializationInfo) -> dict[str, Any]:
        idle = self.idle
        return {key: value for key, value in serialise(self).items() if key not in idle}
