"""The two ways to run K members at once: one after the other, or stacked into one model. Losses, gradients, actions.

A phase's loss is differentiated by the parameters that the phase moves, and by no others, which are constants to it.
Gradients are written into the pack's flat buffer; those of a batch in several parts are added up there.
Knows nothing of optimisers, workers or data. Shape suffixes: K members, M chosen ones, b samples, R rows.
"""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, Literal, Protocol

import torch
from torch import nn
from torch.func import functional_call, stack_module_state, vmap

from understudy.algorithm import Algorithm, Batch, LossAndMetrics, Phase
from understudy.observations import Observations, each
from understudy.trainables.packs.flat import FunctionCaller
from understudy.trainables.packs.members import Own
from understudy.trainables.packs.networks import Networks
from understudy.trainables.packs.phases import moved_by
from understudy.trainables.packs.precision import autocast, compile_errors, compiled

Mode = Literal["loop", "vmap"]
Tensors = dict[str, torch.Tensor]


class Unstackable(Exception):
    """Members that differ in what one stacked model cannot: they are run one after the other."""


class Runner(Protocol):
    """What both modes do."""

    def backward(
        self,
        phase: Phase,
        batch: Batch,
        draws: list[Tensors],
        members: Sequence[int],
        share: float,
        scales: torch.Tensor | None,
    ) -> Tensors:
        """Write a phase's loss and gradient of `members` to the buffer, of their batch [M, b, ...]; return metrics [M].

        Those of a `share` below 1, a part of a batch, are added to what is there. `scales` [K] multiply the gradient
        alone, as fp16 needs it.
        """
        ...

    def act(
        self, policy: Algorithm, chosen: Sequence[int], observations: Observations, noise: torch.Tensor
    ) -> torch.Tensor:
        """Return actions [M, R, H, A] of the members `chosen` for normalised observations [M, R, *O]."""
        ...


class Looped:
    """Members one after the other: each is then bit for bit the seed trained alone."""

    def __init__(
        self,
        algorithm: Algorithm,
        networks: Networks,
        seeded: Callable[[int], AbstractContextManager[None]] = lambda index: nullcontext(),
        of_members: Sequence[Algorithm] | None = None,
    ) -> None:
        """`seeded(k)` is entered for member k's loss: it seeds the global generator, which the loss may draw from.

        `of_members` are the members' algorithms where losses of theirs differ.
        """
        self._seeded = seeded
        learners = [algorithm] * len(networks.members) if of_members is None else of_members
        compiled_once = {id(one): {phase.name: _compiled(phase.loss, one) for phase in one.phases} for one in learners}
        self._loss = [compiled_once[id(one)] for one in learners]
        members, layout = networks.members, networks.layout
        self._algorithm, self._members, self._targets = algorithm, members, networks.targets.members
        self._acting, self._losses = networks.acting, networks.losses
        moved = {phase.name: moved_by(phase, layout) for phase in algorithm.phases}
        self._leaves = {
            phase: [[member.get_parameter(name) for name in names] for member in members]
            for phase, names in moved.items()
        }
        self._constants = {
            phase: [[one for name, one in member.named_parameters() if name not in names] for member in members]
            for phase, names in moved.items()
        }
        self._gradients = {
            phase: [[views[name] for name in names] for views in map(layout.views, networks.gradients)]
            for phase, names in moved.items()
        }

    def backward(
        self,
        phase: Phase,
        batch: Batch,
        draws: list[Tensors],
        members: Sequence[int],
        share: float,
        scales: torch.Tensor | None,
    ) -> Tensors:
        """Differentiate each member's loss by itself."""
        config = self._algorithm.config
        collected: list[Tensors] = []
        for row, index in enumerate(members):
            member = self._members[index]
            with compile_errors(config.compile), _held(self._constants[phase.name][index]), self._seeded(index):
                with autocast(config.precision, self._losses.device):
                    part = part_of(batch, row)
                    loss, metrics = self._loss[index][phase.name](member, self._targets[index], part, draws[row])
                weighted = loss if share == 1.0 else loss * share
                scaled = weighted if scales is None else weighted * scales[index]
                gradients = torch.autograd.grad(
                    scaled, self._leaves[phase.name][index], allow_unused=True, materialize_grads=True
                )
            _write(self._gradients[phase.name][index], gradients, add=share < 1.0)
            _write([self._losses[index]], [weighted.detach()], add=share < 1.0)
            collected.append(_plain(phase, loss, metrics))
        return {name: torch.stack([metrics[name] for metrics in collected]) for name in collected[0]}

    def act(
        self, policy: Algorithm, chosen: Sequence[int], observations: Observations, noise: torch.Tensor
    ) -> torch.Tensor:
        """Ask one member after the other."""
        rows = [each(lambda part, row=row: part[row], observations) for row in range(len(chosen))]
        return torch.stack([policy.act(self._acting[k], rows[i], noise[i]) for i, k in enumerate(chosen)])


class Stacked:
    """All members as one model through torch.func: [K, ...] views of the flat storage in place of one's parameters."""

    def __init__(self, algorithm: Algorithm, networks: Networks, own: Sequence[Own] = ()) -> None:
        """`own` are settings of the members' losses, each member's of one form: numbers that take part as tensors."""
        members, targets, layout = networks.members, networks.targets.members, networks.layout
        self._algorithm = algorithm
        names = list(dict.fromkeys(name for settings in own for name in settings))
        values = {name: [settings.get(name, getattr(algorithm.config, name)) for settings in own] for name in names}
        for name, of_all in values.items():
            if any(not isinstance(value, float | int) for value in of_all):
                raise Unstackable(f"{name} is no number of every member")
        device = networks.parameters.device
        self._own = {name: torch.tensor(of_all, dtype=torch.float32, device=device) for name, of_all in values.items()}
        self._caller = FunctionCaller(members[0], targets[0])
        # The members' constant buffers, and those of their targets, as `FunctionCaller` names them.
        named = {f"network.{name}": value for name, value in stack_module_state([*members])[1].items()}
        for part in targets[0]:
            buffers = stack_module_state([copies[part] for copies in targets])[1]
            named |= {f"targets.{part}.{name}": value for name, value in buffers.items()}
        self._constants = {name: value.detach() for name, value in named.items()}
        following = {f"targets.{name}": value.detach() for name, value in networks.targets.stacked().items()}
        self._state = self._with(layout.views(networks.parameters))
        self._acting = self._with(layout.views(networks.acting_values))
        for name in layout.shapes:
            self._state[f"network.{name}"].requires_grad_()
        self._state |= following
        self._acting |= following  # a swap names every parameter of the caller, though no action depends on these
        self._moved = {phase.name: list(moved_by(phase, layout)) for phase in algorithm.phases}
        self._gradients = layout.views(networks.gradients)
        self._losses = networks.losses
        constant = {f"network.{name}": self._state[f"network.{name}"].detach() for name in layout.shapes}
        self._states = {  # what a phase's loss sees: parameters that it moves, and constants
            phase: {**self._state, **{name: value for name, value in constant.items() if name[8:] not in names}}
            for phase, names in self._moved.items()
        }
        self._compute = {phase.name: _compiled(self._losses_of_all(phase), algorithm) for phase in algorithm.phases}

    def _with(self, parameters: Tensors) -> Tensors:
        """Return the members' parameters as `FunctionCaller` names them, and the constants."""
        return {**{f"network.{name}": value.detach() for name, value in parameters.items()}, **self._constants}

    def _losses_of_all(self, phase: Phase) -> Callable[[Tensors, Batch, Tensors, Tensors], Any]:
        """Return the function of (state, batch, draws, own), all [M, ...], that gives members' losses and metrics."""

        def loss(network: nn.Module, batch: Batch, draws: Tensors, own: Tensors) -> LossAndMetrics:
            learns = phase if not own else _phase_of(self._algorithm, phase.name, own)
            value, metrics = learns.loss(network, dict(self._caller.targets.items()), batch, draws)
            return value, {name: torch.as_tensor(metric, device=value.device) for name, metric in metrics.items()}

        def one(state: Tensors, batch: Batch, draws: Tensors, own: Tensors) -> Any:
            return functional_call(self._caller, state, (loss, batch, draws, own))

        def of_all(state: Tensors, batch: Batch, draws: Tensors, own: Tensors) -> Any:
            return vmap(one)(state, batch, draws, own) if own else vmap(one, (0, 0, 0, None))(state, batch, draws, own)

        return of_all

    def backward(
        self,
        phase: Phase,
        batch: Batch,
        draws: list[Tensors],
        members: Sequence[int],
        share: float,
        scales: torch.Tensor | None,
    ) -> Tensors:
        """Differentiate the sum of the members' losses: none depends on another's parameters."""
        config = self._algorithm.config
        if any(drawn.keys() != draws[0].keys() for drawn in draws):
            raise Unstackable("members draw other kinds of random numbers")  # some drop out, others do not
        stacked_draws = {name: torch.stack([drawn[name] for drawn in draws]) for name in draws[0]}
        moved = self._moved[phase.name]
        state, own = self._states[phase.name], self._own
        chosen = None if len(members) == len(self._losses) else list(members)
        if chosen is not None:  # rows of the block are no views of it
            state = {name: value[chosen].detach() for name, value in state.items()}
            for name in moved:
                state[f"network.{name}"].requires_grad_()
            own = {name: value[chosen] for name, value in own.items()}
            scales = None if scales is None else scales[chosen]
        with compile_errors(config.compile):
            with autocast(config.precision, self._losses.device):
                losses, metrics = self._compute[phase.name](state, batch, stacked_draws, own)
            weighted = losses if share == 1.0 else losses * share
            total = (weighted if scales is None else weighted * scales).sum()
            # Not by backward(): autograd would warn of leaves that are strided over the rows.
            leaves = [state[f"network.{name}"] for name in moved]
            gradients = torch.autograd.grad(total, leaves, allow_unused=True, materialize_grads=True)
        into, found = [*(self._gradients[name] for name in moved), self._losses], [*gradients, weighted.detach()]
        if chosen is not None:
            into = [block[k] for block in into for k in chosen]
            found = [value[row] for value in found for row in range(len(chosen))]
        _write(into, found, add=share < 1.0)
        return _plain(phase, losses, metrics)

    def act(
        self, policy: Algorithm, chosen: Sequence[int], observations: Observations, noise: torch.Tensor
    ) -> torch.Tensor:
        """Ask all members in one pass."""

        def one(state: Tensors, observations: Observations, noise: torch.Tensor) -> torch.Tensor:
            return functional_call(self._caller, state, (policy.act, observations, noise))

        state = self._acting
        if list(chosen) != list(range(len(self._losses))):
            state = {name: value[list(chosen)] for name, value in state.items()}
        return vmap(one)(state, observations, noise)


@contextmanager
def _held(parameters: Sequence[nn.Parameter]) -> Generator[None]:
    """Let parameters be constants: what is computed from them keeps nothing for gradients that nobody wants."""
    for parameter in parameters:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in parameters:
            parameter.requires_grad_(True)


def _write(into: list[torch.Tensor], values: Sequence[torch.Tensor], *, add: bool) -> None:
    """Replace the numbers of tensors by values, or add these to them."""
    if add:
        torch._foreach_add_(into, list(values))  # pyright: ignore[reportPrivateImportUsage, reportPrivateUsage]
    else:
        torch._foreach_copy_(into, list(values))  # pyright: ignore[reportPrivateImportUsage, reportPrivateUsage]


def part_of(batch: Batch, index: int | list[int] | tuple[slice | None, ...]) -> Batch:
    """Return a batch with every array, in observations of several parts too, indexed alike."""
    return {name: each(lambda value: value[index], value) for name, value in batch.items()}


def micro_batches(batch: Batch, draws: list[Tensors], count: int) -> Iterator[tuple[float, Batch, list[Tensors]]]:
    """Yield a batch [K, b, ...] in at most `count` parts: the share of its samples, the part, its random numbers."""
    samples = batch["actions"].shape[1]
    count = min(count, samples)
    if count == 1:
        yield 1.0, batch, draws
        return
    for low, high in itertools.pairwise(samples * index // count for index in range(count + 1)):
        drawn = [{name: value[low:high] for name, value in member.items()} for member in draws]
        yield (high - low) / samples, part_of(batch, (slice(None), slice(low, high))), drawn


def _phase_of(algorithm: Algorithm, name: str, own: Tensors) -> Phase:
    """Return a phase of an algorithm with some settings replaced by one member's, which are tensors []."""
    member = copy.copy(algorithm)
    member.config = algorithm.config.model_copy(update=own)
    return next(phase for phase in member.phases if phase.name == name)


def _compiled(function: Callable[..., Any], algorithm: Algorithm) -> Callable[..., Any]:
    return compiled(function) if algorithm.config.compile else function


def _plain(phase: Phase, loss: torch.Tensor, metrics: Tensors) -> Tensors:
    """Return the loss and the metrics without their graph, in float32."""
    return {
        name: torch.as_tensor(value, device=loss.device).detach().float()
        for name, value in named_loss(phase, loss, metrics).items()
    }


def named_loss(phase: Phase, loss: torch.Tensor, metrics: Tensors) -> Tensors:
    """Return a phase's metrics, its loss among them."""
    return {f"{phase.name}_loss": loss, **metrics}
