"""flow_bc against a second implementation in float64 numpy, written from the formulas and sharing no code.

x_t = (1 - t) x_0 + t x_1; loss = mean((v(o, x_t, t) - (x_1 - x_0))^2 valid); Euler with t = i / n (arXiv 2507.07969).
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from understudy.randomness import numpy_generator, torch_generator
from understudy.trainables.algorithms.flow_bc import FlowBC, FlowBCConfig
from understudy.trainables.networks.mlp import VectorField

SAMPLES, OBSERVATION, ACTION, HORIZON = 64, 5, 3, 4
VARIANTS = [{}, {"use_fourier_features": True}, {"action_chunking": True, "horizon_length": HORIZON}]
Weights = dict[str, np.ndarray]


def velocity(weights: Weights, observations: np.ndarray, x: np.ndarray, t: np.ndarray, fourier: bool) -> np.ndarray:
    """Return v(o, x, t): an MLP of tanh-GELU layers over concat(o, x, time)."""
    if fourier:
        angles = t * np.exp(-np.arange(32) * np.log(10000.0) / 31)
        t = np.concatenate([np.cos(angles), np.sin(angles)], axis=1)
    hidden = np.concatenate([observations, x, t], axis=1)
    count = len(weights) // 2
    for layer in range(count):
        hidden = hidden @ weights[f"trunk.layers.{layer}.weight"].T + weights[f"trunk.layers.{layer}.bias"]
        if layer < count - 1:
            inner = np.sqrt(2 / np.pi) * (hidden + 0.044715 * hidden**3)
            hidden = 0.5 * hidden * (1 + np.tanh(inner))
    return hidden


def loss(weights: Weights, data: dict[str, np.ndarray], fourier: bool) -> float:
    """Return the flow-matching loss; actions [B, H, A], valid [B, H], noise [B, H * A], time [B, 1]."""
    actions = data["actions"].reshape(SAMPLES, -1)
    point = (1 - data["time"]) * data["noise"] + data["time"] * actions
    error = (velocity(weights, data["observations"], point, data["time"], fourier) - (actions - data["noise"])) ** 2
    return float((error.reshape(data["actions"].shape) * data["valid"][..., None]).mean())


def setting(settings: dict[str, Any]) -> tuple[FlowBC, VectorField, Weights, dict[str, np.ndarray]]:
    """Return algorithm, network, its weights in float64, and float64 data that float32 represents exactly."""
    algorithm = FlowBC((OBSERVATION,), ACTION, FlowBCConfig(hidden_dims=(32, 32), **settings))
    network = algorithm.network(torch_generator(0, "weights"))
    for parameter in network.parameters():  # zero biases would hide a missing one
        torch.nn.init.normal_(parameter, std=0.3, generator=torch_generator(0, "test", parameter.numel()))
    weights = {name: value.detach().double().numpy() for name, value in network.named_parameters()}
    random, shape = numpy_generator(0, "reference"), (SAMPLES, algorithm.chunk_length)
    data = {
        "observations": random.normal(size=(SAMPLES, OBSERVATION)),
        "actions": random.uniform(-1, 1, size=(*shape, ACTION)),
        # Without chunking there is no mask.
        "valid": random.integers(0, 2, size=shape) if algorithm.config.action_chunking else np.ones(shape),
        "noise": random.normal(size=(SAMPLES, algorithm.size)),
        "time": random.uniform(size=(SAMPLES, 1)),
    }
    return algorithm, network, weights, {k: v.astype(np.float32).astype(np.float64) for k, v in data.items()}


@pytest.mark.parametrize("settings", VARIANTS)
def test_the_loss_is_that_of_the_formula(settings: dict[str, Any]) -> None:
    algorithm, network, weights, data = setting(settings)
    tensors = {name: torch.tensor(value, dtype=torch.float32) for name, value in data.items()}
    measured, metrics = algorithm.loss(network, {}, tensors, tensors)
    assert measured.item() == pytest.approx(loss(weights, data, "use_fourier_features" in settings), rel=1e-5)
    assert metrics["bc_flow_loss"].item() == measured.item()


@pytest.mark.parametrize("settings", VARIANTS)
def test_the_gradient_is_that_of_finite_differences(settings: dict[str, Any]) -> None:
    algorithm, network, weights, data = setting(settings)
    fourier = "use_fourier_features" in settings
    tensors = {name: torch.tensor(value, dtype=torch.float32) for name, value in data.items()}
    algorithm.loss(network, {}, tensors, tensors)[0].backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None
        direction = parameter.grad.double().numpy()
        step = 1e-6 * direction / np.linalg.norm(direction)
        ahead, behind = ({**weights, name: weights[name] + sign * step} for sign in (1, -1))
        slope = (loss(ahead, data, fourier) - loss(behind, data, fourier)) / 2e-6
        assert slope == pytest.approx(np.linalg.norm(direction), rel=1e-4), name


@pytest.mark.parametrize("flow_steps", [1, 3, 10])
@pytest.mark.parametrize("settings", VARIANTS)
def test_actions_are_the_end_of_eulers_method(settings: dict[str, Any], flow_steps: int) -> None:
    algorithm, network, weights, data = setting({**settings, "flow_steps": flow_steps})
    x = data["noise"]
    for index in range(flow_steps):
        time = np.full((SAMPLES, 1), index / flow_steps)
        x = x + velocity(weights, data["observations"], x, time, "use_fourier_features" in settings) / flow_steps
    noise = torch.tensor(data["noise"], dtype=torch.float32).unflatten(1, algorithm.noise_shape())
    actions = algorithm.act(network, torch.tensor(data["observations"], dtype=torch.float32), noise)
    assert actions.shape == (SAMPLES, algorithm.chunk_length, ACTION)
    expected = np.clip(x, -1, 1).reshape(actions.shape)
    assert np.abs(expected).min() < 1 < np.abs(x).max()  # some are clipped and some are not
    np.testing.assert_allclose(actions.detach().numpy(), expected, atol=2e-4)


@pytest.mark.parametrize("clip", [True, False])
def test_a_one_step_actor_is_distilled_from_the_clipped_end_of_the_flow(clip: bool) -> None:
    algorithm, network, weights, data = setting({"actor": "one_step", "action_clip": clip})
    field = {name: value for name, value in weights.items() if name.startswith("trunk.")}
    end = np.random.default_rng(0).normal(size=data["noise"].shape)
    draws = {name: torch.from_numpy(data[name]).float() for name in ("noise", "time")}
    draws["distilled_noise"] = torch.from_numpy(end).float()
    batch = {name: torch.from_numpy(data[name]).float() for name in ("observations", "actions", "valid")}
    _, metrics = algorithm.loss(network, {}, batch, draws)
    for step in range(10):
        end = end + velocity(field, data["observations"], end, np.full((SAMPLES, 1), step / 10), False) / 10
    assert 0.1 < (np.abs(end) > 1).mean() < 0.9
    with torch.no_grad():
        jump = network.jump(batch["observations"], draws["distilled_noise"]).double().numpy()  # type: ignore[operator]
    wanted = ((jump - (end.clip(-1, 1) if clip else end)) ** 2).mean()
    assert metrics["distill_loss"].item() == pytest.approx(wanted, rel=1e-5)
