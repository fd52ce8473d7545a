"""Losses and gradients recorded once and then replayed, so that a step costs one launch and not thousands of kernels'.

What is recorded reads its inputs from memory of its own, into which each batch and its random numbers are copied, and
writes where the runner writes. The optimiser's fused step stays outside: its learning rate varies. **Recording CUDA
graphs has not been run on a GPU by us**; what surrounds it is tested on the CPU, where a recording is the function
itself. Knows nothing of optimisers, workers or data.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

from understudy.algorithm import Algorithm, Batch, Phase
from understudy.errors import SpecError
from understudy.observations import Observations, each, named_parts
from understudy.trainables.packs.runners import Runner, Tensors

WARM_UPS = 3
"""Runs before a recording, in which libraries choose their kernels and take their memory."""
Record = Callable[[Callable[[], Tensors]], tuple[Tensors, Callable[[], None]]]
"""Returns what a function returned while it was recorded, and what does it again, into the same memory."""


def check_capture(captures: bool, device: torch.device) -> None:
    """Raise SpecError where there are no CUDA graphs."""
    if captures and device.type != "cuda":
        raise SpecError(f"cuda_graphs=true needs device=cuda, not {device.type}")


def cuda_graph(function: Callable[[], Tensors]) -> tuple[Tensors, Callable[[], None]]:
    """Record a CUDA graph, as torch's documentation says: warmed up on another stream."""
    cuda: Any = torch.cuda  # the types of its streams and graphs are known in part only
    stream = cuda.Stream()
    stream.wait_stream(cuda.current_stream())
    with cuda.stream(stream):
        for _ in range(WARM_UPS):
            function()
    cuda.current_stream().wait_stream(stream)
    graph = cuda.CUDAGraph()
    with cuda.graph(graph):
        outputs = function()
    return outputs, graph.replay


class _Recording:
    """One phase's loss for inputs of one form."""

    def __init__(self, runner: Runner, phase: Phase, batch: Batch, draws: list[Tensors], members: list[int]) -> None:
        self._runner, self._phase, self._members = runner, phase, members
        self._batch: Batch = {name: each(torch.clone, value) for name, value in batch.items()}
        self._draws = [{name: value.clone() for name, value in drawn.items()} for drawn in draws]
        self._outputs: Tensors = {}
        self._replay: Callable[[], None] | None = None

    def record(self, record: Record, scales: torch.Tensor | None) -> None:
        """Record it with the inputs that it was made with; `scales` are of one place in memory."""
        phase, batch, draws, members = self._phase, self._batch, self._draws, self._members
        try:
            self._outputs, self._replay = record(
                lambda: self._runner.backward(phase, batch, draws, members, 1.0, scales)
            )
        except RuntimeError as error:
            reason = str(error).strip().splitlines()[0]
            raise SpecError(f"cuda_graphs=true: this loss cannot be captured: {reason}") from error

    def run(self, batch: Batch, draws: list[Tensors]) -> Tensors:
        """Replay it with other inputs."""
        assert self._replay is not None
        _copy(self._batch, batch)
        for held, drawn in zip(self._draws, draws, strict=True):
            _copy(held, drawn)
        self._replay()
        return {name: value.clone() for name, value in self._outputs.items()}


class Captured:
    """A runner that replays recordings of another one's losses; batches in parts, and of some members, are not."""

    def __init__(self, runner: Runner, members: int, record: Record = cuda_graph) -> None:
        self._runner, self._count, self._record = runner, members, record
        self._recordings: dict[Any, _Recording] = {}

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
        form = (phase.name, _form(batch), *map(_form, draws))
        recording = self._recordings.get(form)
        if recording is None:
            recording = _Recording(self._runner, phase, batch, draws, list(members))
            recording.record(self._record, scales)
            self._recordings[form] = recording
        return recording.run(batch, draws)

    def act(
        self, policy: Algorithm, chosen: Sequence[int], observations: Observations, noise: torch.Tensor
    ) -> torch.Tensor:
        """Act as the runner does."""
        return self._runner.act(policy, chosen, observations, noise)


def _form(inputs: Batch) -> tuple[Any, ...]:
    """Return names, shapes and types of inputs."""

    def of(value: Any) -> Any:
        parts = named_parts(value)
        return (tuple(value.shape), value.dtype) if parts is None else _form({**parts})

    return tuple((name, of(value)) for name, value in sorted(inputs.items()))


def _copy(into: Batch, values: Batch) -> None:
    for name, value in values.items():
        parts = named_parts(value)
        if parts is None:
            into[name].copy_(value, non_blocking=True)
        else:
            _copy(into[name], {**parts})
