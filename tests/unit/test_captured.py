"""What surrounds recorded steps and data on the device, with recordings that are the function itself: on the CPU."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from tests.unit.small_packs import batch, make, pack_of, train

from understudy.envs.store.store import EpisodeStore
from understudy.envs.windows.resident import Resident
from understudy.envs.windows.windows import Windows
from understudy.errors import SpecError
from understudy.spec.data import DataSpec
from understudy.spec.keys import build_run
from understudy.spec.learning import Sampling
from understudy.trainables.loops.batches import check_resident
from understudy.trainables.packs.captured import Captured, Function, check_capture
from understudy.trainables.packs.pack import Pack
from understudy.trainables.packs.precision import check_precision, tf32
from understudy.trainables.packs.runners import Mode, Tensors

CPU = torch.device("cpu")
recorded: list[int] = []


def again(function: Function, inputs: Sequence[torch.Tensor]) -> tuple[Tensors, Function]:
    """Record as a graph would: inputs are copied into memory of its own, and results come out of such memory."""
    held = [value.clone() for value in inputs]
    outputs = function(held)
    recorded.append(1)

    def replay(values: Sequence[torch.Tensor]) -> Tensors:
        for own, value in zip(held, values, strict=True):
            own.copy_(value)
        for name, value in function(held).items():
            outputs[name].copy_(value)
        return {name: value.clone() for name, value in outputs.items()}

    return replay(inputs), replay


def captured(pack: Pack) -> Pack:
    assert isinstance(pack._running.runner, Captured)
    pack._running.runner = Captured(pack._running.runner._runner, len(pack), again)
    return pack


@pytest.mark.parametrize("mode", ["loop", "vmap"])
@pytest.mark.parametrize("settings", [{}, {"ema_rate": 0.1, "grad_clip": 1.0}, {"grad_accumulation": 3}])
def test_replayed_steps_are_the_steps_to_the_bit_and_are_recorded_once(settings, mode: Mode) -> None:
    plain, replayed = (pack_of(make(**settings), 3, 4, mode=mode) for _ in range(2))
    recorded.clear()
    assert train(plain, 1, 5) == train(captured(replayed), 1, 5)
    assert torch.equal(plain.parameters, replayed.parameters)
    assert len(recorded) == ("grad_accumulation" not in settings)


def test_a_recording_keeps_nothing_of_the_callers_and_gives_nothing_away() -> None:
    pack = captured(pack_of(make(), 3))
    given = batch(make(), 1)
    first = pack.update(given, 1)
    before = {name: value.clone() for name, value in first.items()}
    held = {name: value.clone() for name, value in given.items()}  # type: ignore[union-attr]
    pack.update(batch(make(), 2), 2)
    assert all(torch.equal(first[name], value) for name, value in before.items())
    assert all(torch.equal(given[name], value) for name, value in held.items())


def test_batches_of_other_sizes_and_of_some_members_are_taken_too() -> None:
    plain, replayed = pack_of(make(), 3, 4), captured(pack_of(make(), 3, 4))
    for pack in (plain, replayed):
        pack.update(batch(make(), 1, 2), 1)
        pack.update(batch(make(), 2, 1), 2, members=[1])
        pack.update({name: value[:, :5] for name, value in batch(make(), 3, 2).items()}, 3)
    assert torch.equal(plain.parameters, replayed.parameters)


def test_what_needs_a_gpu_is_refused_without_one_in_one_line() -> None:
    with pytest.raises(SpecError, match="cuda_graphs=true needs device=cuda, not cpu"):
        check_capture(True, CPU)
    with pytest.raises(SpecError, match="cuda_graphs=true needs device=cuda"):
        Pack(make(), [0], captures=True)
    with pytest.raises(SpecError, match="precision=tf32 is for device=cuda, not cpu"):
        check_precision("tf32", CPU)
    with pytest.raises(SpecError, match="precision=tf32"):
        Pack(make(precision="tf32"), [0])


def test_tf32_holds_in_its_block_alone() -> None:
    before = torch.backends.cuda.matmul.allow_tf32
    with tf32("tf32"):
        assert torch.backends.cuda.matmul.allow_tf32
    assert torch.backends.cuda.matmul.allow_tf32 == before
    with tf32("bf16"):
        assert torch.backends.cuda.matmul.allow_tf32 == before


@pytest.mark.parametrize(
    ("data", "sampling"),
    [
        ({}, Sampling(horizon=4)),
        ({"obs_horizon": 3}, Sampling(horizon=1)),
        ({}, Sampling(horizon=3, transitions=True, columns=("rewards",))),
        ({"dataset_proportion": 0.5}, Sampling(horizon=2)),
    ],
)
def test_batches_that_are_gathered_on_the_device_are_those_of_the_store(hopper_data, data, sampling) -> None:
    windows = Windows(EpisodeStore.open(hopper_data / "hopper-medium-v2"), DataSpec(**data), sampling)
    resident = Resident(windows, CPU)
    for step, world in ((1, 1), (70, 2)):
        expected = windows.sample([3, 4], step, 16, world - 1, world)
        found = resident.sample([3, 4], step, 16, world - 1, world)
        assert found.keys() == expected.keys()
        assert all(torch.equal(found[name], value) for name, value in expected.items())


def test_goals_and_loaders_are_refused_beside_data_on_the_device(hopper_data) -> None:
    store = EpisodeStore.open(hopper_data / "hopper-medium-v2")
    with pytest.raises(SpecError, match=r"goals .uniform. are drawn anew"):
        check_resident(build_run({}), Windows(store, DataSpec(goal_relabelling="uniform")))
    with pytest.raises(SpecError, match="loader_workers=2 changes nothing"):
        check_resident(build_run({"loader_workers": 2, "data_on_device": True}), Windows(store))
