"""The hook that tells Ray's metrics how a training goes, by numbers that are there already: no GPU is waited for."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from pathlib import Path

import torch

from understudy.runs.ray_metrics import Exporter, ray_runs
from understudy.spec.run import RunSpec
from understudy.trainables.loops.steps import Speed, Training

EXPORT_SECONDS = 5.0
"""Between two exports; Ray's agents are scraped about as often."""
OUTCOMES = {"success": "success_rate", "return": "return"}
"""Columns of an evaluation, and the measures that they are."""


class Export:
    """Tell Ray's metrics, where this process is part of a Ray, how the training goes."""

    def __init__(self, training: Training, speed: Speed, write_seconds: Callable[[], float | None]) -> None:
        """Take where numbers come from; `write_seconds` says what the newest checkpoint took, if there is one."""
        self._training, self._speed, self._write_seconds = training, speed, write_seconds
        self._exporter = Exporter(labels_of(training.spec, training.run.path))
        self._exported_at = float("-inf")

    def __call__(self, metrics: dict[str, torch.Tensor] | None = None) -> None:
        """Every EXPORT_SECONDS, and at the last step."""
        now = time.monotonic()
        if now - self._exported_at < EXPORT_SECONDS and not self._training.last:
            return
        self._exported_at = now
        if ray_runs():
            self._send()

    def _send(self) -> None:
        training, send = self._training, self._exporter.send
        send("step", training.step)
        send("total_steps", training.spec.total_steps)
        if self._speed.measured is not None:
            steps_per_second, data_wait = self._speed.measured
            send("steps_per_second", 0.0 if training.last else steps_per_second)
            send("data_wait_ratio", data_wait)
        for name, value in training.metrics.items():
            if name.endswith("loss"):
                send("loss", value, loss=name)
        if "parameter_age" in training.metrics:
            send("parameter_age", training.metrics["parameter_age"])
        seconds = self._write_seconds()
        if seconds is not None:
            send("checkpoint_seconds", seconds)
        for seed, row in zip(training.seeds, training.evaluated, strict=False):
            for column, measure in OUTCOMES.items():
                if column in row:
                    send(measure, row[column], seed=str(seed))


def labels_of(spec: RunSpec, path: Path) -> Mapping[str, str]:
    """Return what tells a run's values from those of others: a trial's run is its number in its sweep."""
    in_sweep = path.parent.name == "trials"
    return {
        "sweep": path.parent.parent.name if in_sweep else "",
        "run": path.name,
        "algorithm": spec.algo,
        "environment": spec.env_name,
    }
