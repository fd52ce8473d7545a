"""What an update costs in operations and memory, which a busy machine does not change: a guard against slow code."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tests.unit.small_packs import batch, make, pack_of
from torch.utils._python_dispatch import TorchDispatchMode


class Counting(TorchDispatchMode):
    """Counts operations that reach torch's kernels, and the bytes of what they make anew."""

    def __init__(self) -> None:
        super().__init__()
        self.operations, self.bytes = 0, 0

    def __torch_dispatch__(self, function: Any, types: Any, arguments: Any = (), named: Any = None) -> Any:
        result = function(*arguments, **(named or {}))
        if function.is_view:
            return result
        self.operations += 1
        held = {one.data_ptr() for one in arguments if isinstance(one, torch.Tensor)}
        if isinstance(result, torch.Tensor) and result.data_ptr() not in held:
            self.bytes += result.nbytes
        return result


@pytest.mark.parametrize(
    ("settings", "operations"),
    [({}, 49), ({"grad_clip": 1.0, "warmup_steps": 10}, 58), ({"ema_rate": 0.1}, 50)],
    ids=["plain", "clipped", "averaged"],
)
def test_an_update_takes_no_more_operations_than_it_did(settings: dict[str, Any], operations: int) -> None:
    pack, data = pack_of(make(**settings), 0), batch(make(), 1)
    for step in (1, 2):
        pack.update(data, step)
    with Counting() as found:
        pack.update(data, 3)
    assert found.operations <= operations, "more operations an update: if that is meant, say what for in this test"
    assert found.bytes <= 14_000, "more memory an update"


def test_a_second_member_costs_what_the_first_one_does() -> None:
    counted = []
    for seeds in ((0,), (0, 1)):
        pack, data = pack_of(make(), *seeds), batch(make(), 1, len(seeds))
        pack.update(data, 1)
        with Counting() as found:
            pack.update(data, 2)
        counted.append(found.operations)
    assert counted[1] <= 2 * counted[0]
