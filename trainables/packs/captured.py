"""Losses and gradients recorded once and then done again, so that a step costs its kernels and little beside them.

On the CPU a recording is a tape of operations (`tape.py`), without Python's and autograd's share. On a GPU it is a CUDA
graph, where `cuda_graphs=true` asks for it: it reads its inputs from memory of its own, into which each batch and its
random numbers are copied. **Recording CUDA graphs has not been run on a GPU by us**; what surrounds it is tested on the
CPU. The optimiser's fused step stays outside: its learning rate varies. Knows nothing of optimisers, workers or data.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

from understudy.algorithm import Algorithm, Batch, Phase
from understudy.errors import SpecError
from understudy.observations import Observations, named_parts
from understudy.trainables.packs.runners import Runner, Tensors

WARM_UPS = 3
"""Runs before a recording, in which libraries choose their kernels and take their memory."""
Function = Callable[[Sequence[torch.Tensor]], Tensors]
Record = Callable[[Function, Sequence[torch.Tensor]], tuple[Tensors, Function]]
"""Returns what a function gave for some inputs, and what does the same for others of their form."""


def check_capture(captures: bool, device: torch.device) -> None:
    """Raise SpecError where there are no CUDA graphs."""
    if captures and device.type != "cuda":
        raise SpecError(f"cuda_graphs=true needs device=cuda, not {device.type}")


def cuda_graph(function: Function, inputs: Sequence[torch.Tensor]) -> tuple[Tensors, Function]:
    """Record a CUDA graph, as torch's documentation says: warmed up on another stream."""
    cuda: Any = torch.cuda  # the types of its streams and graphs are known in part only
    held = [value.clone() for value in inputs]
    try:
        stream = cuda.Stream()
        stream.wait_stream(cuda.current_stream())
        with cuda.stream(stream):
            for _ in range(WARM_UPS):
                function(held)
        cuda.current_stream().wait_stream(stream)
        graph = cuda.CUDAGraph()
        with cuda.graph(graph):
            outputs = function(held)
    except RuntimeError as error:
        reason = str(error).strip().splitlines()[0]
        raise SpecError(f"cuda_graphs=true: this loss cannot be captured: {reason}") from error

    def again(values: Sequence[torch.Tensor]) -> Tensors:
        for own, value in zip(held, values, strict=True):
            own.copy_(value, non_blocking=True)
        graph.replay()
        return {name: value.clone() for name, value in outputs.items()}

    return again(inputs), again


class Captured:
    """A runner that does recordings of another one's losses again; batches in parts, and of some members, are not."""

    def __init__(self, runner: Runner, members: int, record: Record) -> None:
        self._runner, self._count, self._record = runner, members, record
        self._recordings: dict[Any, Function] = {}

    def backward(
        self,
        phase: Phase,
        batch: Batch,
        draws: list[Tensors],
        members: Sequence[int],
        share: float,
        scales: torch.Tensor | None,
    ) -> Tensors:
        """Write a phase's loss and gradients, as the runner does."""
        if share < 1.0 or len(members) < self._count or scales is not None:
            return self._runner.backward(phase, batch, draws, members, share, scales)
        places, values = _flat(batch, draws)
        form = (phase.name, *places, *((value.shape, value.stride(), value.dtype) for value in values))
        if form in self._recordings:
            return self._recordings[form](values)
        chosen, count = list(members), 1 + len(draws)

        def function(values: Sequence[torch.Tensor]) -> Tensors:
            batch, *draws = _nested(count, places, values)
            return self._runner.backward(phase, batch, draws, chosen, 1.0, None)

        outputs, self._recordings[form] = self._record(function, values)
        return outputs

    def act(
        self, policy: Algorithm, chosen: Sequence[int], observations: Observations, noise: torch.Tensor
    ) -> torch.Tensor:
        """Act as the runner does."""
        return self._runner.act(policy, chosen, observations, noise)


def _flat(batch: Batch, draws: Sequence[Tensors]) -> tuple[list[tuple[int, str, str]], list[torch.Tensor]]:
    """Return all tensors of a step's inputs, and where each lies: which of them, its name, and its part's."""
    places: list[tuple[int, str, str]] = []
    values: list[torch.Tensor] = []
    for index, named in enumerate((batch, *draws)):
        for name, value in named.items():
            parts = named_parts(value)
            for part, tensor in (("", value),) if parts is None else parts.items():
                places.append((index, name, part))
                values.append(tensor)
    return places, values


def _nested(count: int, places: Sequence[tuple[int, str, str]], values: Sequence[torch.Tensor]) -> list[Batch]:
    """Return what `_flat` took apart."""
    found: list[Batch] = [{} for _ in range(count)]
    for (index, name, part), value in zip(places, values, strict=True):
        if part:
            found[index].setdefault(name, {})[part] = value
        else:
            found[index][name] = value
    return found
