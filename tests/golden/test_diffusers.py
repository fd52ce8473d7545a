"""The reverse process and the average of weights give diffusers' numbers, which were made with its schedulers once."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from understudy.trainables.algorithms.ddpm_bc import DDPMBC, DDPMBCConfig, betas
from understudy.trainables.networks.reverse import Reverse, leading_times
from understudy.trainables.packs.average import warm_rate

GOLDEN: dict[str, Any] = json.loads(Path(__file__).with_name("diffusers.json").read_text())
NAMES = {"epsilon": "noise", "sample": "actions"}
EACH = pytest.mark.parametrize("case", GOLDEN["cases"], ids=lambda case: f"{case['sampler']}{case['sampling_steps']}")


def said(x: torch.Tensor, time: float) -> torch.Tensor:
    """What a network would say of x, in the golden file and here."""
    return torch.sin(3 * x + 0.1 * time) * 1.3


@EACH
def test_each_step_is_that_of_diffusers(case: dict[str, Any]) -> None:
    steps, visited = case["diffusion_steps"], case["sampling_steps"]
    kept, times = np.cumprod(1 - betas("cosine", steps)), leading_times(steps, visited)
    assert times == case["times"]
    variance = "fixed_small" if case["variance"] == "fixed_small" else "beta"
    x0_range = 1.0 if case["clip"] else None
    reverse = Reverse(kept, times, case["sampler"], NAMES[case["predicts"]], variance, x0_range)  # type: ignore[arg-type]
    path: list[torch.Tensor] = []

    def predict(x: torch.Tensor, time: int) -> torch.Tensor:
        path.append(x)
        return said(x, time)

    noise = torch.tensor(case["noise"], dtype=torch.float64)[None, : reverse.fresh]
    path.append(reverse.run(predict, noise))
    found = [path[0], path[1], path[len(path) // 2], path[-1]]
    np.testing.assert_allclose(torch.cat(found).numpy(), case["path"], rtol=2e-4, atol=2e-5)


@pytest.mark.parametrize("case", [c for c in GOLDEN["cases"] if c["clip"] and c["predicts"] == "epsilon"])
def test_ddpm_bc_acts_so_with_the_options_of_diffusion_policy(case: dict[str, Any]) -> None:
    options: dict[str, Any] = {"x0_range": 1.0, "spacing": "leading", "sampler": case["sampler"]}
    options |= {"variance": case["variance"]} if case["sampler"] == "ddpm" else {}
    steps = {"diffusion_steps": case["diffusion_steps"], "sampling_steps": case["sampling_steps"]}
    settings = DDPMBCConfig(hidden_dims=(8,), action_clip=False, **steps, **options)
    algorithm = DDPMBC((2,), 4, settings)

    class Network(type(algorithm.network(torch.Generator()))):
        def forward(self, features_BF, noisy_BD, time_B1, keep=None):
            return said(noisy_BD.double(), time_B1.double()).to(noisy_BD)

    network = algorithm.network(torch.Generator())
    network.__class__ = Network
    noise = torch.tensor(case["noise"])[: algorithm.noise_shape()[0]][None, :, None, :]
    acted = algorithm.act(network, torch.zeros(1, 2), noise)[0]
    np.testing.assert_allclose(acted.numpy(), [case["path"][-1]], rtol=1e-3, atol=1e-4)


def test_the_average_of_weights_is_diffusers_begun_one_update_later_as_diffusion_policy_does() -> None:
    rates = [1 - warm_rate(1e-4, 0.75, step) for step in range(2, 10)]
    np.testing.assert_allclose(rates, GOLDEN["decays"], rtol=1e-7)
    average = 0.0
    for weight, decay in enumerate(rates, 1):
        average = decay * average + (1 - decay) * weight
        assert average == pytest.approx(GOLDEN["averages"][weight - 1], rel=1e-6)
    assert warm_rate(1e-4, 0.75, 1) == 1.0
    assert warm_rate(1e-4, 0.75, 10**9) == 1e-4
