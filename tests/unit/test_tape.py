"""Functions written down as their operations: what a tape gives is what the function gives, or the function is kept."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch.nn import functional

from understudy.trainables.packs import graph
from understudy.trainables.packs.tape import Function, Tape, Tensors, tape

Inputs = Sequence[torch.Tensor]
weight = torch.randn(4, 3, generator=torch.Generator().manual_seed(0), requires_grad=True)
row = torch.zeros(12)


def numbers(seed: int, rows: int = 5) -> list[torch.Tensor]:
    random = torch.Generator().manual_seed(seed)
    return [torch.randn(rows, 3, generator=random), torch.randint(0, 4, (rows,), generator=random)]


def learns(inputs: Inputs) -> Tensors:
    """A loss with views, lists, in-place steps and entries picked by number, and its gradient into a row of memory."""
    x, labels = inputs
    logits = functional.linear(x, weight).mul_(1.5)
    low, high = logits.chunk(2, dim=1)
    loss = functional.cross_entropy(torch.cat((high, low), 1), labels) + weight[labels].square().mean()
    (gradient,) = torch.autograd.grad(loss, [weight])
    row.view(4, 3).copy_(gradient)
    return {"loss": loss.detach(), "largest": logits.detach().amax()}


def on_tape(function: Function, seed: int = 0) -> Function:
    """Return what is done from the third time on."""
    _, again = tape(function, numbers(seed))
    again(numbers(seed + 1))
    return again


def same(one: Tensors, other: Tensors) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def test_a_tape_gives_the_bits_of_its_function_for_other_inputs_and_weights() -> None:
    again = on_tape(learns)
    assert isinstance(again, Tape)
    assert again.proven
    for seed in (7, 8):
        with torch.no_grad():
            weight.add_(0.1 * seed)
        wanted, gradient = learns(numbers(seed)), row.clone()
        row.fill_(torch.nan)
        assert same(again(numbers(seed)), wanted)
        assert torch.equal(row, gradient)


def test_a_tape_makes_no_graph_and_does_not_change_what_it_gave() -> None:
    again = on_tape(learns)
    first = again(numbers(3))
    held = {name: value.clone() for name, value in first.items()}
    again(numbers(4))
    assert same(first, held)
    assert not any(value.requires_grad for value in first.values())


def test_only_what_is_needed_is_done_again() -> None:
    again = on_tape(lambda inputs: {"sum": inputs[0].sum()} if inputs[0].exp() is not None else {})
    with torch.profiler.profile() as seen:
        again(numbers(5))
    names = {event.key for event in seen.key_averages()}
    assert "aten::sum" in names
    assert "aten::exp" not in names


def test_inputs_that_share_memory_are_told_apart() -> None:
    def function(inputs: Inputs) -> Tensors:
        whole, first = inputs
        return {"difference": (whole[0] - first).abs().sum()}

    both = torch.randn(4, 3)
    _, again = tape(function, [both, both[0]])
    for first in (both[0], both[1], torch.ones(3)):
        assert same(again([both, first]), function([both, first]))
    assert isinstance(again, Tape)
    assert again.proven


def reads(inputs: Inputs) -> Tensors:
    x = inputs[0]
    return {"sum": x.sum() if x[0, 0].item() > 0 else -x.sum()}


def masks(inputs: Inputs) -> Tensors:
    x = inputs[0]
    return {"mean": x[x > 0].mean()}


def draws(inputs: Inputs) -> Tensors:
    return {"sum": (inputs[0] + torch.randn(3)).sum()}


@pytest.mark.parametrize("function", [reads, masks, draws])
def test_what_no_tape_can_hold_is_left_to_the_function(function: Function) -> None:
    _, again = tape(function, numbers(0))
    assert again is function


def test_what_depends_on_more_than_the_inputs_is_found_out_before_it_is_relied_on() -> None:
    counted = [0]

    def anneals(inputs: Inputs) -> Tensors:
        counted[0] += 1
        loss = inputs[0].sum() * counted[0]
        row[:1].copy_(loss)
        return {"loss": loss}

    _, again = tape(anneals, numbers(0))
    for time in (2, 3, 4):
        assert again(numbers(1))["loss"] == numbers(1)[0].sum() * time
        assert row[0] == numbers(1)[0].sum() * time
    assert isinstance(again, Tape)
    assert not again.proven


def kinds(inputs: Inputs) -> Tensors:
    """Operations with arguments of every kind: none, lists with and without entries, types, forms of memory, words."""
    x, labels = inputs
    largest, where = x.max(dim=1)
    parts = x.split([1, 2], dim=1)
    picked = x[:, labels.clamp(max=2)].to(torch.float64).clone(memory_format=torch.contiguous_format)
    whole = torch.full_like(x, 2).sum(dim=[]) + torch.nn.functional.gelu(x, approximate="tanh").std(unbiased=False)
    left = torch.where(x > 0, x, 0.0).to(torch.bfloat16).float().contiguous() @ x.T.contiguous()
    torch._foreach_copy_([row[:3], row[3:6]], [parts[0].sum(0).expand(3), x[0]])  # type: ignore[attr-defined]
    return {"largest": largest + where, "picked": picked, "whole": whole, "left": left, "one": x.new_ones(()) * 3}


def test_arguments_of_every_kind_are_taken_again() -> None:
    again = on_tape(kinds)
    assert isinstance(again, Tape)
    assert again.proven
    for seed in (3, 4):
        wanted, copied = kinds(numbers(seed)), row.clone()
        row.fill_(torch.nan)
        found = again(numbers(seed))
        assert same(found, wanted)
        assert [value.dtype for value in found.values()] == [value.dtype for value in wanted.values()]
        assert torch.equal(row[:6], copied[:6])


@pytest.mark.parametrize("where", ["written", "taken"])
def test_what_another_torch_cannot_do_again_is_left_to_the_function(where: str, monkeypatch: Any) -> None:
    def lacks(*given: Any) -> Any:
        raise RuntimeError("Unknown builtin op: aten::mm")

    if where == "written":
        monkeypatch.setattr(graph.script, "Graph", lacks)
    else:
        monkeypatch.setattr(graph.script, "_create_function_from_graph", lambda *given: lacks)
    _, again = tape(learns, numbers(0))
    for seed in (1, 2, 3):
        assert same(again(numbers(seed)), learns(numbers(seed)))
    assert not (isinstance(again, Tape) and again.proven)


def test_writing_a_tape_imports_no_compiler() -> None:
    known = set(sys.modules)
    tape(learns, numbers(0))
    assert not {"sympy", "torch._dynamo"} & (set(sys.modules) - known)
