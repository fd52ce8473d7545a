"""Operations on tensors as a graph of torch's interpreter, which does them again in one call without Python's lock.

The interpreter is TorchScript's, asked not to optimise: it calls the operations one after the other, as Python would,
and lets go of each tensor after its last use. A tensor that stays where it is becomes an input of the graph, bound
once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch

Tensors = dict[str, torch.Tensor]
Replay = Callable[..., Tensors]
script: Any = torch._C  # pyright: ignore[reportPrivateUsage]  (graphs have no public names)
as_it_is: Any = torch.jit  # whose `optimized_execution` has no types
PLAIN = ("IntType", "FloatType", "BoolType")
"""Types whose lists are constants."""
MEMORY_FORMATS = {
    torch.contiguous_format: 0,
    torch.preserve_format: 1,
    torch.channels_last: 2,
    torch.channels_last_3d: 3,
}
"""c10::MemoryFormat's numbers."""


class Unwritable(Exception):
    """What was done is more than operations on tensors."""


@dataclass(frozen=True)
class Name:
    """What an argument or a result is called: a tensor, or another argument of an operation."""

    text: str
    fixed: bool
    """Whether it is the same each time: memory that stays, and what is no tensor."""


@dataclass
class Call:
    """One operation: what it is called with, and the names of what it makes."""

    function: Any
    arguments: list[Any]
    keywords: dict[str, Any]
    made: list[Name]
    result: Any
    """The names in the form in which the operation returns them; None where they were known before."""
    writes: bool


def names_in(*values: Any) -> Iterator[Name]:
    """Yield every name in nested arguments or results."""
    for value in values:
        if isinstance(value, Name):
            yield value
        elif isinstance(value, list | tuple | dict):
            yield from names_in(*(value.values() if isinstance(value, dict) else value))


def interpreted(calls: Sequence[Call], outputs: Mapping[str, Name], fixed: Mapping[str, Any], inputs: int) -> Replay:
    """Return a function of the `inputs` tensors that makes these calls in turn and returns the tensors of `outputs`.

    `fixed` has what the names of fixed arguments stand for. Unwritable for an operation that the interpreter lacks.
    """
    names = list(outputs)
    try:
        graph = _Graph(fixed, inputs)
        for call in calls:
            graph.add(call)
        function, bound = graph.ended(list(outputs.values()))
    except (RuntimeError, TypeError) as error:  # what the interpreter has no type for
        raise Unwritable(str(error).partition("\n")[0]) from error

    def replay(*values: torch.Tensor) -> Tensors:
        with torch.no_grad(), as_it_is.optimized_execution(False):
            found = function(*values, *bound)
        return dict(zip(names, found, strict=True))

    return replay


class _Graph:
    """A graph under construction."""

    def __init__(self, fixed: Mapping[str, Any], inputs: int) -> None:
        self._fixed, self._graph = fixed, script.Graph()
        self._values: dict[str, Any] = {f"input_{index}": self._graph.addInput() for index in range(inputs)}
        self._bound: list[torch.Tensor] = []

    def add(self, call: Call) -> None:
        """Add an operation, with every argument that its schema has."""
        schema = call.function._schema
        given: list[Any] = []
        for index, argument in enumerate(schema.arguments):
            if index < len(call.arguments):
                value = call.arguments[index]
            else:
                value = call.keywords.get(argument.name, argument.default_value)
            given.append(self._value(value, argument.type))
        node = self._graph.insertNode(self._graph.create(schema.name, given, len(schema.returns)))
        for made, kind in zip(node.outputs(), schema.returns, strict=True):
            made.setType(kind.type)
        if node.schema() == "(no schema)":
            raise Unwritable(str(call.function))
        if call.result is not None:
            whole = call.result if len(schema.returns) > 1 else [call.result]
            for value, name in zip(node.outputs(), whole, strict=True):
                self._name(value, name)

    def ended(self, outputs: Sequence[Name]) -> tuple[Any, list[torch.Tensor]]:
        """Return the graph, which returns `outputs` as a list, as a function, and the inputs that are bound to it."""
        tensors = [self._value(name, script.TensorType.get()) for name in outputs]
        node = self._graph.insertNode(self._graph.create("prim::ListConstruct", tensors, 1))
        node.output().setType(script.ListType(script.TensorType.get()))
        self._graph.registerOutput(node.output())
        self._graph.lint()
        return script._create_function_from_graph("tape", self._graph), self._bound

    def _name(self, value: Any, name: Any) -> None:
        """Note what an operation returned: a tensor, or a list of them."""
        if isinstance(name, Name):
            self._values.setdefault(name.text, value)
        elif name is not None:
            parts = self._graph.insertNode(self._graph.create("prim::ListUnpack", [value], len(name)))
            for part, one in zip(parts.outputs(), name, strict=True):
                part.setType(script.TensorType.get())
                self._name(part, one)

    def _value(self, value: Any, kind: Any) -> Any:
        """Return an argument of a type as a value of the graph."""
        if isinstance(value, Name) and value.text in self._values:
            return self._values[value.text]
        if isinstance(value, Name):
            held = self._fixed[value.text]
            if isinstance(held, torch.Tensor):
                self._bound.append(held)
                self._values[value.text] = self._graph.addInput()
                return self._values[value.text]
            value = held
        element = _element(kind)
        if isinstance(value, list | tuple) and element is not None and (element.kind() not in PLAIN or not value):
            parts = [self._value(one, element) for one in cast("Sequence[Any]", value)]
            node = self._graph.insertNode(self._graph.create("prim::ListConstruct", parts, 1))
            node.output().setType(script.ListType(element))
            return node.output()
        return self._graph.insertConstant(self._plain(value, kind))

    def _plain(self, value: Any, kind: Any) -> Any:
        """Return what is no tensor as the interpreter knows it."""
        if isinstance(value, list | tuple):
            return [self._plain(one, _element(kind)) for one in cast("Sequence[Any]", value)]
        if isinstance(value, Name):
            value = self._fixed[value.text]
        if isinstance(value, torch.memory_format):
            return MEMORY_FORMATS[value]
        return float(value) if kind.kind() == "FloatType" and isinstance(value, int) else value


def _element(kind: Any) -> Any:
    """Return the type of a list's elements; None for what is no list."""
    while kind.kind() == "OptionalType":
        kind = kind.getElementType()
    return kind.getElementType() if kind.kind() == "ListType" else None
