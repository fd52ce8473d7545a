"""Small packs of flow_bc with training options, and batches for them: what the tests of options stand on."""

from __future__ import annotations

from typing import Any

import torch

from understudy.algorithm import Batch
from understudy.randomness import torch_generator
from understudy.trainables.algorithms.flow_bc import FlowBC, FlowBCConfig
from understudy.trainables.packs.pack import Pack

OBSERVATION, ACTION, SAMPLES, END = 5, 3, 12, 8
PICTURE = {"state": (OBSERVATION,), "front": (8, 8, 3)}


def make(**settings: Any) -> FlowBC:
    """Return a small flow_bc, of pictures and states where it has an encoder."""
    shape = PICTURE if "encoder" in settings else (OBSERVATION,)
    return FlowBC(shape, ACTION, FlowBCConfig(**{"hidden_dims": (16, 16), "lr": 1e-3, **settings}))


def batch(algorithm: FlowBC, step: int, members: int = 1) -> Batch:
    """Return the batch of a step, the same for every member."""
    random = torch_generator(0, "optimising test", step)
    state = torch.randn(1, SAMPLES, OBSERVATION, generator=random).repeat(members, 1, 1)
    actions = torch.rand(1, SAMPLES, 1, ACTION, generator=random).repeat(members, 1, 1, 1) * 2 - 1
    pictures = torch.randint(0, 256, (1, SAMPLES, 8, 8, 3), generator=random, dtype=torch.uint8)
    pixels = {"state": state, "front": pictures.repeat(members, 1, 1, 1, 1)}
    seen = pixels if isinstance(algorithm.observation_shape, dict) else state
    return {"observations": seen, "actions": actions, "valid": torch.ones(members, SAMPLES, 1)}


def pack_of(algorithm: FlowBC, *seeds: int, **facts: Any) -> Pack:
    """Return a pack whose run has END steps; with fp16 its scales grow after two good steps."""
    pack = Pack(algorithm, seeds or [0], training_steps=END, **facts)
    for scaler in pack._optimisers["actor"]._scalers:
        scaler.set_growth_interval(2)
    return pack


def train(pack: Pack, first: int, last: int) -> list[dict[str, list[float]]]:
    """Train steps first..last; return each step's metrics."""
    rows = []
    for step in range(first, last + 1):
        metrics = pack.update(batch(pack.algorithm, step, len(pack)), step)  # type: ignore[arg-type]
        rows.append({name: value.tolist() for name, value in metrics.items()})
    return rows
