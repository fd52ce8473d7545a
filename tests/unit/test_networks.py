"""Networks: activation, initial weights, time features, pixel encoders."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch.nn import functional

from understudy.errors import SpecError, UnknownName
from understudy.randomness import torch_generator
from understudy.trainables.networks import (
    ENCODERS,
    MLP,
    FourierFeatures,
    ImpalaEncoder,
    ObservationEncoder,
    ResidualStack,
    VectorField,
    gelu,
)


def generator() -> torch.Generator:
    return torch_generator(0, "test networks")


def values() -> torch.Tensor:
    """Return numbers in [-30, 30] and the extremes where an exponential could overflow."""
    extremes = torch.tensor([-1e4, -100.0, 100.0, 1e4])
    return torch.cat((torch.linspace(-30, 30, 20001), extremes)).requires_grad_()


def test_gelu_and_its_slope_are_the_tanh_form_to_a_millionth() -> None:
    x = values()
    exact = x.detach().double().requires_grad_()
    expected = functional.gelu(exact, approximate="tanh")
    measured = gelu(x)
    # Relative to max(1, |x|): far out GELU is x itself, whose float32 spacing grows with it.
    size = exact.detach().abs().clamp(min=1)
    assert ((measured.double() - expected).abs() / size).max() < 1e-6
    (slope,) = torch.autograd.grad(measured.sum(), x)
    (expected_slope,) = torch.autograd.grad(expected.sum(), exact)
    assert slope.isfinite().all()
    inner = exact.detach().abs() <= 30
    assert (slope.double() - expected_slope)[inner].abs().max() < 2e-6


def test_gelu_is_the_same_with_and_without_gradients_and_under_vmap() -> None:
    x = values()
    with torch.inference_mode():
        acting = gelu(x.detach())
    assert torch.equal(acting, gelu(x).detach())
    stacked = x.detach().view(5, -1)
    assert torch.equal(torch.func.vmap(gelu)(stacked).flatten(), acting)
    slopes = torch.func.vmap(torch.func.grad(gelu))(x.detach())
    (expected,) = torch.autograd.grad(gelu(x).sum(), x)
    torch.testing.assert_close(slopes, expected)


def test_weights_are_xavier_uniform_and_biases_zero() -> None:
    layer = MLP(300, (500,), generator()).layers[0]
    assert isinstance(layer, torch.nn.Linear)
    bound = math.sqrt(6 / 800)
    assert layer.weight.abs().max() <= bound
    assert layer.weight.std().item() == pytest.approx(bound / math.sqrt(3), rel=0.02)
    assert not layer.bias.any()


def test_time_features_are_cosines_then_sines_at_log_spaced_frequencies() -> None:
    time = 0.7
    features = FourierFeatures(64)(torch.tensor([[time]]))[0].numpy()
    frequencies = np.exp(-np.arange(32) * np.log(10000) / 31)
    expected = np.concatenate([np.cos(time * frequencies), np.sin(time * frequencies)])
    np.testing.assert_allclose(features, expected, atol=1e-6)


@pytest.mark.parametrize("fourier", [False, True])
def test_euler_with_the_observation_kept_out_of_the_loop_equals_plain_euler(fourier: bool) -> None:
    field = VectorField((6,), 10, (32, 32), generator(), fourier_features=fourier)
    observations, x = torch.randn(9, 6, generator=generator()), torch.randn(9, 10, generator=generator())
    measured = field.euler(observations, x, 7)
    for step in range(7):
        x = x + field(observations, x, torch.full((9, 1), step / 7)) / 7
    torch.testing.assert_close(measured, x, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("name", "convolutions"), [("impala_small", 9), ("impala", 15), ("impala_large", 15)])
def test_an_impala_encoder_has_its_published_size(name: str, convolutions: int) -> None:
    encoder = ImpalaEncoder((20, 17, 3), ENCODERS[name], generator())
    found = [module for module in encoder.modules() if isinstance(module, torch.nn.Conv2d)]
    assert len(found) == convolutions
    channels = ENCODERS[name].stacks[-1]
    dense = encoder.dense.layers[0]
    assert isinstance(dense, torch.nn.Linear)
    assert dense.in_features == 3 * 3 * channels  # 20 -> 10 -> 5 -> 3 and 17 -> 9 -> 5 -> 3
    pixels = torch.zeros(2, 20, 17, 3, dtype=torch.uint8)
    assert encoder(pixels).shape == (2, ENCODERS[name].width)


@pytest.mark.parametrize("side", [5, 6])
def test_pooling_pads_as_xla_does(side: int) -> None:
    stack = ResidualStack(1, 1, 0, generator())
    torch.nn.init.zeros_(stack.first.weight)
    stack.first.weight.data[0, 0, 1, 1] = 1.0  # the identity
    image = -torch.arange(float(side * side)).view(1, 1, side, side) - 1
    pooled = stack(image)[0, 0]
    # SAME: an odd side gets one extra row at both ends, an even side one at the end only.
    before = side % 2
    for row in range(math.ceil(side / 2)):
        low = max(0, 2 * row - before)
        assert pooled[row, row] == image[0, 0, low, low]


def test_an_unknown_encoder_names_the_closest_one() -> None:
    with pytest.raises(UnknownName, match="did you mean 'impala_small'"):
        ObservationEncoder((64, 64, 3), "impala_smal", generator())


def test_an_encoder_for_states_is_refused() -> None:
    with pytest.raises(SpecError, match=r"observations have shape \(17,\) and encoder is impala"):
        ObservationEncoder((17,), "impala", generator())
