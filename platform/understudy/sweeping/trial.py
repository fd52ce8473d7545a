"""One trial: one configuration, all its seeds as a pack, in the process that Tune gave it."""

from __future__ import annotations

import itertools
import logging
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from ray import tune

from understudy.devices import resolve_device
from understudy.errors import Stopped, UnderstudyError, UserError
from understudy.files import write_json
from understudy.policy import Policy
from understudy.runs.directory import RunDir
from understudy.runs.ended import KEY, note_ended
from understudy.runs.episodes import setting_text
from understudy.runs.extend import train_on
from understudy.runs.launch import launch
from understudy.runs.loop import InTurns
from understudy.runs.turns import Turns
from understudy.spec.keys import with_changes
from understudy.spec.run import RunSpec
from understudy.sweeping.format import settings_of
from understudy.sweeping.objective import LATENCY
from understudy.sweeping.racing import first_seeds
from understudy.sweeping.sweep_spec import SweepSpec
from understudy.sweeping.together import pruned, train_together

logger = logging.getLogger("understudy")
LATENCIES, DECISIONS = "latency.json", 50


class _Tune(Protocol):
    """What is used of Tune here; its own `report` has types in part only."""

    def report(self, metrics: dict[str, Any], /) -> None:
        """Give Tune a trial's newest result."""
        ...


_tune: _Tune = tune


def trial_folder(sweep: Path, number: int) -> Path:
    """Return the run directory of one trial."""
    return sweep / "trials" / f"{number:04d}"


def trial_spec(spec: SweepSpec, parameters: Mapping[str, Any]) -> RunSpec:
    """Return the run that a trial trains first; the best one is made a model, once, at the sweep's end.

    The best one alone is filmed, then, unless `trial_videos` asks for films of all.
    """
    filmed = spec.base.evaluation.video_episodes if spec.options.trial_videos else 0
    return with_changes(spec.base, **parameters, video_episodes=filmed, log_model=False, seeds=list(first_seeds(spec)))


def trial_name(algo: str, number: int, parameters: Mapping[str, Any], folder: str = "") -> str:
    """Return the trial's name in MLflow, like `bc 0006 lr=0.000867 batch_size=64`; a further pack's says its seeds."""
    stem, _, seeds = folder.partition("_")
    return " ".join([algo, stem or f"{number:04d}", settings_of(parameters), *([seeds] if seeds else [])])


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


def measure_latency(run: RunDir, spec: SweepSpec) -> None:
    """Write latency.json: milliseconds that one decision takes, the median of DECISIONS, at each value of the grid."""
    if (run.path / LATENCIES).is_file():
        if LATENCIES not in (run.state().get(KEY) or {}):  # it was killed in between
            note_ended(run)
        return
    run_spec = run.spec()
    file = run.member(run_spec.all_seeds[0], run_spec.all_seeds) / "final_model.pt"
    policy = Policy.from_checkpoint(file, device=resolve_device(run_spec.placement.device))
    shape = policy.algorithm.observation_shape
    observation = {name: _blank(part) for name, part in shape.items()} if isinstance(shape, Mapping) else _blank(shape)
    found: dict[str, float] = {}
    for values in itertools.product(*spec.grid.values()):
        acting = policy.with_config(**dict(zip(spec.grid, values, strict=True)))
        times: list[float] = []
        for _ in range(DECISIONS):
            began = time.perf_counter()
            acting.act(observation)
            times.append(1000 * (time.perf_counter() - began))
        config = acting.algorithm.config
        text = setting_text({key: getattr(config, key) for key in policy.algorithm.evaluation_parameters})
        found[text] = sorted(times)[DECISIONS // 2]
    write_json(run.path / LATENCIES, found)
    note_ended(run)


def _blank(shape: tuple[int, ...]) -> np.ndarray:
    return np.zeros(shape, np.uint8 if len(shape) == 3 else np.float32)


def run_trial(config: dict[str, Any]) -> None:
    """Train one configuration, or several together, reporting each evaluation; a divergence is a result, any other
    error a crash.
    """
    spec, sweep = SweepSpec.model_validate(config["sweep"]), Path(config["folder"])
    several: list[dict[str, Any]] = config.get("together") or []

    def train(proposal: Mapping[str, Any], turns: Turns, place: int) -> None:
        _train(spec, {**config, **proposal}, turns, place)

    try:
        if several:  # after a crash, those that are left
            train_together([one for one in several if not pruned(sweep, one["number"])], train)
        else:
            _train(spec, config)
    except Stopped:
        while True:  # the driver is ending: returning would tell Tune that the trial is done
            time.sleep(1.0)


def _train(spec: SweepSpec, config: dict[str, Any], turns: Turns | None = None, place: int = 0) -> None:
    """Train one configuration, with `turns` together with others'.

    A further pack of a trial has `seeds` and a `name` of its own.
    """
    run_spec = trial_spec(spec, config["parameters"])
    folder = trial_folder(Path(config["folder"]), config["number"])
    name = trial_name(run_spec.algo, config["number"], config["parameters"], config.get("name", ""))
    if "seeds" in config:
        run_spec = with_changes(run_spec, seeds=config["seeds"])
        folder = folder.with_name(config["name"])
    run, goal = RunDir.at(folder, run_spec), spec.goal

    def report(step: int, metrics: Mapping[str, float]) -> None:
        goal.check(metrics)
        score = goal.first.score(metrics)
        result = {"step": step, "objective": score, "rate": goal.first.is_rate(metrics)}
        _tune.report(result if turns is None else {**result, "number": config["number"]})
        if turns is not None and pruned(Path(config["folder"]), config["number"]):
            raise SystemExit  # as Tune ends a trial that is alone

    wait_until_free(run)
    with run.locked():
        train_on(run, run_spec)
        others = [one["number"] for one in config.get("together", [])]
        run.update_state(**({"together": others} if turns else {}))
    try:
        launch(
            run_spec,
            run,
            loop=None if turns is None else InTurns(run_spec, turns, place),
            name=name,
            parent_run_id=config["parent_run_id"],
            report=report,
            grid=spec.grid,
        )
        if LATENCY in goal.names:
            measure_latency(run, spec)
    except Stopped:
        raise
    except UnderstudyError as error:
        if run.state().get("status") != "failed":
            raise
        # In run.json already; for Tune the trial has ended, and the sweep goes on.
        logger.warning("trial %s: %s", folder.name, error)
        ended = {"step": int(run.state().get("step", 0)), "objective": float("nan")}
        _tune.report(ended if turns is None else {**ended, "number": config["number"]})
