"""Training that is counted in passes over the data: how many updates they are."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from understudy.errors import SpecError
from understudy.registry import algorithms, loops
from understudy.spec.keys import run_fields
from understudy.spec.run import RunSpec
from understudy.spec.words import canonical

EPOCHS = "epochs"


def epochs_in(values: Mapping[str, Any], algo: str) -> float | None:
    """Return the passes that flat keys ask for, None where they say nothing; SpecError for what is none."""
    fields = run_fields(algo)
    if EPOCHS not in values or EPOCHS in fields:  # an algorithm's own key of that name
        return None
    epochs = values[EPOCHS]
    if isinstance(epochs, bool) or not isinstance(epochs, int | float) or not 0 < epochs < math.inf:
        raise SpecError(f"epochs={epochs}: must be a number above 0")
    for key in values:
        if canonical(key, fields) == "training_steps":
            raise SpecError(f"epochs={epochs:g} and {key}={values[key]} both say how long: give one of them")
    return float(epochs)


def steps_of(spec: RunSpec, epochs: float) -> tuple[int, str]:
    """Return the updates of so many passes over the run's data, and a line that says so."""
    samples = loops.get(algorithms.get(spec.algo).loop).samples(spec)
    size = spec.config.batch_size
    steps = max(1, math.ceil(epochs * samples / size))
    passes = "pass" if epochs == 1 else "passes"
    return steps, f"epochs={epochs:g}: {epochs:g} {passes} over {samples} samples are training_steps={steps} of {size}"
