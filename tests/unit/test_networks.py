"""Networks: activation, initial weights, time features, vector field."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch.nn import functional

from understudy.randomness import torch_generator
from understudy.spec.parts import Vision
from understudy.trainables.networks.mlp import MLP, FourierFeatures, VectorField, gelu
from understudy.trainables.networks.observation import ObservationEncoder


def generator() -> torch.Generator:
    return torch_generator(0, "test networks")


def activation() -> MLP:
    """Return one unit of weight 1 and bias 0: its output is the activation of its input."""
    unit = MLP(1, (1,), generator(), activate_final=True)
    torch.nn.init.ones_(next(unit.parameters()))
    return unit


def values() -> torch.Tensor:
    """Return numbers in [-30, 30] and extremes where an exponential could overflow, [20004, 1]."""
    extremes = torch.tensor([-1e4, -100.0, 100.0, 1e4])
    return torch.cat((torch.linspace(-30, 30, 20000), extremes))[:, None]


def test_the_activation_and_its_slope_are_tanh_gelu_to_a_millionth() -> None:
    x, exact = values().requires_grad_(), values().double().requires_grad_()
    expected = functional.gelu(exact, approximate="tanh")
    measured = activation()(x)
    # Relative to max(1, |x|): far out GELU is x itself, whose float32 spacing grows with it.
    error = (measured.double() - expected).abs() / exact.abs().clamp(min=1)
    assert error.max() < 1e-6
    (slope,) = torch.autograd.grad(measured.sum(), x)
    (expected_slope,) = torch.autograd.grad(expected.sum(), exact)
    torch.testing.assert_close(slope.double(), expected_slope, rtol=0, atol=2e-6)


def test_acting_computes_the_activation_that_training_computes() -> None:
    training = activation()(values())
    with torch.inference_mode():
        assert torch.equal(activation()(values()), training)
        assert torch.equal(gelu(values()), training)


@pytest.mark.parametrize("activate_final", [False, True])
def test_an_mlp_and_its_gradients_are_those_of_plain_torch_layers(activate_final: bool) -> None:
    mlp = MLP(7, (40, 30, 20), generator(), activate_final=activate_final)
    for index, parameter in enumerate(mlp.parameters()):
        torch.nn.init.normal_(parameter, std=0.5, generator=torch_generator(0, "test", index))
    x = torch.randn(50, 7, generator=generator(), requires_grad=True)
    hidden = x
    for index, layer in enumerate(mlp.layers):
        hidden = layer(hidden)
        hidden = functional.gelu(hidden, approximate="tanh") if index < 2 or activate_final else hidden
    expected = torch.autograd.grad(hidden.square().mean(), [x, *mlp.parameters()])
    measured = mlp(x)
    torch.testing.assert_close(measured, hidden, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(
        torch.autograd.grad(measured.square().mean(), [x, *mlp.parameters()]), expected, rtol=1e-4, atol=1e-5
    )


def test_an_mlp_stacks_under_vmap() -> None:
    members = [MLP(7, (40, 20), torch_generator(seed, "test")) for seed in range(3)]
    x = torch.randn(3, 50, 7, generator=generator())
    state, _ = torch.func.stack_module_state([*members])

    def loss(parameters: dict[str, torch.Tensor], x: torch.Tensor) -> torch.Tensor:
        return torch.func.functional_call(members[0], parameters, (x,)).square().mean()

    measured = torch.func.vmap(torch.func.grad(loss))(state, x)
    for index, member in enumerate(members):
        expected = torch.autograd.grad(member(x[index]).square().mean(), list(member.parameters()))
        torch.testing.assert_close([value[index] for value in measured.values()], list(expected))


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
    encoder = ObservationEncoder((6,), Vision(), generator())
    field = VectorField(encoder, 10, (32, 32), generator(), fourier_features=fourier)
    observations, x = torch.randn(9, 6, generator=generator()), torch.randn(9, 10, generator=generator())
    measured = field.integrate(field.encoder(observations), x, 7)
    for step in range(7):
        x = x + field(observations, x, torch.full((9, 1), step / 7)) / 7
    torch.testing.assert_close(measured, x, rtol=1e-4, atol=1e-5)
