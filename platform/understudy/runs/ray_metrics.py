"""What a training tells Ray's metrics where Ray runs: the one place of their names, and what sends them.

Ray's agent on each node offers them to Prometheus as `ray_understudy_...` beside its own (dashboards/prometheus,
dashboards/grafana). Imports no ray by itself: where no Ray runs in this process there is nobody to tell.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

PREFIX = "understudy_"
LABELS = ("sweep", "run", "algorithm", "environment")
"""What tells one training's values from another's: a sweep has few at a time, so there are few series at a time."""


@dataclass(frozen=True)
class Measure:
    """One thing that is measured."""

    help: str
    labels: tuple[str, ...] = ()
    """What tells its values from each other, beside LABELS."""


MEASURES: dict[str, Measure] = {
    "steps_per_second": Measure("training steps a second since the last logged row"),
    "data_wait_ratio": Measure("share of that time that was waited for data, 0 to 1"),
    "step": Measure("training steps that are done"),
    "total_steps": Measure("training steps that there are to do"),
    "loss": Measure("a loss, the mean over seeds", ("loss",)),
    "success_rate": Measure("success rate of the newest evaluation", ("seed",)),
    "return": Measure("mean return of the newest evaluation", ("seed",)),
    "checkpoint_seconds": Measure("seconds that the newest checkpoint took to be written, beside training"),
    "parameter_age": Measure("versions that the weights of an actor's newest fragment were behind the learner's"),
}


def exported_name(measure: str) -> str:
    """Return what Prometheus calls a measure."""
    return f"ray_{PREFIX}{measure}"


def ray_runs() -> bool:
    """Return whether this process is part of a running Ray; it is asked without importing ray."""
    initialized: Any = getattr(sys.modules.get("ray"), "is_initialized", None)  # None while it is being imported
    return initialized is not None and bool(initialized())


class Exporter:
    """One training's values, sent to the node's agent by Ray in its own time.

    A value that is not sent again is dropped after about 20 s: what has ended leaves nothing behind.
    """

    def __init__(self, labels: Mapping[str, str]) -> None:
        self._labels = {name: labels.get(name, "") for name in LABELS}
        self._gauges: dict[str, Any] = {}

    def send(self, measure: str, value: float, **labels: str) -> None:
        """Set a measure, with the labels that are its own; not finite is not sent."""
        if math.isfinite(value):
            self._gauge(measure).set(float(value), tags={**self._labels, **labels})

    def _gauge(self, measure: str) -> Any:
        if measure not in self._gauges:
            from ray.util.metrics import Gauge

            kept = MEASURES[measure]
            kind: Any = Gauge
            self._gauges[measure] = kind(PREFIX + measure, kept.help, tag_keys=(*LABELS, *kept.labels))
        return self._gauges[measure]
