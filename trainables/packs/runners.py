"""The two ways to run K members at once: one after the other, or stacked into one model. Losses, gradients, actions.

Gradients are added into the pack's flat buffer, so that a batch in several parts gives the gradient of the whole.
Knows nothing of optimisers, workers or data. Shape suffixes: K members, M chosen ones, b samples, R rows.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from typing import Any, Literal, Protocol

import torch
from torch import nn
from torch.func import functional_call, stack_module_state, vmap

from understudy.algorithm import Algorithm, Batch
from understudy.observations import Observations, each
from understudy.trainables.packs.flat import Caller, Layout
from understudy.trainables.packs.precision import autocast, compile_errors, compiled

Mode = Literal["loop", "vmap"]
Tensors = dict[str, torch.Tensor]


class Runner(Protocol):
    """What both modes do."""

    def backward(self, batch: Batch, draws: list[Tensors], share: float, scales: torch.Tensor | None) -> Tensors:
        """Add `share` of the loss and of the gradient of a batch [K, b, ...] to the buffer; return metrics, each [K].

        `scales` [K] multiply the gradient alone, as fp16 needs it.
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
        self, algorithm: Algorithm, members: list[nn.Module], acting: list[nn.Module], losses: torch.Tensor
    ) -> None:
        self._algorithm, self._members, self._acting, self._losses = algorithm, members, acting, losses
        self._loss = compiled(algorithm.loss) if algorithm.config.compile else algorithm.loss

    def backward(self, batch: Batch, draws: list[Tensors], share: float, scales: torch.Tensor | None) -> Tensors:
        """Let each member's loss reach the gradients that its parameters have."""
        config, collected = self._algorithm.config, []
        for index, member in enumerate(self._members):
            with compile_errors(config.compile):
                with autocast(config.precision, self._losses.device):
                    loss, metrics = self._loss(member, part_of(batch, index), draws[index])
                weighted = loss if share == 1.0 else loss * share
                (weighted if scales is None else weighted * scales[index]).backward()
            self._losses[index].add_(weighted.detach())
            collected.append(_plain(loss, metrics))
        return {name: torch.stack([metrics[name] for metrics in collected]) for name in collected[0]}

    def act(
        self, policy: Algorithm, chosen: Sequence[int], observations: Observations, noise: torch.Tensor
    ) -> torch.Tensor:
        """Ask one member after the other."""
        rows = [each(lambda part, row=row: part[row], observations) for row in range(len(chosen))]
        return torch.stack([policy.act(self._acting[k], rows[i], noise[i]) for i, k in enumerate(chosen)])


class Stacked:
    """All members as one model through torch.func: [K, ...] views of the flat storage in place of one's parameters."""

    def __init__(
        self,
        algorithm: Algorithm,
        members: list[nn.Module],
        layout: Layout,
        parameters: torch.Tensor,
        acting: torch.Tensor,
        gradients: torch.Tensor,
    ) -> None:
        self._algorithm = algorithm
        self._caller = Caller(members[0])
        self._constants = stack_module_state([*members])[1]
        self._state, self._acting = self._named(layout.views(parameters)), self._named(layout.views(acting))
        self._leaves = [self._state[f"network.{name}"].requires_grad_() for name in layout.shapes]
        self._leaf_gradients = list(layout.views(gradients).values())
        self._losses = gradients[:, layout.size]
        self._compute = compiled(self._losses_of_all) if algorithm.config.compile else self._losses_of_all

    def _named(self, parameters: Tensors) -> Tensors:
        """Return the parameters and the members' constant buffers as `Caller` names them."""
        merged = {**parameters, **self._constants}
        return {f"network.{name}": value.detach() for name, value in merged.items()}

    def _losses_of_all(self, state: Tensors, batch: Batch, draws: Tensors) -> Any:
        def one(state: Tensors, batch: Batch, draws: Tensors) -> Any:
            return functional_call(self._caller, state, (self._algorithm.loss, batch, draws))

        return vmap(one)(state, batch, draws)

    def backward(self, batch: Batch, draws: list[Tensors], share: float, scales: torch.Tensor | None) -> Tensors:
        """Differentiate the sum of the members' losses: none depends on another's parameters."""
        config = self._algorithm.config
        stacked_draws = {name: torch.stack([drawn[name] for drawn in draws]) for name in draws[0]}
        with compile_errors(config.compile):
            with autocast(config.precision, self._losses.device):
                losses, metrics = self._compute(self._state, batch, stacked_draws)
            weighted = losses if share == 1.0 else losses * share
            total = (weighted if scales is None else weighted * scales).sum()
            # Not by backward(): autograd would warn of leaves that are strided over the rows.
            gradients = torch.autograd.grad(total, self._leaves, allow_unused=True, materialize_grads=True)
        torch._foreach_add_(self._leaf_gradients, gradients)  # pyright: ignore[reportPrivateImportUsage]
        self._losses.add_(weighted.detach())
        return _plain(losses, metrics)

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


def part_of(batch: Batch, index: int | tuple[slice | None, ...]) -> Batch:
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


def _plain(loss: torch.Tensor, metrics: Tensors) -> Tensors:
    """Return the metrics without their graph, in float32."""
    return {name: value.detach().float() for name, value in {"actor_loss": loss, **metrics}.items()}
