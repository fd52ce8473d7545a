"""Learning rates, moving averages and batches in parts: against formulas and plain loops. What holds for all options.

Shapes: K members, B samples.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from tests.unit.small_packs import END, SAMPLES, batch, make, pack_of, train

from understudy.errors import SpecError
from understudy.trainables.algorithms.flow_bc import FlowBCConfig
from understudy.trainables.loops.agent import Agent
from understudy.trainables.packs.optimiser import Schedule
from understudy.trainables.packs.pack import Pack
from understudy.trainables.packs.runners import Mode

OPTIONS: dict[str, dict[str, Any]] = {
    "warm-up": {"warmup_steps": 4},
    "cosine": {"warmup_steps": 2, "lr_schedule": "cosine"},
    "average": {"ema_rate": 0.1},
    "parts": {"grad_accumulation": 5},
    "clipped": {"grad_clip": 0.1},
    "betas": {"adam_beta1": 0.5, "adam_beta2": 0.9, "adam_eps": 1e-3},
    "bf16": {"precision": "bf16"},
    "fp16": {"precision": "fp16"},
    "encoder": {"encoder": "impala_small", "encoder_lr": 1e-4},
    "all": {
        **{"warmup_steps": 2, "lr_schedule": "cosine", "ema_rate": 0.1, "grad_accumulation": 2, "grad_clip": 1.0},
        **{"precision": "fp16", "encoder": "impala_small", "encoder_lr": 1e-4},
    },
}
EACH_OPTION = pytest.mark.parametrize("settings", OPTIONS.values(), ids=OPTIONS)


# ---- what holds for every option ----


@EACH_OPTION
def test_going_on_from_a_saved_state_equals_never_having_stopped(settings: dict[str, Any], tmp_path: Any) -> None:
    whole, before, after = (pack_of(make(**settings), 3, 4) for _ in range(3))
    rows = train(whole, 1, END)
    train(before, 1, 3)
    torch.save([before.member_state(k) for k in range(2)], tmp_path / "members.pt")
    for index, state in enumerate(torch.load(tmp_path / "members.pt", weights_only=True)):
        after.load_member_state(index, state)
    assert train(after, 4, END) == rows[3:]
    assert torch.equal(whole.parameters, after.parameters)
    for name, value in whole.weights(1).items():
        assert torch.equal(value, after.weights(1)[name])


@EACH_OPTION
def test_a_member_equals_the_seed_alone_bit_for_bit(settings: dict[str, Any]) -> None:
    together = pack_of(make(**settings), 3, 4, own=[{"lr": 1e-3}, {"lr": 2e-3}])
    rows = train(together, 1, 5)
    for index, seed in enumerate((3, 4)):
        alone = pack_of(make(**settings), seed, own=[{"lr": (index + 1) * 1e-3}])
        alone_rows = train(alone, 1, 5)
        assert [{name: [values[index]] for name, values in row.items()} for row in rows] == alone_rows
        assert torch.equal(together.parameters[index], alone.parameters[0])


@EACH_OPTION
def test_stacked_members_follow_looped_ones(settings: dict[str, Any]) -> None:
    modes: tuple[Mode, ...] = ("loop", "vmap")
    looped, stacked = (Pack(make(**settings), [3, 4], training_steps=END, mode=mode) for mode in modes)
    first, second = train(looped, 1, 4), train(stacked, 1, 4)
    rounding = 5e-3 if "precision" in settings else 1e-5
    for row, other in zip(first, second, strict=True):
        for name in row:
            np.testing.assert_allclose(row[name], other[name], rtol=rounding, err_msg=name)
    observations = batch(looped.algorithm, 1, 2)["observations"]  # type: ignore[arg-type]
    noise = torch.zeros(2, SAMPLES, *looped.algorithm.noise_shape())
    np.testing.assert_allclose(looped.act(observations, noise), stacked.act(observations, noise), atol=2e-2)


def test_a_part_of_a_stacked_pack_acts_as_the_whole_does() -> None:
    pack = pack_of(make(), 0, 1, 2, mode="vmap")
    observations, noise = batch(make(), 1, 3)["observations"], torch.zeros(3, SAMPLES, *make().noise_shape())
    actions = pack.act(observations, noise)
    for chosen in ([0, 1], [2], [2, 0]):
        part = pack.act(observations[chosen], noise[chosen], chosen)
        np.testing.assert_allclose(part, actions[chosen], atol=1e-6)


# ---- learning rates ----


@pytest.mark.parametrize(("warmup", "end"), [(0, 10), (4, 10), (9, 10)])
def test_the_learning_rate_follows_the_closed_formula(warmup: int, end: int) -> None:
    config = FlowBCConfig(warmup_steps=warmup, lr_schedule="cosine")
    schedule = Schedule.of(config, end)
    for step in range(1, end + 5):
        if step <= warmup:
            expected = step / warmup
        else:
            expected = math.cos(math.pi / 2 * min(1, (step - warmup) / (end - warmup))) ** 2  # half-angle form
        assert schedule.factor(step) == pytest.approx(expected, abs=1e-15)
    assert schedule.factor(end) == schedule.factor(end + 100) == 0.0
    assert Schedule.of(FlowBCConfig(warmup_steps=warmup), end).factor(warmup + 1) == 1.0
    assert Schedule.of(FlowBCConfig(lr_schedule="cosine", decay_steps=5), end).factor(5) == 0.0


def test_a_scheduled_pack_equals_torch_adam_with_lambda_lr() -> None:
    algorithm = make(warmup_steps=3, lr_schedule="cosine", weight_decay=0.1)
    pack, plain = pack_of(algorithm), Pack(make(), [0])
    factors = [1 / 3, 2 / 3, 1.0, *(0.5 * (1 + math.cos(math.pi * done / 5)) for done in range(1, 6))]
    optimiser = torch.optim.AdamW(plain.members[0].parameters(), lr=1e-3, weight_decay=0.1)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda count: factors[min(count, END - 1)])
    rows = train(pack, 1, END)
    for step in range(1, END + 1):
        data, draws = plain._inputs.prepare(batch(algorithm, step)), plain._draw(SAMPLES, step)
        optimiser.zero_grad()
        plain.algorithm.loss(plain.members[0], {}, {k: v[0] for k, v in data.items()}, draws[0])[0].backward()
        optimiser.step()
        schedule.step()
    torch.testing.assert_close(pack.parameters, plain.parameters, rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose([row["lr"][0] for row in rows], np.multiply(factors, 1e-3), rtol=1e-12, atol=1e-15)


def test_a_constant_learning_rate_is_no_metric() -> None:
    assert train(pack_of(make()), 1, 1)[0].keys().isdisjoint({"lr", "loss_scale", "grad_norm"})


@pytest.mark.parametrize(
    ("settings", "steps", "said"),
    [
        ({"lr_schedule": "cosine"}, None, "decay_steps="),
        ({"lr_schedule": "cosine", "warmup_steps": 10}, 10, "warmup_steps=10 leaves none of the 10 steps"),
    ],
)
def test_a_cosine_without_room_is_refused_in_one_line(settings: dict[str, Any], steps: int | None, said: str) -> None:
    with pytest.raises(SpecError, match=said) as caught:
        Pack(make(**settings), [0], training_steps=steps)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"decay_steps": 5}, "is for lr_schedule=cosine"),
        ({"decay_steps": 5, "warmup_steps": 5, "lr_schedule": "cosine"}, "must exceed warmup_steps=5"),
        ({"grad_accumulation": 9, "batch_size": 8}, "exceeds batch_size=8"),
        ({"encoder_lr": 1e-4}, "need encoder="),
        ({"ema_rate": 0.0}, "greater than 0"),
        ({"precision": "fp8"}, "'float32', 'tf32', 'bf16' or 'fp16'"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        FlowBCConfig(**settings)


def test_an_agent_with_a_cosine_needs_its_end() -> None:
    with pytest.raises(SpecError, match="decay_steps="):
        Agent(make(lr_schedule="cosine"))
    agent = Agent(make(lr_schedule="cosine", decay_steps=4))
    data = {name: value[0] for name, value in batch(make(), 1).items()}
    assert [agent.update(data)["lr"] for _ in range(4)][-1] == 0.0


def test_encoder_and_rest_learn_with_rates_of_their_own_as_in_torch_adam() -> None:
    algorithm = make(encoder="impala_small", encoder_lr=1e-4, weight_decay=0.1, adam_beta1=0.8, adam_eps=1e-6)
    pack, plain = pack_of(algorithm), Pack(make(encoder="impala_small"), [0])
    named = dict(plain.members[0].named_parameters())
    groups: list[dict[str, Any]] = [
        {"params": [value for name, value in named.items() if name.startswith("encoder.")], "lr": 1e-4},
        {"params": [value for name, value in named.items() if not name.startswith("encoder.")], "lr": 1e-3},
    ]
    optimiser = torch.optim.AdamW(groups, weight_decay=0.1, betas=(0.8, 0.999), eps=1e-6)
    train(pack, 1, 5)
    for step in range(1, 6):
        data, draws = plain._inputs.prepare(batch(algorithm, step)), plain._draw(SAMPLES, step)
        one = {**{k: v[0] for k, v in data.items() if k != "observations"}}
        one["observations"] = {name: part[0] for name, part in data["observations"].items()}
        optimiser.zero_grad()
        plain.algorithm.loss(plain.members[0], {}, one, draws[0])[0].backward()
        optimiser.step()
    torch.testing.assert_close(pack.parameters, plain.parameters, rtol=1e-4, atol=1e-6)


def test_an_encoder_with_learning_rate_zero_stays_as_it_was_drawn() -> None:
    pack = pack_of(make(encoder="impala_small", encoder_lr=0.0, weight_decay=0.1))
    before = pack.weights(0)
    train(pack, 1, 3)
    moved = [name for name, value in pack.weights(0).items() if not torch.equal(value, before[name])]
    assert moved
    assert [name for name in moved if name.startswith("encoder.")] == []


# ---- the moving average ----


@pytest.mark.parametrize("mode", ["loop", "vmap"])
def test_the_average_that_acts_is_that_of_a_plain_loop(mode: Mode) -> None:
    rate, pack = 0.3, pack_of(make(ema_rate=0.3), 0, 1, mode=mode)
    expected = pack.parameters.double().clone()
    for step in range(1, 7):
        train(pack, step, step)
        expected = (1 - rate) * expected + rate * pack.parameters.double()
    averaged = Pack(make(), [0, 1], mode=mode)
    averaged.parameters.copy_(expected)
    for k in range(2):
        for name, value in averaged.weights(k).items():
            torch.testing.assert_close(pack.weights(k)[name], value, rtol=1e-5, atol=1e-7)
    observations, noise = batch(make(), 1, 2)["observations"], torch.zeros(2, SAMPLES, *make().noise_shape())
    np.testing.assert_allclose(pack.act(observations, noise), averaged.act(observations, noise), atol=1e-5)


def test_a_fork_may_begin_to_average() -> None:
    parent, fork = pack_of(make()), pack_of(make(ema_rate=0.5))
    train(parent, 1, 2)
    fork.load_member_state(0, parent.member_state(0))
    assert all(torch.equal(value, fork.weights(0)[name]) for name, value in parent.weights(0).items())


# ---- a batch in parts ----


@pytest.mark.parametrize("mode", ["loop", "vmap"])
@pytest.mark.parametrize("count", [2, 5, SAMPLES])
def test_a_batch_in_parts_equals_the_whole_up_to_rounding(count: int, mode: Mode) -> None:
    whole, parts = (pack_of(make(grad_accumulation=n), 0, 1, mode=mode) for n in (1, count))
    for step in range(1, 4):
        row, other = train(whole, step, step)[0], train(parts, step, step)[0]
        for name in row:
            np.testing.assert_allclose(row[name], other[name], rtol=1e-5, err_msg=name)
        torch.testing.assert_close(whole._networks.gradients, parts._networks.gradients, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(whole.parameters, parts.parameters, rtol=1e-4, atol=1e-6)


def test_a_batch_in_parts_needs_the_memory_of_one_part() -> None:
    kept: list[int] = []

    def peak(count: int) -> int:
        """Return the most numbers that one backward pass holds for its gradients."""
        pack = Pack(make(grad_accumulation=count, hidden_dims=(64, 64), batch_size=240), [0])
        data = {name: value.repeat(1, 20, *[1] * (value.ndim - 2)) for name, value in batch(make(), 1).items()}
        kept.clear()
        sizes: list[int] = []

        def saved(tensor: torch.Tensor) -> torch.Tensor:
            sizes.append(tensor.numel())
            return tensor

        whole = pack._running.runner.backward

        def counted(*arguments: Any) -> Any:
            sizes.clear()
            with torch.autograd.graph.saved_tensors_hooks(saved, lambda tensor: tensor):
                result = whole(*arguments)
            kept.append(sum(sizes))
            return result

        pack._running.runner.backward = counted  # type: ignore[method-assign]
        pack.update(data, 1)
        return max(kept)

    assert peak(8) < peak(1) / 3
