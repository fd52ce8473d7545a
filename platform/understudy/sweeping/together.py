"""Trials that are trained together, as one pack: which may be, how a process trains them, and how ASHA stops one."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from understudy.errors import SpecError, Stopped
from understudy.registry import algorithms
from understudy.runs.loop import can_share
from understudy.runs.turns import THREAD, Turns
from understudy.spec.space import Choice, Dimension
from understudy.sweeping.sweep_spec import SweepSpec

ON_GPU = 16
"""Trials of one pack on a GPU, where nothing else is asked for."""
Proposal = Mapping[str, Any]
"""A trial's `number` and `parameters`."""


def why_apart(spec: SweepSpec) -> str:
    """Return why the sweep's trials cannot be members of one pack; '' where they can."""
    base = spec.base
    known = algorithms.get(base.algo).Config.may_differ()
    for key, dimension in spec.dimensions.items():
        if key not in known:
            return f"{key} is nothing that members of one pack may differ in ({', '.join(sorted(known))})"
        if _is_optional(key, dimension):
            return "ema_rate: either all members of a pack act with an average of their weights, or none"
    if base.placement.cuda_graphs:
        return "cuda_graphs=true replays steps of one configuration"
    if base.population.pbt is not None:
        return "each trial is a population (pbt)"
    return "" if can_share(base) else f"trainings of algo={base.algo} with these keys are not taken together"


def _is_optional(key: str, dimension: Dimension) -> bool:
    return key == "ema_rate" and isinstance(dimension, Choice) and None in dimension.values


def trials_together(spec: SweepSpec) -> int:
    """Return how many trials are trained as one pack; SpecError where so many are asked for in vain."""
    asked = spec.options.trials_together
    if asked == 1:
        return 1
    apart = why_apart(spec)
    if asked is None:
        return 1 if apart or not spec.base.placement.gpus else min(ON_GPU, spec.options.num_trials)
    if apart:
        raise SpecError(f"trials_together={asked}: {apart}")
    return min(asked, spec.options.num_trials)


# ---- ASHA's word on one trial of several: the driver writes it before the trial goes on from its report ----


def _mark(sweep: Path, number: int) -> Path:
    return sweep / ".ray" / f"pruned_{number:04d}"


def prune(sweep: Path, number: int) -> None:
    """Tell one trial to leave."""
    _mark(sweep, number).parent.mkdir(exist_ok=True)
    _mark(sweep, number).touch()


def pruned(sweep: Path, number: int) -> bool:
    """Return whether a trial is told to leave."""
    return _mark(sweep, number).exists()


def forget(sweep: Path, number: int) -> None:
    """Take back what an earlier attempt at a trial was told."""
    _mark(sweep, number).unlink(missing_ok=True)


def train_together(proposals: Sequence[Proposal], train: Callable[[Proposal, Turns, int], None]) -> None:
    """Train several trials in turns, each in a thread of its own, by `train(proposal, turns, place)`.

    Those that leave, by whatever ends `train`, leave the others as they are; the first error is raised at the end.
    """
    turns = Turns(len(proposals))
    errors: list[BaseException] = []

    def one(place: int, proposal: Proposal) -> None:
        with turns.of(place):
            try:
                train(proposal, turns, place)
            except SystemExit:
                pass  # told to leave, by ASHA or by Tune
            except BaseException as error:  # noqa: BLE001  (raised by the thread that waits)
                errors.append(error)

    threads = [
        threading.Thread(target=one, args=(place, proposal), name=f"{THREAD}{proposal['number']:04d}", daemon=True)
        for place, proposal in enumerate(proposals)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        while thread.is_alive():
            thread.join(1.0)
    if errors:
        raise next((error for error in errors if isinstance(error, Stopped)), errors[0])
