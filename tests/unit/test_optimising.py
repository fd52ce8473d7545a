"""Learning rates, moving averages, parts of a batch, precisions and loss scales: against formulas and plain loops.

Shapes: K members, B samples.
"""

from __future__ import annotations

import copy
import math
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from understudy.algorithm import Batch
from understudy.errors import SpecError, TrainingDiverged
from understudy.randomness import torch_generator
from understudy.trainables.agent import Agent
from understudy.trainables.flow_bc import FlowBC, FlowBCConfig
from understudy.trainables.modes import Mode
from understudy.trainables.optimising import SMALLEST_SCALE, Schedule
from understudy.trainables.pack import Pack

OBSERVATION, ACTION, SAMPLES, END = 5, 3, 12, 8
PICTURE = {"state": (OBSERVATION,), "front": (8, 8, 3)}
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


def make(**settings: Any) -> FlowBC:
    """Return a small flow_bc, of pictures and states where it has an encoder."""
    shape = PICTURE if "encoder" in settings else (OBSERVATION,)
    return FlowBC(shape, ACTION, FlowBCConfig(**{"hidden_dims": (16, 16), "lr": 1e-3, **settings}))


def batch(algorithm: FlowBC, step: int, members: int = 1) -> Batch:
    """Return the batch of a step, the same for every member."""
    random = torch_generator(0, "optimising test", step)
    state = torch.randn(1, SAMPLES, OBSERVATION, generator=random).repeat(members, 1, 1)
    actions = torch.rand(1, SAMPLES, 1, ACTION, generator=random).repeat(members, 1, 1, 1) * 2 - 1
    pictures = torch.randint(0, 256, (1, SAMPLES, 8, 8, 3), generator=random, dtype=torch.uint8)
    pixels = {"state": state, "front": pictures.repeat(members, 1, 1, 1, 1)}
    seen = pixels if isinstance(algorithm.observation_shape, dict) else state
    return {"observations": seen, "actions": actions, "valid": torch.ones(members, SAMPLES, 1)}


def pack_of(algorithm: FlowBC, *seeds: int, **facts: Any) -> Pack:
    """Return a pack whose run has END steps; with fp16 its scales grow after two good steps."""
    pack = Pack(algorithm, seeds or [0], training_steps=END, **facts)
    for scaler in pack._optimiser._scalers:
        scaler.set_growth_interval(2)
    return pack


def train(pack: Pack, first: int, last: int) -> list[dict[str, list[float]]]:
    """Train steps first..last; return each step's metrics."""
    rows = []
    for step in range(first, last + 1):
        metrics = pack.update(batch(pack.algorithm, step, len(pack)), step)  # type: ignore[arg-type]
        rows.append({name: value.tolist() for name, value in metrics.items()})
    return rows


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
    together = pack_of(make(**settings), 3, 4, learning_rates=[1e-3, 2e-3])
    rows = train(together, 1, 5)
    for index, seed in enumerate((3, 4)):
        alone = pack_of(make(**settings), seed, learning_rates=[(index + 1) * 1e-3])
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
        data, draws = plain._prepare(batch(algorithm, step)), plain._draw(SAMPLES, step)
        optimiser.zero_grad()
        plain.algorithm.loss(plain.members[0], {k: v[0] for k, v in data.items()}, draws[0])[0].backward()
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
        ({"precision": "fp8"}, "'float32', 'bf16' or 'fp16'"),
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
        data, draws = plain._prepare(batch(algorithm, step)), plain._draw(SAMPLES, step)
        one = {**{k: v[0] for k, v in data.items() if k != "observations"}}
        one["observations"] = {name: part[0] for name, part in data["observations"].items()}
        optimiser.zero_grad()
        plain.algorithm.loss(plain.members[0], one, draws[0])[0].backward()
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
        torch.testing.assert_close(whole._gradients, parts._gradients, rtol=1e-4, atol=1e-6)
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

        whole = pack._runner.backward

        def counted(*arguments: Any) -> Any:
            sizes.clear()
            with torch.autograd.graph.saved_tensors_hooks(saved, lambda tensor: tensor):
                result = whole(*arguments)
            kept.append(sum(sizes))
            return result

        pack._runner.backward = counted  # type: ignore[method-assign]
        pack.update(data, 1)
        return max(kept)

    assert peak(8) < peak(1) / 3


# ---- precisions ----


@pytest.mark.parametrize(("precision", "rounding"), [("bf16", 2e-2), ("fp16", 4e-3)])
def test_a_half_precision_is_used_and_follows_float32(precision: str, rounding: float) -> None:
    exact, rounded = pack_of(make()), pack_of(make(precision=precision))
    losses = [[row["actor_loss"][0] for row in train(pack, 1, END)] for pack in (exact, rounded)]
    np.testing.assert_allclose(losses[1], losses[0], rtol=rounding)
    assert losses[1] != losses[0]
    assert rounded.parameters.dtype == torch.float32


def test_a_precision_that_the_device_lacks_is_refused_in_one_line() -> None:
    with pytest.raises(SpecError, match="precision=bf16 does not work on device=meta") as caught:
        Pack(make(precision="bf16"), [0], device="meta")
    assert "\n" not in str(caught.value)


def overflowing(algorithm: FlowBC, step: int, members: int = 1) -> Batch:
    """Return a batch whose last member's states are beyond fp16's 65504, so that its loss is not finite."""
    data = batch(algorithm, step, members)
    data["observations"][-1] *= 1e6
    return data


@pytest.mark.parametrize("mode", ["loop", "vmap"])
def test_an_overflow_skips_the_step_of_that_member_alone_and_halves_its_scale(mode: Mode) -> None:
    pack, alone = pack_of(make(precision="fp16"), 3, 4, mode=mode), pack_of(make(precision="fp16"), 3, mode=mode)
    train(pack, 1, 1)
    train(alone, 1, 1)
    before, saved = pack.parameters.clone(), copy.deepcopy(pack.member_state(1)["optimiser"])
    metrics = pack.update(overflowing(make(), 2, 2), 2)
    train(alone, 2, 2)
    assert metrics["loss_scale"].tolist() == [2.0**17, 2.0**15]  # two good steps in a row double it
    assert not metrics["actor_loss"][1].isfinite()
    assert torch.equal(pack.parameters[1], before[1])
    torch.testing.assert_close(pack.parameters[0], alone.parameters[0], rtol=1e-3, atol=1e-6)
    assert not torch.equal(pack.parameters[0], before[0])
    state = pack.member_state(1)["optimiser"]
    assert state["step"] == saved["step"] == 1
    assert all(torch.equal(value, saved["exp_avg"][name]) for name, value in state["exp_avg"].items())
    rows = train(pack, 3, 4)
    assert rows[1]["loss_scale"] == [2.0**18, 2.0**16]
    assert not torch.equal(pack.parameters[1], before[1])


def test_a_state_saved_after_an_overflow_goes_on_with_its_scale() -> None:
    whole, after = (pack_of(make(precision="fp16")) for _ in range(2))
    whole.update(overflowing(make(), 1), 1)
    train(whole, 2, 2)
    after.load_member_state(0, whole.member_state(0))
    assert train(after, 3, 6) == train(whole, 3, 6)
    assert torch.equal(after.parameters, whole.parameters)


def test_an_overflow_without_end_is_divergence() -> None:
    pack = pack_of(make(precision="fp16"), 5)
    with pytest.raises(TrainingDiverged, match="seed 5 stopped being finite at step 27"):
        for step in range(1, 100):
            pack.update(overflowing(make(), step), step)
    assert SMALLEST_SCALE == 2.0**16 / 2**26


class Tiny(FlowBC):
    """flow_bc with a loss so small that fp16 cannot hold its gradients."""

    def loss(self, *arguments: Any) -> Any:
        """Return a millionth of the loss."""
        loss, metrics = super().loss(*arguments)
        return loss * 1e-6, metrics


def test_the_scale_saves_gradients_that_fp16_would_lose() -> None:
    shape, settings = ((OBSERVATION,), ACTION), {"hidden_dims": (16, 16)}
    scaled, exact = (Pack(Tiny(*shape, FlowBCConfig(precision=p, **settings)), [0]) for p in ("fp16", "float32"))  # type: ignore[arg-type]
    for pack in (scaled, exact):
        pack.update(batch(make(), 1), 1)
    gradients = [pack._gradients[0, : pack.layout.size] for pack in (scaled, exact)]
    assert torch.cosine_similarity(*gradients, dim=0) > 0.999
    torch.testing.assert_close(gradients[0].norm(), gradients[1].norm(), rtol=1e-2, atol=0.0)

    member = scaled.members[0]
    member.zero_grad()
    data = {name: value[0] for name, value in scaled._prepare(batch(make(), 1)).items()}
    with torch.autocast("cpu", torch.float16):
        scaled.algorithm.loss(member, data, scaled._draw(SAMPLES, 1)[0])[0].backward()
    lost = sum(parameter.grad.count_nonzero() for parameter in member.parameters() if parameter.grad is not None)
    assert lost < (gradients[0] != 0).sum() / 2


def test_gradients_are_clipped_after_they_are_unscaled() -> None:
    scaled, exact = (pack_of(make(precision=p, grad_clip=0.1)) for p in ("fp16", "float32"))
    norms = [train(pack, 1, 1)[0]["grad_norm"][0] for pack in (scaled, exact)]
    assert norms[0] == pytest.approx(norms[1], rel=1e-2)
    assert scaled._gradients[0, : scaled.layout.size].norm() == pytest.approx(0.1, rel=1e-3)


# ---- torch.compile ----


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["loop", "vmap"])
def test_a_compiled_loss_follows_the_plain_one_and_resumes_bit_for_bit(mode: Mode) -> None:
    plain, whole, after = (pack_of(make(compile=on), 3, 4, mode=mode) for on in (False, True, True))
    rows = train(plain, 1, 4)
    for row, other in zip(rows, train(whole, 1, 4), strict=True):
        np.testing.assert_allclose(row["actor_loss"], other["actor_loss"], rtol=1e-4)
    for k in range(2):
        after.load_member_state(k, whole.member_state(k))
    assert train(whole, 5, 6) == train(after, 5, 6)
    assert torch.equal(whole.parameters, after.parameters)


@pytest.mark.slow
def test_a_compiled_member_equals_the_seed_alone() -> None:
    together, alone = pack_of(make(compile=True), 3, 4), pack_of(make(compile=True), 4)
    train(together, 1, 3)
    train(alone, 1, 3)
    assert torch.equal(together.parameters[1], alone.parameters[0])


@pytest.mark.slow
def test_what_cannot_be_compiled_is_said_in_one_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    import torch._inductor.config as inductor

    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(inductor.cpp, "cxx", (None, "/nonexistent/compiler"))
    monkeypatch.setattr(inductor, "force_disable_caches", True)
    with pytest.raises(SpecError, match=r"compile=true: .*(compiler|Compiler)") as caught:
        pack_of(make(compile=True, hidden_dims=(24,))).update(batch(make(), 1), 1)
    assert "\n" not in str(caught.value)
