"""The saliency masks against their formulas, written down again in numpy; what the penalty adds to a loss."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.ndimage import zoom

from understudy.registry import algorithms
from understudy.trainables.networks.saliency import minmax_mask, softmax_mask
from understudy.trainables.packs.pack import Pack

SHAPE = {"state": (2,), "front": (24, 24, 3)}


@pytest.fixture
def maps() -> torch.Tensor:
    """Two maps of three channels, 6 x 6."""
    return torch.randn(2, 3, 6, 6, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("beta", [1.0, 2.5])
def test_the_minmax_mask_is_the_mean_magnitude_by_its_range_to_a_power(maps, beta) -> None:
    found = minmax_mask(maps, beta, (6, 6))[..., 0].numpy()
    magnitude = np.abs(maps.numpy().astype(np.float64)).mean(1)
    low, high = magnitude.min((1, 2), keepdims=True), magnitude.max((1, 2), keepdims=True)
    np.testing.assert_allclose(found, ((magnitude - low) / (high - low)) ** beta, atol=1e-5)
    assert found.min() == pytest.approx(0, abs=1e-6)
    assert found.max() == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize("beta", [0.5, 1.0])
def test_the_softmax_mask_is_a_softmax_over_places_by_its_maximum(maps, beta) -> None:
    found = softmax_mask(maps, beta, (6, 6))[..., 0].numpy()
    energy = np.abs(maps.numpy().astype(np.float64)).sum(1) / beta
    weights = np.exp(energy) / np.exp(energy).sum((1, 2), keepdims=True)
    np.testing.assert_allclose(found, weights / weights.max((1, 2), keepdims=True), atol=1e-5)


def test_masks_are_as_large_as_the_picture_and_bilinear_ones_lie_between_their_neighbours(maps) -> None:
    assert minmax_mask(maps, 1.0, (24, 18)).shape == softmax_mask(maps, 1.0, (24, 18)).shape == (2, 24, 18, 1)
    small, large = minmax_mask(maps, 1.0, (6, 6)), minmax_mask(maps, 1.0, (12, 12))
    independent = np.asarray(zoom(small[0, ..., 0].numpy(), 2, order=1, grid_mode=True, mode="nearest"))
    np.testing.assert_allclose(large[0, ..., 0], independent, atol=1e-5)


@pytest.mark.parametrize("name", ["bc", "gc_bc", "ddpm_bc", "gc_ddpm_bc"])
def test_the_penalty_is_added_with_its_weight_and_moves_the_encoder(name) -> None:
    kind = algorithms.get(name)
    settings = {"hidden_dims": (16,), "encoder": "impala_small", "grad_clip": None}
    rng = np.random.default_rng(0)
    batch = {
        "observations": {
            "state": torch.zeros(1, 4, 2),
            "front": torch.from_numpy(rng.integers(0, 255, (1, 4, 24, 24, 3), dtype=np.uint8)),
        },
        "actions": torch.zeros(1, 4, 1, 2),
        "valid": torch.ones(1, 4, 1),
        "saliency/front": torch.from_numpy(rng.random((1, 4, 24, 24, 1), dtype=np.float32)),
    }
    metrics = {}
    for weight in (0.0, 3.0):
        pack = Pack(kind(SHAPE, 2, kind.Config(**settings, saliency_weight=weight)), [0])
        before = pack.weights(0)
        metrics[weight] = pack.update(batch, 1)
        assert any(not torch.equal(value, before[key]) for key, value in pack.weights(0).items() if "encoder" in key)
    assert "saliency_reg" not in metrics[0.0]
    total, base = metrics[3.0]["total_loss"], metrics[3.0]["actor_loss"]
    assert base.item() == pytest.approx(metrics[0.0]["actor_loss"].item())
    assert total.item() == pytest.approx(base.item() + 3 * metrics[3.0]["saliency_reg"].item(), rel=1e-5)
    assert 0 < metrics[3.0]["saliency_reg"].item() < 1
