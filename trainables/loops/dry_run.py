"""One batch through what users' plug-ins add to a run, before it begins: their mistakes are lines, not tracebacks.

Built-in algorithms, encoders, goal strategies and operations have tests, and are not tried.
"""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import nn

from understudy.algorithm import Algorithm, Batch
from understudy.envs.windows.augmentation import augment_batch
from understudy.envs.windows.windows import Windows
from understudy.errors import UserError
from understudy.plugins import from_plug_in, plug_in_errors
from understudy.registry import goal_strategies
from understudy.spec.run import RunSpec
from understudy.trainables.packs.runners import part_of

SAMPLES = 2


def try_plug_ins(spec: RunSpec, algorithm: Algorithm, network: nn.Module, windows: Windows) -> None:
    """Raise UserError, with module and place, for what a plug-in does wrong with a batch of the run's data."""
    made = _module(network)
    used: list[object] = [algorithm, *spec.augment.operations, *(made.modules() if made else ())]
    if windows.goals != "none":
        used.append(goal_strategies.get(windows.goals))
    if not any(map(from_plug_in, used)):
        return
    with plug_in_errors():
        batch = windows.sample([0], 1, SAMPLES)
        batch = augment_batch(batch, spec.augment, [0], 1, obs_horizon=spec.data.obs_horizon)
    with plug_in_errors(algorithm):
        try_algorithm(algorithm, network, part_of(batch, 0))


def try_algorithm(algorithm: Algorithm, network: nn.Module, batch: Batch) -> None:
    """Take each phase's loss of one member's batch, and act; UserError where what comes back is of another kind."""
    what = f"algorithm {algorithm.name!r} ({type(algorithm).__module__})"
    made = _module(network)
    if made is None or not any(item.requires_grad for item in made.parameters()):
        raise UserError(f"{what}: network() must return a torch module with parameters to train")
    draws = algorithm.draw(SAMPLES, torch.Generator().manual_seed(0))
    drawn = _named(draws)
    if drawn is None or any((_shape(value) or ())[:1] != (SAMPLES,) for value in drawn.values()):
        raise UserError(f"{what}: draw({SAMPLES}, generator) must return a dict of tensors [{SAMPLES}, ...]")
    targets = {part: network.get_submodule(part) for part in algorithm.targets}
    for phase in algorithm.phases:
        returned, its = phase.loss(network, targets, batch, draws), f"{what}: the loss of {phase.name}"
        pair = _loss_and_metrics(returned)
        if pair is None:
            raise UserError(f"{its} must return (loss, dict of metrics), not {_kind(returned)}")
        loss, metrics = pair
        if _shape(loss) != () or not loss.requires_grad:
            raise UserError(f"{its} must be a scalar tensor that depends on the network, not {_kind(loss)}")
        for name, value in metrics.items():
            if not isinstance(value, int | float) and _shape(value) != ():
                raise UserError(f"{what}: the metric {name!r} must be a number, not {_kind(value)}")
    if algorithm.acts:
        noise = torch.zeros(SAMPLES, *algorithm.noise_shape())
        actions = algorithm.act(network, batch["observations"], noise)
        wanted = (SAMPLES, algorithm.chunk_length, algorithm.action_dim)
        if _shape(actions) != wanted:
            raise UserError(f"{what}: act must return actions {list(wanted)}, not {_kind(actions)}")


# What a plug-in returns is what it is, whatever its annotations say.


def _module(made: object) -> nn.Module | None:
    return made if isinstance(made, nn.Module) else None


def _named(made: object) -> dict[str, Any] | None:
    return cast("dict[str, Any]", made) if isinstance(made, dict) else None


def _loss_and_metrics(made: object) -> tuple[Any, dict[str, Any]] | None:
    """Return a loss and its metrics, where it is these."""
    if not isinstance(made, tuple):
        return None
    parts = cast("tuple[Any, ...]", made)
    metrics = _named(parts[1]) if len(parts) == 2 else None
    return None if metrics is None else (parts[0], metrics)


def _shape(value: Any) -> tuple[int, ...] | None:
    return tuple(value.shape) if isinstance(value, torch.Tensor) else None


def _kind(value: Any) -> str:
    """Return what something is, in few words."""
    return f"a tensor {list(value.shape)}" if isinstance(value, torch.Tensor) else type(value).__name__
