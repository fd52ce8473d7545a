"""What every algorithm must do, checked on made-up data: `understudy check algo=X`, for plug-ins anywhere.

Each check is a function that raises CheckFailed with what it found. Shapes: K members, B samples, H steps of a chunk, O
observation dims, A action dims.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch

from understudy.algorithm import EXPERT, Algorithm, Batch
from understudy.errors import UnderstudyError
from understudy.normaliser import Normaliser
from understudy.plugins import from_plug_in, plug_in_errors
from understudy.randomness import numpy_generator
from understudy.trainables.loops.dry_run import SAMPLES, try_algorithm
from understudy.trainables.packs.pack import Pack

OBSERVATION, ACTION = 5, 3
UPDATES = 1000
Check = tuple[str, Callable[[Algorithm], None]]


class CheckFailed(UnderstudyError):
    """An algorithm does not do what it must."""


class MadeUp:
    """Two hundred transitions for a method that computes something of all data."""

    def __init__(self, algorithm: Algorithm) -> None:
        self._newest = algorithm.config.sampling.before
        self._batches = [made_up(algorithm, step, size=50) for step in range(4)]

    def batches(self, size: int = 4096) -> Iterator[Batch]:
        """Yield them in four batches."""
        for batch in self._batches:
            yield {name: value[0] for name, value in batch.items()}

    def actions(self) -> torch.Tensor:
        """Return all actions [N, A]."""
        return torch.cat([batch["actions"][0, :, self._newest] for batch in self._batches])


def made_up(algorithm: Algorithm, step: int, members: int = 1, size: int = 16) -> Batch:
    """Return a batch [K, B, ...] whose every member holds the same samples, some steps past an episode's end."""
    random, sampling = numpy_generator(7, "made-up batch", step), algorithm.config.sampling
    chunk, seen = (size, sampling.horizon), (size, _seen(algorithm))
    valid = np.ones(chunk, np.float32)
    valid[: size // 4, np.arange(sampling.horizon) != sampling.before] = 0
    arrays: dict[str, Any] = {
        "observations": random.normal(size=seen),
        "actions": random.uniform(-1, 1, size=(*chunk, ACTION)),
        "valid": valid,
        **{name: random.normal(size=size) for name in sampling.columns},
    }
    following = {
        "next_observations": random.normal(size=seen),
        "rewards": random.normal(size=chunk),
        "discounts": random.integers(0, 2, size=chunk),
    }
    if sampling.transitions:
        arrays |= following
    if sampling.demonstrations:
        arrays |= {f"{EXPERT}{name}": arrays[name] for name in ("observations", "actions")}
        arrays |= {f"{EXPERT}{name}": value for name, value in following.items()}
        arrays[f"{EXPERT}discounts"] = np.ones(chunk)  # own samples terminate more often than demonstrated ones
    if sampling.transitions and sampling.horizon > 1:
        arrays |= {"n_step_rewards": random.normal(size=size), "n_step_discounts": np.full(size, 0.9)}
    return {name: torch.as_tensor(np.stack([value] * members).astype(np.float32)) for name, value in arrays.items()}


def _seen(algorithm: Algorithm) -> int:
    """Return how many numbers a made-up observation has: those of each step of its window."""
    return OBSERVATION * (algorithm.config.sampling.before + 1)


def checks() -> list[Check]:
    """Return the checks with what each says."""
    return [
        ("a seed decides the weights", _weights),
        ("two trainings with one seed are equal, bit for bit", _repeats),
        ("one update changes every parameter", _moves),
        ("a member of a pack equals its seed trained alone, bit for bit", _alone),
        ("a stacked pack equals members in turn, within tolerance", _stacked),
        ("actions have their shape, and depend on nothing but their arguments", _acts),
        ("what is saved goes on as if it had not been stopped", _resumes),
        ("eight samples are learned", _learns),
    ]


def run_check(check: Check, kind: type[Algorithm], config: Any) -> str:
    """Run one check of an algorithm with these settings; return what is wrong, or ""."""
    try:
        with plug_in_errors(kind):
            algorithm = kind((OBSERVATION * (config.sampling.before + 1),), ACTION, config)
            if algorithm.fits:
                algorithm.constants = dict(algorithm.fit(MadeUp(algorithm)))
            check[1](algorithm)
    except UnderstudyError as error:
        return str(error)
    return ""


def contract(kind: type[Algorithm], config: Any) -> Iterator[tuple[str, str]]:
    """Yield what each check says, and what it found wrong, or ""; one alone where a plug-in's functions are unfit."""
    if from_plug_in(kind) and (unfit := run_check(RETURNS, kind, config)):
        yield RETURNS[0], unfit
        return
    for check in checks():
        yield check[0], run_check(check, kind, config)


def _train(pack: Pack, first: int, last: int) -> list[list[float]]:
    """Train steps first to last; return each step's losses, a list of all phases' and members'."""
    rows: list[list[float]] = []
    for step in range(first, last + 1):
        metrics = pack.update(made_up(pack.algorithm, step, len(pack)), step)
        losses = [value for name, value in metrics.items() if name.endswith("_loss")]
        rows.append(torch.stack(losses).T.flatten().numpy().tolist())
    return rows


def _require(holds: bool, said: str) -> None:
    if not holds:
        raise CheckFailed(said)


def _returns(algorithm: Algorithm) -> None:
    batch = made_up(algorithm, 0, size=SAMPLES)
    network = algorithm.network(torch.Generator().manual_seed(0))
    try_algorithm(algorithm, network, {name: value[0] for name, value in batch.items()})


RETURNS: Check = ("what its functions return has its form", _returns)
"""Tried before the checks, which rest on it."""


def _weights(algorithm: Algorithm) -> None:
    one, other = Pack(algorithm, [0, 1]), Pack(algorithm, [0])
    same = torch.equal(one.parameters[0], other.parameters[0])
    _require(same, "the same seed gave two networks: draw the weights from the generator that network() gets")
    _require(not torch.equal(one.parameters[0], one.parameters[1]), "two seeds gave the same network")


def _repeats(algorithm: Algorithm) -> None:
    found: list[list[list[float]]] = []
    for noise in (0, 1):
        torch.default_generator.manual_seed(noise)
        found.append(_train(Pack(algorithm, [3]), 1, 5))
    _require(found[0] == found[1], "the losses differ: random numbers come from elsewhere than draw()")


def _moves(algorithm: Algorithm) -> None:
    pack = Pack(algorithm, [0])
    before = pack.member_state(0)["weights"]
    _train(pack, 1, max(phase.every for phase in algorithm.phases))
    after = pack.member_state(0)["weights"]
    still = [name for name in before if torch.equal(before[name], after[name])]
    _require(not still, f"no gradient reaches {', '.join(still[:5])}")


def _alone(algorithm: Algorithm) -> None:
    pack = Pack(algorithm, [4, 5, 6])
    _train(pack, 1, 5)
    for index, seed in enumerate(pack.seeds):
        alone = Pack(algorithm, [seed])
        _train(alone, 1, 5)
        _require(torch.equal(pack.parameters[index], alone.parameters[0]), f"seed {seed} alone has other weights")


def _stacked(algorithm: Algorithm) -> None:
    looped, stacked = (Pack(algorithm, [4, 5, 6], mode=mode) for mode in ("loop", "vmap"))
    one, other = np.array(_train(looped, 1, 5)), np.array(_train(stacked, 1, 5))
    far = float(np.abs(one - other).max() / max(1e-12, np.abs(one).max()))
    _require(far < 1e-3, f"the losses differ by a share of {far:.2g}: does the loss keep state, or look at values?")


def _acts(algorithm: Algorithm) -> None:
    if not algorithm.acts:
        return
    pack, random = Pack(algorithm, [0, 1]), numpy_generator(7, "made-up decisions")
    observations = random.normal(size=(2, 7, _seen(algorithm))).astype(np.float32)
    noise = random.normal(size=(2, 7, *algorithm.noise_shape())).astype(np.float32)
    actions = pack.act(observations, noise)
    wanted = (2, 7, algorithm.chunk_length, ACTION)
    _require(actions.shape == wanted, f"act gives {actions.shape}, wanted are {wanted}")
    _require(bool(np.isfinite(actions).all()), "act gives NaN or infinity")
    _require(np.array_equal(actions, pack.act(observations, noise)), "acting twice gives other actions")


def _resumes(algorithm: Algorithm) -> None:
    whole, before, after = (Pack(algorithm, [8, 9]) for _ in range(3))
    _train(whole, 1, 6)
    _train(before, 1, 3)
    file = io.BytesIO()
    torch.save([before.member_state(k) for k in range(2)], file)
    file.seek(0)
    for index, state in enumerate(torch.load(file, weights_only=True)):
        after.load_member_state(index, state)
    _train(after, 4, 6)
    _require(torch.equal(whole.parameters, after.parameters), "weights differ after saving and loading at step 3")


def _learns(algorithm: Algorithm) -> None:
    few = made_up(algorithm, 0, size=8)
    few["valid"].fill_(1.0)
    repeated = {name: value.repeat(1, 16, *[1] * (value.ndim - 2)) for name, value in few.items()}
    pack = Pack(algorithm, [0], normaliser=Normaliser.fit(few["observations"][0].numpy(), "zscore"))
    first, losses = None, [0.0]
    for step in range(1, UPDATES + 1):
        metrics = pack.update(repeated, step)
        loss = metrics.get("mse", metrics.get("actor_loss", next(iter(metrics.values())))).item()
        first, losses = loss if first is None else first, [*losses[-49:], loss]
        if step >= 50 and first - float(np.mean(losses)) > 0.5 * abs(first):
            return
    now = float(np.mean(losses))
    _require(first is not None and now < first, f"after {UPDATES} updates the loss is {now:.4g}, at first {first:.4g}")
