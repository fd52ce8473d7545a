"""A function of tensors written down as the operations that it came to, to be done again without Python and autograd.

A small network's step is mostly what surrounds its products: modules, the graph of gradients, functions of functions.
None of it is there the second time: the same kernels, called by torch's interpreter (`graph.py`), get the same numbers,
so the bits are the same. What a function
computes must depend on its inputs and on memory that stays in place (parameters, buffers) alone; one that reads numbers
out of tensors, draws random ones or makes results of varying sizes cannot be written down and says so. For the CPU;
knows nothing of packs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, cast

import torch
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode

from understudy.trainables.packs.graph import Call, Name, Replay, Unwritable, interpreted, names_in

Tensors = dict[str, torch.Tensor]
Function = Callable[[Sequence[torch.Tensor]], Tensors]
VARYING = {torch.Tag.data_dependent_output, torch.Tag.dynamic_output_shape, torch.Tag.nondeterministic_seeded}
"""Marks of operations whose results are not a tensor of one shape that inputs decide."""
Key = tuple[Any, ...]
"""A tensor by its place in memory, not by its object: autograd makes several objects of one tensor."""


class _Writing(TorchDispatchMode):
    """Writes down what is done while it is active, below autograd."""

    def __init__(self, inputs: Sequence[torch.Tensor]) -> None:
        super().__init__()  # pyright: ignore[reportUnknownMemberType]
        self.calls: list[Call] = []
        self.fixed: dict[str, Any] = {}
        self._names: dict[Key, Name] = {}
        self._storages: dict[int, tuple[StorageWeakRef, bool]] = {}
        """Every storage that was seen: held weakly, so that no other gets its address, and whether it stays."""
        for index, tensor in enumerate(inputs):
            self._storage(tensor, fixed=False)
            self._names[_key(tensor)] = Name(f"input_{index}", fixed=False)

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # else torch imports its compiler and sympy to have this mode left alone by them

    def _storage(self, tensor: torch.Tensor, *, fixed: bool) -> bool:
        """Note a tensor's storage where it is new; return whether it stays."""
        held = StorageWeakRef(tensor.untyped_storage()), fixed
        return self._storages.setdefault(_storage_of(tensor), held)[1]

    def __torch_dispatch__(self, function: Any, types: Any, arguments: Any = (), keywords: Any = None) -> Any:
        if VARYING.intersection(function.tags) and not _by_numbers(function, arguments):
            raise Unwritable(str(function))
        given, named = self._written(list(arguments)), self._written(keywords or {})
        result = function(*arguments, **(keywords or {}))
        writes = function._schema.is_mutable
        stays = function.is_view and all(name.fixed for name in names_in(given, named))
        before = len(self._names)
        names = self._result(result, stays)
        if writes or (not stays and len(self._names) > before):
            made = [name for name in names_in(names) if name.text.startswith("made_")]
            known = len(self._names) == before
            self.calls.append(Call(function, given, named, made, None if known else names, writes))
        return result

    def _written(self, value: Any) -> Any:
        """Return an argument with names in place of what it holds."""
        if isinstance(value, list | tuple):
            return [self._written(one) for one in cast("Sequence[Any]", value)]
        if isinstance(value, dict):
            return {name: self._written(one) for name, one in cast("dict[str, Any]", value).items()}
        if isinstance(value, torch.Generator):
            raise Unwritable("random numbers of a generator")
        if not isinstance(value, torch.Tensor):
            return self._fix(value)
        return self.name(value)

    def name(self, tensor: torch.Tensor) -> Name:
        """Return the name of a tensor, which was made here, is an input, or lies in memory that nobody here made."""
        key = _key(tensor)
        if key not in self._names:
            if not self._storage(tensor, fixed=True):
                raise Unwritable("a view that no operation made")
            self._names[key] = self._fix(tensor.detach())
        return self._names[key]

    def _fix(self, value: Any) -> Name:
        name = f"fixed_{len(self.fixed)}"
        self.fixed[name] = value
        return Name(name, fixed=True)

    def _result(self, value: Any, stays: bool) -> Any:
        """Return what an operation returned with names in place of tensors, new ones of what is new."""
        if isinstance(value, list | tuple):
            return [self._result(one, stays) for one in cast("Sequence[Any]", value)]
        if not isinstance(value, torch.Tensor):
            return None
        key = _key(value)
        if key not in self._names:
            self._storage(value, fixed=False)
            made = Name(f"made_{len(self._names)}", fixed=False)
            self._names[key] = self._fix(value.detach()) if stays else made
        return self._names[key]


def _by_numbers(function: Any, arguments: Sequence[Any]) -> bool:
    """Whether an operation picks entries by their numbers, so that shapes decide its result's; masks would not."""
    if function is not torch.ops.aten.index.Tensor:
        return False
    return all(index is None or index.dtype in (torch.int64, torch.int32) for index in arguments[1])


def _storage_of(tensor: torch.Tensor) -> int:
    storage: Any = tensor.untyped_storage()  # its address has no public name
    return storage._cdata


def _key(tensor: torch.Tensor) -> Key:
    if tensor.layout != torch.strided or tensor.is_conj() or tensor.is_neg():
        raise Unwritable(f"a tensor of layout {tensor.layout}")
    return (_storage_of(tensor), tensor.storage_offset(), tuple(tensor.shape), tensor.stride(), tensor.dtype)


def tape(function: Function, inputs: Sequence[torch.Tensor]) -> tuple[Tensors, Function]:
    """Call a function, and return what it gave and what does the same for other inputs of the same forms.

    That is the tape, once it has given the function's very bits for other inputs than it was written with; else, and
    where nothing can be written, the function itself.
    """
    try:
        outputs, replay, written = _write(function, _apart(inputs))
    except Unwritable:
        return function(inputs), function
    return outputs, Tape(function, replay, written)


class Tape:
    """A tape that is taken beside its function the first time, and instead of it from then on if the bits agree."""

    def __init__(self, function: Function, replay: Replay, written: Sequence[torch.Tensor]) -> None:
        self._function, self._replay, self._written = function, replay, written
        self.proven: bool | None = None

    def __call__(self, inputs: Sequence[torch.Tensor]) -> Tensors:
        """Do it again for other inputs."""
        if self.proven:
            return self._replay(*inputs)
        outputs = self._function(inputs)
        if self.proven is None:
            wanted = [*outputs.values(), *(value.clone() for value in self._written)]
            try:
                found = [*self._replay(*inputs).values(), *self._written]
                self.proven = all(map(_same, wanted, found))
            except RuntimeError:  # another torch's interpreter may lack an operation, or results have other types
                self.proven = False
            for value, right in zip(self._written, wanted[len(outputs) :], strict=True):
                value.copy_(right)
        return outputs


def _same(one: torch.Tensor, other: torch.Tensor) -> bool:
    return torch.allclose(one, other, rtol=0, atol=0, equal_nan=True)


def _apart(inputs: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    """Return inputs of which no two share memory, so that each can be told by its place in it."""
    storages = [_storage_of(value) for value in inputs]
    if len(set(storages)) == len(storages):
        return list(inputs)
    copies = [value.clone() for value in inputs]
    if any(copy.stride() != value.stride() for copy, value in zip(copies, inputs, strict=True)):
        raise Unwritable("inputs that share memory and leave gaps in it")
    return copies


def _write(function: Function, inputs: Sequence[torch.Tensor]) -> tuple[Tensors, Replay, list[torch.Tensor]]:
    """Return what a function gives, what does it again, and the memory that both write to."""
    with _Writing(inputs) as writing:
        outputs = function(inputs)
    names = {name: writing.name(value) for name, value in outputs.items()}
    calls = _needed(writing.calls, set(names.values()))
    writing_calls = [(call.arguments, call.keywords) for call in calls if call.writes]
    fixed = (writing.fixed[name.text] for name in names_in(*writing_calls) if name.fixed)
    written = [value for value in fixed if isinstance(value, torch.Tensor)]
    return outputs, interpreted(calls, names, writing.fixed, len(inputs)), written


def _needed(calls: Sequence[Call], wanted: set[Name]) -> list[Call]:
    """Return the calls that write to memory or make what is wanted, by those that come after them too."""
    kept: list[Call] = []
    for call in reversed(calls):
        if call.writes or wanted.intersection(call.made):
            kept.append(call)
            wanted.update(names_in(call.arguments, call.keywords))
    return kept[::-1]
