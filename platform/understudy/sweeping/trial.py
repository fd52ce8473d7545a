"""One trial: one configuration, all its seeds as a pack, in the process that Tune gave it."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ray import tune

from understudy.errors import Stopped, UnderstudyError, UserError
from understudy.runs.directory import RunDir
from understudy.runs.extend import train_on
from understudy.runs.launch import launch
from understudy.runs.results import RATES, objective_name, rank_key
from understudy.spec.keys import with_changes
from understudy.spec.run import RunSpec
from understudy.sweeping.format import number as show
from understudy.sweeping.spec import SweepSpec

logger = logging.getLogger("understudy")


def trial_folder(sweep: Path, number: int) -> Path:
    """Return the run directory of one trial."""
    return sweep / "trials" / f"{number:04d}"


def trial_spec(spec: SweepSpec, parameters: Mapping[str, Any]) -> RunSpec:
    """Return the run that a trial trains; the best one is filmed, once, at the sweep's end."""
    return with_changes(spec.base, **parameters, video_episodes=0)


def trial_name(number: int, parameters: Mapping[str, Any]) -> str:
    """Return the trial's name in MLflow, like `0006 lr=0.000867 horizon_length=5`."""
    return " ".join([f"{number:04d}", *(f"{key}={show(value)}" for key, value in parameters.items())])


def wait_until_free(run: RunDir, seconds: float = 60.0) -> None:
    """Wait for a process of a killed driver to end: it may hold the trial for some seconds more."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            with run.locked():
                return
        except UserError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.5)


def run_trial(config: dict[str, Any]) -> None:
    """Train one configuration, reporting each evaluation; a divergence is a result, any other error a crash."""
    spec = SweepSpec.model_validate(config["sweep"])
    run_spec = trial_spec(spec, config["parameters"])
    folder = trial_folder(Path(config["folder"]), config["number"])
    run = RunDir.at(folder, run_spec)

    def report(step: int, metrics: Mapping[str, float]) -> None:
        rate = objective_name(metrics) in RATES
        tune.report({"step": step, "objective": rank_key(metrics)[0], "rate": rate})

    wait_until_free(run)
    with run.locked():
        train_on(run, run_spec)
    try:
        launch(
            run_spec,
            run,
            name=trial_name(config["number"], config["parameters"]),
            parent_run_id=config["parent_run_id"],
            report=report,
            grid=spec.grid,
        )
    except Stopped:
        while True:  # the driver is ending: returning would tell Tune that the trial is done
            time.sleep(1.0)
    except UnderstudyError as error:
        if run.state().get("status") != "failed":
            raise
        # In run.json already; for Tune the trial has ended, and the sweep goes on.
        logger.warning("trial %s: %s", config["number"], error)
        tune.report({"step": int(run.state().get("step", 0)), "objective": float("nan")})
