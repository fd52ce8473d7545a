"""VQ-BeT: codes of chunks by residual k-means, offsets at them, and modes that are kept apart when acting."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from understudy.algorithm import Batch
from understudy.cli.train import read_run
from understudy.loading import load_policy
from understudy.randomness import torch_generator
from understudy.runs.directory import RunDir
from understudy.runs.launch import launch
from understudy.trainables.algorithms.vq_bet import VQBeT, VQBeTConfig, VQBeTNetwork
from understudy.trainables.networks.residual_codes import codes_of, fit_codebooks
from understudy.trainables.packs.pack import Pack

SMALL: dict[str, Any] = {"dim_model": 16, "n_heads": 2, "n_layers": 1, "dropout": 0.0, "codes": 2}
LEFT, RIGHT, SPREAD = -0.7, 0.7, 0.05


def test_codes_are_the_nearest_centres_of_what_is_left() -> None:
    random = torch_generator(0, "vectors")
    vectors, books = torch.randn(50, 3, generator=random), torch.randn(2, 4, 3, generator=random)
    for vector, codes in zip(vectors, codes_of(vectors, books), strict=True):
        left = vector
        for book, code in zip(books, codes, strict=True):
            assert int((left - book).norm(dim=-1).argmin()) == int(code)
            left = left - book[code]


def test_codebooks_are_the_clusters_and_then_those_of_what_is_left() -> None:
    random = torch_generator(0, "clusters")
    coarse, fine = torch.tensor([[-10.0, 0], [10, 0], [0, 10]]), torch.tensor([[0.0, -1], [0, 1]])
    which = torch.randint(3, (300,), generator=random), torch.randint(2, (300,), generator=random)
    vectors = coarse[which[0]] + fine[which[1]] + 0.01 * torch.randn(300, 2, generator=random)
    books = fit_codebooks(vectors, 2, 3)
    assert torch.equal(books, fit_codebooks(vectors, 2, 3))
    nearest = (books[0][:, None] - coarse).norm(dim=-1).min(0).values
    assert nearest.max() < 0.3
    codes = codes_of(vectors, books)
    said = books[0][codes[:, 0]] + books[1][codes[:, 1]]
    assert (said - vectors).norm(dim=-1).mean() < 0.2


def test_as_many_codes_as_vectors_or_more_are_no_problem() -> None:
    vectors = torch.ones(3, 2)
    books = fit_codebooks(vectors, 2, 8)
    assert torch.isfinite(books).all()
    codes = codes_of(vectors, books)
    torch.testing.assert_close(books[0][codes[:, 0]] + books[1][codes[:, 1]], vectors)


def demonstrations(algorithm: VQBeT, step: int, size: int = 128) -> Batch:
    """Return windows whose actions are all to the left or all to the right, whatever is seen."""
    random = np.random.default_rng(step)
    side = random.choice([LEFT, RIGHT], (size, 1, 1))
    horizon = algorithm.config.sampling.horizon
    actions = (side + SPREAD * random.standard_normal((size, horizon, 1))).astype(np.float32)
    seen = random.standard_normal((size, 2 * algorithm.config.obs_horizon)).astype(np.float32)
    arrays = {"observations": seen, "actions": actions, "valid": np.ones((size, horizon), np.float32)}
    return {name: torch.from_numpy(value)[None] for name, value in arrays.items()}


class Shown:
    """All data of `demonstrations`."""

    def __init__(self, algorithm: VQBeT) -> None:
        self._batch = {name: value[0] for name, value in demonstrations(algorithm, 0).items()}

    def batches(self, size: int = 4096) -> Any:
        yield self._batch

    def actions(self) -> torch.Tensor:
        return self._batch["actions"][:, 1]


def test_drawn_chunks_keep_to_one_of_the_experts_modes_and_the_likeliest_one_acts_without_noise() -> None:
    config = VQBeTConfig(**SMALL, obs_horizon=2, horizon_length=2, lr=3e-3, offset_weight=1.0)
    algorithm = VQBeT((4,), 1, config)
    algorithm.constants = dict(algorithm.fit(Shown(algorithm)))
    pack = Pack(algorithm, [0])
    for step in range(1, 151):
        pack.update(demonstrations(algorithm, step), step)
    seen = demonstrations(algorithm, 0, 500)["observations"]
    noise = torch.randn(1, 500, *algorithm.noise_shape(), generator=torch_generator(0, "noise"))
    chunks = pack.act(seen, noise)[0, :, :, 0]
    assert 0.35 < (chunks > 0).mean() < 0.65
    assert (np.abs(np.abs(chunks) - RIGHT) < 4 * SPREAD).mean() > 0.85
    assert (np.sign(chunks[:, 0]) == np.sign(chunks[:, 1])).all()
    still = pack.act(seen, torch.zeros_like(noise))[0]
    assert (np.abs(np.abs(still) - RIGHT) < 4 * SPREAD).mean() > 0.85


def test_offsets_are_learned_at_the_codes_of_the_data() -> None:
    algorithm = VQBeT((4,), 1, VQBeTConfig(**SMALL, obs_horizon=2, horizon_length=2))
    algorithm.constants = dict(algorithm.fit(Shown(algorithm)))
    network = algorithm.network(torch_generator(0, "weights"))
    assert isinstance(network, VQBeTNetwork)
    batch = {name: value[0] for name, value in demonstrations(algorithm, 3, 8).items()}
    loss, metrics = algorithm.loss(network, {}, batch, {})
    hidden = network.features(batch["observations"]).flatten(0, 1)
    chunks = torch.stack([batch["actions"][:, t : t + 2, 0] for t in range(2)], dim=1).flatten(0, 1)
    codes = codes_of(chunks, network.codebooks)
    wanted = (network.chunks(hidden, codes) - chunks).abs().mean()
    torch.testing.assert_close(metrics["offset_loss"], wanted)
    focal = []
    for place in range(2):
        p = network.log_weights(hidden)[torch.arange(16), place, codes[:, place]].exp()
        focal.append((-((1 - p) ** 2) * p.log()).mean())
    torch.testing.assert_close(loss, 5 * focal[0] + 0.5 * focal[1] + 100 * wanted)


def test_a_run_computes_its_codes_from_its_data_and_its_policy_keeps_them(hopper_data: Path, tmp_path: Path) -> None:
    sizes = ["dim_model=8", "n_heads=2", "n_layers=1", "codes=4", "obs_horizon=3", "horizon_length=2"]
    where = [f"data_dir={hopper_data}", f"save_dir={tmp_path}", "launcher=inline", "tracking_uri=none", "device=cpu"]
    few = ["training_steps=2", "batch_size=8", "eval_episodes=2", "eval_max_steps=5", "validation_fraction=0.4"]
    spec = read_run(["algo=vq_bet", "env_name=hopper-medium-v2", *sizes, *where, *few])
    result = launch(spec, RunDir.create(spec))
    codebooks = load_policy(result.path).weights(0)["codebooks"]
    assert codebooks.shape == (2, 4, 6)
    assert codebooks.abs().sum() > 0
