"""Packs: memory layout, rates of their own, workers, divergence. What holds for every algorithm is a contract test."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from understudy.errors import TrainingDiverged
from understudy.normaliser import Normaliser
from understudy.randomness import torch_generator
from understudy.trainables.algorithms.flow_bc import FlowBC, FlowBCConfig
from understudy.trainables.packs.inputs import ACTION_LIMIT
from understudy.trainables.packs.pack import Pack
from understudy.trainables.packs.runners import Mode

WORKER = Path(__file__).with_name("pack_worker.py")


def load_worker() -> Any:
    """Import the worker script, which is no module of a package."""
    spec = importlib.util.spec_from_file_location("pack_worker", WORKER)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


worker = load_worker()


def run_workers(folder: Path) -> list[tuple[int, str]]:
    """Run two worker processes to their end; return each one's exit code and what it wrote to stderr."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parents[2] / "platform")}
    started = []
    for rank in range(2):
        command = [sys.executable, str(WORKER), str(rank), "2", str(folder / "meet"), str(folder / f"{rank}.pt")]
        started.append(subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment))
    try:
        errors = [process.communicate(timeout=600)[1] for process in started]
    finally:
        for process in started:
            process.kill()
    return [(process.returncode, error) for process, error in zip(started, errors, strict=True)]


@pytest.fixture(scope="module")
def halves(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """What two workers, each on its half of every batch, made of each algorithm."""
    folder = tmp_path_factory.mktemp("workers")
    done = run_workers(folder)
    assert [code for code, _ in done] == [0, 0], done
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(2)]


@pytest.mark.parametrize("name", worker.SPLIT)
def test_two_workers_on_halves_of_the_batch_equal_one_on_the_whole(name: str, halves: list[dict[str, Any]]) -> None:
    first, second = (half[name] for half in halves)
    whole = worker.train(name)
    assert torch.equal(first["parameters"], second["parameters"])
    torch.testing.assert_close(first["parameters"], whole["parameters"], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(first["gradients"], whole["gradients"], rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(first["losses"], whole["losses"], rtol=1e-4, atol=1e-5)
    for index, drawn in enumerate(whole["draws"]):
        for key, value in drawn.items():
            assert torch.equal(torch.cat([half["draws"][index][key] for half in (first, second)]), value)


def test_a_nan_on_one_worker_stops_both_at_the_same_step(halves: list[dict[str, Any]]) -> None:
    for half in halves:
        assert "stopped being finite at step 5" in half["poisoned"]["error"]


def small(**settings: Any) -> FlowBC:
    return FlowBC((5,), 3, FlowBCConfig(hidden_dims=(24, 24), action_chunking=True, horizon_length=4, **settings))


def batch(members: int) -> dict[str, torch.Tensor]:
    one = {name: value[:1] for name, value in worker.share(small(), 1, 0, 1).items()}
    return {name: value.repeat(members, *[1] * (value.ndim - 1)) for name, value in one.items()}


def test_parameters_and_gradients_are_views_of_one_block_each() -> None:
    pack = Pack(small(), [0, 1])
    pack.update(batch(2), 1)
    for index, member in enumerate(pack.members):
        for name, parameter in member.named_parameters():
            assert parameter.data_ptr() % 64 == 0, name
            assert parameter.grad is not None
            offset = pack.layout.offsets[name]
            row = pack.parameters[index, offset : offset + parameter.numel()]
            assert row.data_ptr() == parameter.data_ptr()
            assert torch.equal(row.view_as(parameter), parameter)


def test_the_padding_between_parameters_stays_zero() -> None:
    pack = Pack(small(weight_decay=0.1), [0])
    for step in range(3):
        pack.update(batch(1), step)
    held = sum(parameter.numel() for parameter in pack.members[0].parameters())
    assert pack.layout.size > held
    assert (pack.parameters != 0).sum() <= held


def test_each_member_has_its_own_learning_rate_and_decay_and_equals_torch_adam() -> None:
    rates, decays = [1e-3, 1e-2], [0.0, 0.5]
    own = [{"lr": rate, "weight_decay": decay} for rate, decay in zip(rates, decays, strict=True)]
    pack = Pack(small(), [3, 3], own=own)
    plain = [Pack(small(), [3]) for _ in rates]
    optimisers = [
        torch.optim.Adam(plain[0].members[0].parameters(), lr=rates[0]),
        torch.optim.AdamW(plain[1].members[0].parameters(), lr=rates[1], weight_decay=decays[1]),
    ]
    for step in range(5):
        pack.update(batch(2), step)
        for alone, optimiser in zip(plain, optimisers, strict=True):
            data, draws = alone._inputs.prepare(batch(1)), alone._draw(worker.SAMPLES, step)
            optimiser.zero_grad()
            alone.algorithm.loss(alone.members[0], {}, {k: v[0] for k, v in data.items()}, draws[0])[0].backward()
            optimiser.step()
    for index, alone in enumerate(plain):
        torch.testing.assert_close(pack.parameters[index], alone.parameters[0], rtol=1e-5, atol=1e-6)


def test_observations_are_normalised_and_actions_clipped_before_the_loss() -> None:
    values = np.random.default_rng(0).normal(3.0, 2.0, size=(100, 5)).astype(np.float32)
    normaliser = Normaliser.fit(values, "zscore")
    prepared = Pack(small(), [0], normaliser=normaliser)._inputs.prepare(
        {
            "observations": torch.from_numpy(values)[None],
            "actions": torch.full((1, 100, 4, 3), 2.0),
            "valid": torch.ones(1, 100, 4),
        }
    )
    assert prepared["observations"].mean().abs() < 1e-5
    assert prepared["actions"].max() == np.float32(ACTION_LIMIT)


def test_the_callers_batch_is_not_changed() -> None:
    normaliser = Normaliser.fit(np.random.default_rng(0).normal(3.0, 2.0, size=(100, 5)).astype(np.float32), "zscore")
    given = batch(1)
    before = {name: value.clone() for name, value in given.items()}
    Pack(small(), [0], normaliser=normaliser).update(given, 1)
    assert all(torch.equal(given[name], before[name]) for name in given)


def test_pixels_reach_the_encoder_as_they_are() -> None:
    pack = Pack(FlowBC((8, 8, 3), 2, FlowBCConfig(encoder="impala_small", hidden_dims=(16,))), [0])
    pixels = torch.randint(0, 256, (1, 4, 8, 8, 3), dtype=torch.uint8)
    data = {"observations": pixels, "actions": torch.zeros(1, 4, 1, 2), "valid": torch.ones(1, 4, 1)}
    assert torch.equal(pack._inputs.prepare(data)["observations"], pixels)
    pack.update(data, 1)


def seen(members: int, samples: int, seed: int = 0) -> dict[str, Any]:
    """Return a batch of states, two cameras and a goal, with maps of saliency beside it."""
    random = torch_generator(seed, "pictures")
    pictures = {
        name: torch.randint(0, 256, (members, samples, 8, 8, channels), generator=random, dtype=torch.uint8)
        for name, channels in (("front", 6), ("wrist", 6), ("goal/front", 3), ("goal/wrist", 3))
    }
    states = {name: torch.randn(members, samples, size, generator=random) for name, size in PARTS.items()}
    return {
        "observations": {**states, **pictures},
        "actions": torch.rand(members, samples, 1, 2, generator=random) * 2 - 1,
        "valid": torch.ones(members, samples, 1),
        "saliency/front": torch.rand(members, samples, 8, 8, 1, generator=random),
    }


PARTS = {"state": 4, "goal/state": 3}


def of_pictures(**settings: Any) -> FlowBC:
    parts = {name: tuple(part.shape[2:]) for name, part in seen(1, 1)["observations"].items()}
    return FlowBC(parts, 2, FlowBCConfig(hidden_dims=(16,), encoder="impala_small", **settings))


def scaling() -> Normaliser:
    """Return a normaliser of both states and of the actions."""
    values = np.random.default_rng(0).normal(3.0, 2.0, size=(100, 4)).astype(np.float32)
    parts = {name: Normaliser.fit(values[:, :size], "zscore") for name, size in PARTS.items()}
    return Normaliser.of_parts(parts).with_actions(Normaliser.fit(values[:, :2], "bounds"))


def test_of_several_parts_the_states_and_the_actions_are_scaled_and_pictures_and_maps_pass() -> None:
    data, normaliser = seen(2, 6), scaling()
    assert normaliser.action is not None
    prepared = Pack(of_pictures(action_clip=False), [0, 1], normaliser=normaliser)._inputs.prepare(data)
    for name, part in data["observations"].items():
        of = normaliser.parts.get(name)
        expected = part if of is None else (part - of.shift) * of.scale
        torch.testing.assert_close(prepared["observations"][name], expected)
    torch.testing.assert_close(
        prepared["actions"], (data["actions"] - normaliser.action.shift) * normaliser.action.scale
    )
    assert torch.equal(prepared["saliency/front"], data["saliency/front"])


@pytest.mark.parametrize("mode", ["loop", "vmap"])
def test_acting_gives_actions_in_the_units_of_the_data(mode: Mode) -> None:
    normaliser = scaling()
    assert normaliser.action is not None
    pack, plain = (
        Pack(of_pictures(), [0, 1], normaliser=of, mode=mode)
        for of in (normaliser, Normaliser.of_parts(normaliser.parts))
    )
    observations, noise = seen(2, 3)["observations"], torch.zeros(2, 3, 1, 2)
    expected = plain.act(observations, noise) / normaliser.action.scale + normaliser.action.shift
    np.testing.assert_allclose(pack.act(observations, noise), expected, rtol=1e-5)


def test_a_stacked_pack_of_pictures_in_parts_follows_a_looped_one() -> None:
    modes: tuple[Mode, ...] = ("loop", "vmap")
    packs = [
        Pack(of_pictures(grad_accumulation=count), [0, 1], normaliser=scaling(), mode=mode)
        for mode in modes
        for count in (1, 3)
    ]
    losses = [[pack.update(seen(2, 6, step), step)["actor_loss"].tolist() for step in (1, 2)] for pack in packs]
    for other in losses[1:]:
        np.testing.assert_allclose(losses[0], other, rtol=1e-4)


@pytest.mark.parametrize("name", worker.SPLIT)
def test_every_algorithms_loss_is_a_mean_over_samples_so_a_batch_may_come_in_parts(name: str) -> None:
    packs = [Pack(worker.algorithm(name, grad_accumulation=count), worker.SEEDS) for count in (1, 3)]
    losses = [pack.update(worker.share(pack.algorithm, 1, 0, 1), 1)["actor_loss"].tolist() for pack in packs]
    np.testing.assert_allclose(losses[0], losses[1], rtol=1e-5)
    torch.testing.assert_close(packs[0]._networks.gradients, packs[1]._networks.gradients, rtol=1e-3, atol=1e-5)


def test_constants_of_the_network_are_saved_and_come_back() -> None:
    algorithm = FlowBC((32, 32, 3), 2, FlowBCConfig(hidden_dims=(16,), encoder="resnet18", ema_rate=0.5))
    pack, other = (Pack(algorithm, [0], mode="vmap") for _ in range(2))
    constants = {name: value for name, value in pack.members[0].named_buffers() if "running" in name}
    for value in constants.values():
        value.add_(0.5)  # as a file of pretrained weights would set them
    state = pack.member_state(0)
    assert constants.keys() <= state["buffers"].keys()
    other.load_member_state(0, state)
    held = other.weights(0)
    assert all(torch.equal(held[name], value) for name, value in constants.items())
    pixels, noise = torch.randint(0, 256, (1, 2, 32, 32, 3), dtype=torch.uint8), torch.zeros(1, 2, 1, 2)
    alike = Pack(algorithm, [0])
    alike.load_member_state(0, state)
    np.testing.assert_allclose(other.act(pixels, noise), alike.act(pixels, noise), atol=1e-5)


def test_divergence_seen_late_names_the_first_step_and_the_seed() -> None:
    pack = Pack(small(), [7, 8])
    pack.check_finite()
    bad = batch(2)
    bad["actions"][1] = float("nan")
    with pytest.raises(TrainingDiverged):
        pack.update(bad, 41)
    with pytest.raises(TrainingDiverged, match="seed 8 stopped being finite at step 41"):
        pack.check_finite()


def test_loading_a_member_leaves_the_others_alone() -> None:
    pack, other = Pack(small(), [0, 1]), Pack(small(), [5])
    pack.update(batch(2), 1)
    before = pack.parameters[0].clone()
    pack.load_member_state(1, other.member_state(0))
    assert torch.equal(pack.parameters[0], before)
    assert torch.equal(pack.parameters[1], other.parameters[0])


@pytest.mark.gpu
def test_a_pack_on_the_gpu_follows_the_one_on_the_cpu() -> None:
    losses = {}
    for device in ("cpu", "cuda"):
        algorithm = small()
        pack = Pack(algorithm, [0, 1, 2], device=device)
        drawn = [Pack(algorithm, [0, 1, 2])._draw(worker.SAMPLES, step) for step in range(20)]
        # The two devices' generators differ: the CPU's noise is given to both.
        pack._draw = lambda share, step, members=None, drawn=drawn, pack=pack: [  # type: ignore[method-assign]
            {name: value.to(pack.device) for name, value in member.items()} for member in drawn[step]
        ]
        losses[device] = [pack.update(batch(3), step)["actor_loss"].tolist() for step in range(20)]
    np.testing.assert_allclose(losses["cuda"], losses["cpu"], rtol=1e-3)
