"""bf16, fp16 with its loss scales, and torch.compile: they are used, overflows skip, and state comes back."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch
from tests.unit.small_packs import ACTION, END, OBSERVATION, SAMPLES, batch, make, pack_of, train

from understudy.algorithm import Batch
from understudy.errors import SpecError, TrainingDiverged
from understudy.trainables.algorithms.flow_bc import FlowBC, FlowBCConfig
from understudy.trainables.packs.optimiser import SMALLEST_SCALE
from understudy.trainables.packs.pack import Pack
from understudy.trainables.packs.runners import Mode


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
    gradients = [pack._networks.gradients[0, : pack.layout.size] for pack in (scaled, exact)]
    assert torch.cosine_similarity(*gradients, dim=0) > 0.999
    torch.testing.assert_close(gradients[0].norm(), gradients[1].norm(), rtol=1e-2, atol=0.0)

    member = scaled.members[0]
    member.zero_grad()
    data = {name: value[0] for name, value in scaled._inputs.prepare(batch(make(), 1)).items()}
    with torch.autocast("cpu", torch.float16):
        scaled.algorithm.loss(member, {}, data, scaled._draw(SAMPLES, 1)[0])[0].backward()
    lost = sum(parameter.grad.count_nonzero() for parameter in member.parameters() if parameter.grad is not None)
    assert lost < (gradients[0] != 0).sum() / 2


def test_gradients_are_clipped_after_they_are_unscaled() -> None:
    scaled, exact = (pack_of(make(precision=p, grad_clip=0.1)) for p in ("fp16", "float32"))
    norms = [train(pack, 1, 1)[0]["grad_norm"][0] for pack in (scaled, exact)]
    assert norms[0] == pytest.approx(norms[1], rel=1e-2)
    assert scaled._networks.gradients[0, : scaled.layout.size].norm() == pytest.approx(0.1, rel=1e-3)


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
    # By torch's own means: what monkeypatch puts back of its settings is gone for all later tests of the process.
    uncached = torch.compiler.config.patch(force_disable_caches=True)
    without = inductor.patch({"cpp.cxx": (None, "/nonexistent/compiler")})
    with uncached, without, pytest.raises(SpecError, match=r"compile=true: .*(compiler|Compiler)") as caught:
        pack_of(make(compile=True, hidden_dims=(24,))).update(batch(make(), 1), 1)
    assert "\n" not in str(caught.value)


@pytest.mark.gpu
@pytest.mark.parametrize("settings", [{"precision": "bf16"}, {"precision": "fp16"}, {"compile": True}], ids=str)
def test_on_the_gpu_a_stacked_pack_follows_a_looped_one(settings: dict[str, Any]) -> None:
    modes: tuple[Mode, ...] = ("loop", "vmap")
    packs = [Pack(make(**settings), [3, 4], device="cuda", mode=mode) for mode in modes]
    first, second = ([row["actor_loss"] for row in train(pack, 1, 4)] for pack in packs)
    np.testing.assert_allclose(first, second, rtol=1e-2)
