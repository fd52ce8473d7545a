"""Numbers known beforehand: densities, diffusion schedules, exact denoisers, and two-mode data."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import distributions, nn

from understudy.errors import SpecError
from understudy.randomness import torch_generator
from understudy.registry import algorithms
from understudy.trainables.algorithms.bc import BC, BCConfig
from understudy.trainables.algorithms.ddpm_bc import DDPMBC, DDPMBCConfig, betas
from understudy.trainables.networks.likelihoods import log_probability
from understudy.trainables.packs.pack import Pack


def normal(*shape: int, purpose: str = "anchor") -> torch.Tensor:
    return torch.randn(shape, generator=torch_generator(0, purpose))


def test_the_gaussian_density_is_that_of_torch_distributions() -> None:
    mean, log_std, actions = normal(50, 4, 7), normal(50, 4, 7, purpose="std"), normal(50, 4, 7, purpose="actions")
    expected = distributions.Normal(mean, log_std.exp()).log_prob(actions).sum(-1)
    torch.testing.assert_close(log_probability(actions, mean, log_std), expected)


def test_the_squashed_density_is_that_of_torch_distributions() -> None:
    mean, log_std = normal(50, 4, 7), 0.3 * normal(50, 4, 7, purpose="std")
    actions = normal(50, 4, 7, purpose="actions").tanh().clamp(-0.99, 0.99)
    base = distributions.Normal(mean, log_std.exp())
    squashed = distributions.TransformedDistribution(base, [distributions.TanhTransform()])
    expected = squashed.log_prob(actions).sum(-1)
    torch.testing.assert_close(
        log_probability(actions, mean, log_std, tanh_squash=True), expected, rtol=1e-4, atol=1e-4
    )


def test_seven_dims_of_deviation_one_cost_half_the_squares_plus_the_known_constant() -> None:
    actions, mean = normal(20, 7), torch.zeros(20, 7)
    cost = -log_probability(actions, mean, torch.zeros(20, 7))
    torch.testing.assert_close(cost, 0.5 * actions.square().sum(-1) + 6.43257, rtol=1e-6, atol=1e-4)


@pytest.mark.parametrize("std", ["fixed", "global", "state"])
@pytest.mark.parametrize("squash", [False, True])
def test_a_gaussian_policy_of_each_kind_learns_and_acts_with_its_deviation(std: Any, squash: bool) -> None:
    config = BCConfig(hidden_dims=(32,), std=std, fixed_std=0.5, tanh_squash=squash, lr=1e-2)
    pack = Pack(BC((2,), 1, config), [0])
    observations = torch.zeros(1, 512, 2)
    actions = (0.3 + 0.1 * normal(1, 512, 1, 1)).clamp(-0.9, 0.9)
    for step in range(300):
        metrics = pack.update({"observations": observations, "actions": actions, "valid": torch.ones(1, 512, 1)}, step)
    drawn = pack.act(observations, normal(1, 512, 1, 1, purpose="act"))
    assert drawn.mean() == pytest.approx(0.3, abs=0.05)
    if std == "fixed":
        assert metrics["mean_std"].item() == pytest.approx(0.5)
    else:
        assert drawn.std() == pytest.approx(0.1, abs=0.03)


@pytest.mark.parametrize(
    ("schedule", "anchors"),
    [
        ("cosine", {0: 0.0080, 9: 0.1359, 19: 0.999}),
        ("vp", {0: 0.0172, 19: 0.3859}),
        ("linear", {0: 1e-4, 19: 2e-2}),
    ],
)
def test_diffusion_variances_are_the_published_ones(schedule: str, anchors: dict[int, float]) -> None:
    values = betas(schedule, 20)
    for index, value in anchors.items():
        assert values[index] == pytest.approx(value, abs=5e-5)
    assert (np.diff(values) > 0).all()


class ExactScore(nn.Module):
    """The noise that the best network predicts when every demonstrated action equals `action`."""

    def __init__(self, algorithm: DDPMBC, action: float) -> None:
        super().__init__()
        kept = np.cumprod(1 - betas(algorithm.config.beta_schedule, algorithm.config.diffusion_steps))
        self.kept, self.action = torch.tensor(kept, dtype=torch.float32), action

    def predict(self, x: torch.Tensor, time: torch.Tensor) -> torch.Tensor:
        kept = self.kept[time.long()]
        return (x - kept.sqrt() * self.action) / (1 - kept).sqrt()


@pytest.mark.parametrize("schedule", ["cosine", "vp"])
@pytest.mark.parametrize("sampler", ["ddpm", "ddim"])
@pytest.mark.parametrize("steps", [None, 1, 2, 7, 20])
def test_an_exact_denoiser_reaches_the_action_from_any_noise(
    schedule: Any, sampler: Any, steps: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = DDPMBCConfig(hidden_dims=(16,), beta_schedule=schedule, sampler=sampler, sampling_steps=steps)
    algorithm = DDPMBC((2,), 3, config)
    network, exact = algorithm.network(torch_generator(0, "x")), ExactScore(algorithm, 0.25)
    monkeypatch.setattr(network, "forward", lambda features, x, time: exact.predict(x, time))
    actions = algorithm.act(network, torch.zeros(40, 2), 0.3 * normal(40, *algorithm.noise_shape()))
    torch.testing.assert_close(actions, torch.full((40, 1, 3), 0.25), rtol=0, atol=1e-3)


def test_reverse_steps_end_at_zero_and_start_at_the_last() -> None:
    assert DDPMBCConfig().reverse_times() == list(range(19, -1, -1))
    assert DDPMBCConfig(sampling_steps=5).reverse_times() == [19, 14, 10, 5, 0]
    assert DDPMBCConfig(sampling_steps=1).reverse_times() == [19]


def test_more_sampling_steps_than_diffusion_steps_are_refused() -> None:
    with pytest.raises(ValueError, match="sampling_steps 21 exceeds diffusion_steps 20"):
        DDPMBCConfig(sampling_steps=21)


def test_pixels_without_an_encoder_are_refused_with_the_remedy() -> None:
    with pytest.raises(SpecError, match="encoder=impala, or one of impala_large, impala_small"):
        Pack(BC((64, 64, 3), 2), [0])


def two_modes(name: str, **settings: Any) -> np.ndarray:
    """Train on one observation whose demonstrated action is -0.8 or 0.8 with equal chance; return 400 actions."""
    kind = algorithms.get(name)
    pack = Pack(kind((1,), 1, kind.Config(hidden_dims=(64, 64), lr=3e-3, **settings)), [0])
    actions = torch.full((1, 256, 1, 1), 0.8)
    actions[:, ::2] = -0.8
    batch = {"observations": torch.zeros(1, 256, 1), "actions": actions, "valid": torch.ones(1, 256, 1)}
    for step in range(800):
        pack.update(batch, step)
    noise = normal(1, 400, *pack.algorithm.noise_shape(), purpose="act")
    return pack.act(torch.zeros(1, 400, 1), noise).reshape(-1)


@pytest.mark.parametrize(
    ("name", "settings"), [("flow_bc", {"flow_steps": 20}), ("ddpm_bc", {"ema_rate": 0.02, "dropout": 0.0})]
)
def test_a_generative_policy_keeps_both_modes(name: str, settings: dict[str, Any]) -> None:
    actions = two_modes(name, **settings)
    near = np.abs(np.abs(actions) - 0.8) < 0.2
    assert near.mean() > 0.9
    assert 0.4 < (actions > 0).mean() < 0.6


def test_squared_error_averages_the_modes_away() -> None:
    assert np.abs(two_modes("bc", policy="mse")).max() < 0.1


def test_the_largest_gradient_norm_is_kept_to() -> None:
    algorithm = DDPMBC((2,), 1, DDPMBCConfig(hidden_dims=(16,), grad_clip=1e-3))
    pack = Pack(algorithm, [0, 1])
    batch = {"observations": normal(2, 8, 2), "actions": normal(2, 8, 1, 1), "valid": torch.ones(2, 8, 1)}
    norms = pack.update(batch, 1)["grad_norm"]
    assert (norms > 1e-3).all()
    clipped = [
        math.sqrt(sum(float(p.grad.square().sum()) for p in m.parameters() if p.grad is not None)) for m in pack.members
    ]
    assert clipped == pytest.approx([1e-3, 1e-3], rel=1e-3)
