"""An expert that goes left or right at random: what keeps both of its modes, and what goes between them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from understudy.registry import algorithms
from understudy.trainables.loops.agent import Agent

LEFT, RIGHT, SPREAD = -0.7, 0.7, 0.05
QUICK: dict[str, Any] = {"hidden_dims": (64, 64), "lr": 3e-3, "batch_size": 256}


def demonstrations(rng: np.random.Generator, count: int) -> dict[str, np.ndarray]:
    """Return two steps to the left or two to the right, with equal chances, whatever the observation."""
    side = rng.choice([LEFT, RIGHT], (count, 1, 1))
    actions = side + SPREAD * rng.standard_normal((count, 2, 1))
    return {"observations": rng.standard_normal((count, 3)).astype(np.float32), "actions": actions.astype(np.float32)}


def sampled(name: str, settings: dict[str, Any], steps: int = 600) -> np.ndarray:
    """Train on the demonstrations and return 500 sampled chunks [500, 2]."""
    kind = algorithms.get(name)
    chunk = {"action_chunking": True, "horizon_length": 2}
    agent = Agent(kind((3,), 1, kind.Config(**QUICK, **chunk, **settings)))
    rng = np.random.default_rng(0)
    for _ in range(steps):
        agent.update(demonstrations(rng, 256))
    torch.manual_seed(0)
    return agent.sample_actions(rng.standard_normal((500, 3)).astype(np.float32), temperature=1.0)[..., 0]


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("flow_bc", {}),
        ("flow_bc", {"actor": "one_step"}),
        ("ddpm_bc", {"dropout": 0.0, "target_update_rate": 0.05}),
        ("bc", {"policy": "gmm", "modes": 2}),
    ],
    ids=["flow", "one-step flow", "ddpm", "mixture"],
)
def test_generative_policies_keep_both_modes_and_a_chunk_keeps_to_its_own(name, settings) -> None:
    chunks = sampled(name, settings, steps=1500 if "actor" in settings else 600)
    right = (chunks > 0).mean()
    assert 0.35 < right < 0.65
    near = np.abs(np.abs(chunks) - RIGHT) < 4 * SPREAD
    assert near.mean() > 0.85
    assert (np.sign(chunks[:, 0]) == np.sign(chunks[:, 1])).mean() > 0.97


def test_the_best_of_n_takes_the_mode_that_earned_more_and_its_flow_is_that_of_plain_flow_bc() -> None:
    kind = algorithms.get("flow_bc")
    chunk = {"action_chunking": True, "horizon_length": 2}
    best, plain = (Agent(kind((3,), 1, kind.Config(**QUICK, **chunk, actor=actor))) for actor in ("best_of_n", "flow"))
    rng = np.random.default_rng(0)
    for _ in range(600):
        batch = demonstrations(rng, 256)
        plain.update(batch)
        best.update({**batch, "returns_to_go": (batch["actions"][:, 0, 0] > 0).astype(np.float32)})
    observations = rng.standard_normal((300, 3)).astype(np.float32)
    chunks = best.sample_actions(observations)[..., 0]
    assert (chunks > 0).all()
    assert (np.abs(chunks - RIGHT) < 4 * SPREAD).mean() > 0.85
    assert 0.35 < (plain.sample_actions(observations, temperature=1.0)[:, 0] > 0).mean() < 0.65
    weights = best.pack.weights(0)
    for name, value in plain.pack.weights(0).items():
        torch.testing.assert_close(weights[name], value, rtol=0, atol=0)


def test_squared_error_goes_between_the_modes() -> None:
    chunks = sampled("bc", {"policy": "mse"}, steps=300)
    assert np.abs(chunks.mean()) < 0.15
    assert np.abs(chunks).max() < 0.5


def test_a_mixtures_likelihood_is_the_sum_over_its_modes() -> None:
    kind = algorithms.get("bc")
    algorithm = kind(
        (3,), 2, kind.Config(policy="gmm", modes=4, hidden_dims=(8,), action_chunking=True, horizon_length=3)
    )
    network = algorithm.network(torch.Generator().manual_seed(0))
    rng = np.random.default_rng(0)
    batch = {
        "observations": torch.from_numpy(rng.standard_normal((5, 3)).astype(np.float32)),
        "actions": torch.from_numpy(rng.uniform(-1, 1, (5, 3, 2)).astype(np.float32)),
        "valid": torch.tensor([[1.0, 1, 1], [1, 1, 0], [1, 0, 0], [1, 1, 1], [1, 1, 0]]),
    }
    loss, _ = algorithm.loss(network, {}, batch, {})
    log_weights, means, stds = (part.double() for part in network(network.features(batch["observations"])[0]))
    total = 0.0
    for sample in range(5):
        steps = int(batch["valid"][sample].sum())
        density = 0.0
        for mode in range(4):
            normal = torch.distributions.Normal(means[sample, mode, :steps], stds[sample, mode, :steps])
            density += torch.exp(
                log_weights[sample, mode] + normal.log_prob(batch["actions"][sample, :steps].double()).sum()
            )
        total += torch.log(torch.as_tensor(density)).item()
    assert loss.item() == pytest.approx(-total / 5 / 3, rel=1e-4)


def test_without_noise_a_mixture_takes_the_mean_of_its_likeliest_mode_and_with_noise_each_by_its_weight() -> None:
    kind = algorithms.get("bc")
    algorithm = kind((3,), 2, kind.Config(policy="gmm", modes=4, hidden_dims=(8,)))
    network = algorithm.network(torch.Generator().manual_seed(0))
    observations = torch.randn(1, 3, generator=torch.Generator().manual_seed(1))
    log_weights, means, _ = network(network.features(observations)[0])
    zero = algorithm.act(network, observations, torch.zeros(1, *algorithm.noise_shape()))
    torch.testing.assert_close(zero[0, 0], means[0, log_weights[0].argmax(), 0])
    network.scale.bias.data.fill_(-20.0)  # deviations so small that a sample tells its mode
    noise = torch.randn(20_000, *algorithm.noise_shape(), generator=torch.Generator().manual_seed(2))
    actions = algorithm.act(network, observations.expand(20_000, -1), noise)
    distances = (actions[:, None, 0] - means[0, :, 0]).norm(dim=-1)
    shares = torch.bincount(distances.argmin(-1), minlength=4) / 20_000
    torch.testing.assert_close(shares, log_weights[0].exp().detach(), atol=0.02, rtol=0)
