"""One of two workers in test_pack.py: trains its share of each global batch and saves what came out.

Arguments: rank, world size, the rendezvous file, the file to write.
"""

from __future__ import annotations

import sys
from typing import Any

import torch
import torch.distributed as dist

from understudy.algorithm import EXPERT, Algorithm, Batch
from understudy.errors import TrainingDiverged
from understudy.randomness import torch_generator
from understudy.registry import algorithms
from understudy.spec.parts import Chunks
from understudy.trainables.packs.pack import Pack
from understudy.trainables.packs.workers import Worker

SEEDS, SAMPLES, STEPS = [0, 1], 32, 8
SIZES: dict[str, dict[str, Any]] = {
    "act": {"dim_model": 16, "n_heads": 2, "dim_feedforward": 32, "n_encoder_layers": 1, "n_vae_encoder_layers": 1},
    "reward_classifier": {"latent_dim": 16, "hidden_dim": 16},
    "diffusion_policy": {"down_dims": (16, 16), "step_embed_dim": 8, "n_groups": 4, "kernel_size": 3},
    "flow_transformer": {"dim_model": 16, "n_heads": 2, "n_layers": 1},
    "bc_rnn": {"obs_horizon": 5, "rnn_hidden_dim": 16},
    "bc_transformer": {"obs_horizon": 5, "dim_model": 16, "n_heads": 2, "n_layers": 1},
    "vq_bet": {"obs_horizon": 5, "dim_model": 16, "n_heads": 2, "n_layers": 1, "codes": 4},
}
"""Small sizes of algorithms that are not sized by hidden_dims."""
OVER_THE_BATCH = {"td3_bc"}
"""Whose loss divides by a mean over the batch: of its parts it is another."""
SPLIT = [name for name in algorithms.names() if name not in OVER_THE_BATCH]
MEAN_OVER_ENTRIES = {"act"}
"""Whose loss is a mean over what is inside the episodes: of two halves alike only where all of it is."""


def algorithm(name: str, **settings: Any) -> Algorithm:
    """Return the small algorithm that both the workers and the single process train."""
    kind = algorithms.get(name)
    sizes = SIZES.get(name, {"hidden_dims": (32, 32)})
    # A key's bias in attention has no gradient but rounding, which Adam would make steps of with its usual epsilon.
    sizes = {**sizes, "adam_eps": 1e-3}
    chunk = {"action_chunking": True, "horizon_length": 4} if issubclass(kind.Config, Chunks) else {}
    return kind((5,), 3, kind.Config(**{**sizes, **chunk, "batch_size": SAMPLES, **settings}))


def share(of: Algorithm, step: int, rank: int, world: int) -> Batch:
    """Return the rank's slice of the global batch of a step, for two members."""
    random, chunk = torch_generator(0, "worker test", step), of.config.sampling.horizon
    drawn = {
        "observations": torch.randn(2, SAMPLES, 5, generator=random),
        "actions": torch.rand(2, SAMPLES, chunk, 3, generator=random) * 2 - 1,
        "valid": (torch.rand(2, SAMPLES, chunk, generator=random) < 0.8).float(),
        **{name: torch.randn(2, SAMPLES, generator=random) for name in of.config.sampling.columns},
    }
    if of.config.sampling.transitions:
        drawn |= {name: torch.randn(2, SAMPLES, chunk, generator=random) for name in ("rewards", "discounts")}
        drawn["next_observations"] = torch.randn(2, SAMPLES, 5, generator=random)
    if of.config.sampling.demonstrations:
        names = ("observations", "next_observations", "actions", "discounts")
        drawn |= {f"{EXPERT}{name}": drawn[name].flip(1) for name in names}
    if of.name in MEAN_OVER_ENTRIES:
        drawn["valid"] = torch.ones_like(drawn["valid"])
    size = SAMPLES // world
    return {name: value[:, rank * size : (rank + 1) * size] for name, value in drawn.items()}


def train(name: str, rank: int = 0, world: int = 1, poison: int | None = None) -> dict[str, Any]:
    """Train and return parameters, last gradients, losses, and the noise this worker drew at the first step."""
    pack = Pack(algorithm(name), SEEDS, worker=Worker(rank, world))
    drawn = pack._draw(SAMPLES // world, 1)
    losses = []
    for step in range(1, STEPS + 1):
        batch = share(pack.algorithm, step, rank, world)
        if step == poison and rank == 0:
            batch["actions"] = batch["actions"].clone().fill_(float("nan"))
        losses.append(pack.worker.average_each(pack.update(batch, step))["actor_loss"])
    return {
        "parameters": pack.parameters.clone(),
        "gradients": pack._networks.gradients.clone(),  # Adam forgives a wrong scale; these do not
        "losses": torch.stack(losses),
        "draws": drawn,
    }


if __name__ == "__main__":
    rank, world, meeting, out = sys.argv[1:]
    dist.init_process_group("gloo", init_method=f"file://{meeting}", rank=int(rank), world_size=int(world))
    results = {name: train(name, int(rank), int(world)) for name in SPLIT}
    try:
        train("flow_bc", int(rank), int(world), poison=5)
    except TrainingDiverged as error:
        results["poisoned"] = {"error": str(error)}
    torch.save(results, out)
    dist.destroy_process_group()
