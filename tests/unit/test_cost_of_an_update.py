"""What one update does, counted and not timed: a change that makes it do more has to say so here."""

from __future__ import annotations

import sys
from types import FrameType
from typing import Any

import pytest
import torch
from tests.unit.test_sac import batch as transitions
from tests.unit.test_sac import make as make_sac
from torch.profiler import ProfilerActivity, profile

from understudy.algorithm import Algorithm, Batch
from understudy.randomness import torch_generator
from understudy.trainables.algorithms.flow_bc import FlowBC, FlowBCConfig
from understudy.trainables.packs.pack import Pack

WRITTEN_DOWN = 8
"""Updates after which every step is done from its tape."""


def chunks(step: int) -> Batch:
    random = torch_generator(0, "cost", step)
    return {
        "observations": torch.randn(1, 64, 5, generator=random),
        "actions": torch.rand(1, 64, 4, 3, generator=random) * 2 - 1,
        "valid": torch.ones(1, 64, 4),
    }


def make_flow_bc() -> FlowBC:
    return FlowBC((5,), 3, FlowBCConfig(hidden_dims=(32, 32), action_chunking=True, horizon_length=4, batch_size=64))


def operations_and_allocations(pack: Pack, data: Batch, step: int) -> tuple[int, int]:
    """Return how many of ATen's operations an update calls, and how often it asks for memory."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as seen:
        pack.update(data, step)
    assert seen.profiler is not None
    results: Any = seen.profiler.kineto_results
    names = [(event.name(), event.nbytes()) for event in results.events()]
    operations = sum(name.startswith("aten::") for name, _ in names)
    return operations, sum(name == "[memory]" and size > 0 for name, size in names)


def calls(pack: Pack, data: Batch, step: int) -> int:
    """Return how many functions, of Python and of C, an update calls."""
    counted = 0

    def note(frame: FrameType, event: str, called: Any) -> None:
        nonlocal counted
        counted += event in ("call", "c_call")

    before = sys.getprofile()
    sys.setprofile(note)
    try:
        pack.update(data, step)
    finally:
        sys.setprofile(before)
    return counted


@pytest.mark.skipif(not torch.__version__.startswith("2.13."), reason="counted with torch 2.13")
@pytest.mark.parametrize(
    ("algorithm", "batch", "most"),
    [(make_flow_bc(), chunks, (170, 46, 180)), (make_sac(), transitions, (625, 172, 360))],
    ids=["flow_bc", "sac"],
)
def test_an_update_calls_no_more_operations_and_functions_and_asks_no_more_often_for_memory(
    algorithm: Algorithm, batch: Any, most: tuple[int, int, int]
) -> None:
    pack = Pack(algorithm, [0])
    for step in range(1, WRITTEN_DOWN + 1):
        pack.update(batch(step), step)
    found = (*operations_and_allocations(pack, batch(9), 9), calls(pack, batch(10), 10))
    assert all(count <= bound for count, bound in zip(found, most, strict=True)), f"{found}, at most {most}"
    assert all(count > bound / 2 for count, bound in zip(found, most, strict=True)), f"{found}: lower the bounds"
