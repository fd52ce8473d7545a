"""What MLflow is told of a run when it has ended: its dataset, intervals, checkpoints, its policy, how it came out.

All of it is read from the run's directory, so that `understudy sync` tells it later where the store was away; a store
that is told twice holds it once.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path

from understudy.registry import algorithms
from understudy.runs.directory import RunDir
from understudy.runs.episodes import (
    FILE,
    TRAINING,
    interval_of,
    objective_column,
    read_episodes,
    rows_where,
    setting_text,
    values_of,
)
from understudy.runs.results import figure, objective_name, objective_text
from understudy.spec.run import RunSpec
from understudy.tracking import Tracked
from understudy.tracking.checkpoints import evaluations
from understudy.tracking.recording import NOTE_TAG
from understudy.tracking.shipping import Point, points_of
from understudy.tracking.tailing import TIMING_FILE, Extent, Row, StepTimes

NOWHERE = Extent(offset=0, rows=0, header="")


def note_finished(run: RunDir, tracked: Tracked) -> None:
    """Tell MLflow all of it."""
    spec, state = run.spec(), run.state()
    step = int(state.get("step", 0))
    intervals = [] if len(spec.all_seeds) > 1 else intervals_of(run, spec)
    tracked.log_points(intervals)
    note_checkpoints(tracked, spec, step)
    if spec.placement.log_model:
        note_model(run, tracked, [point for point in intervals if point.step == step])
    tracked.set_tags({NOTE_TAG: description(spec, step, state.get("metrics") or {})})


def note_dataset(run: RunDir, tracked: Tracked) -> None:
    """Record in MLflow which dataset the run was trained on, if the run noted it."""
    content_hash, spec = run.state().get("dataset_hash"), run.spec()
    if content_hash:
        tracked.log_dataset(spec.env_name, str(content_hash), str(spec.placement.datasets))


def note_checkpoints(tracked: Tracked, spec: RunSpec, step: int) -> None:
    """Tell MLflow of the checkpoints that the run keeps, each at its step with what was measured there.

    The last one is a model of its own, where it is logged as one.
    """
    facts = {"algo": spec.algo, "env_name": spec.env_name, "seeds": list(spec.all_seeds)}
    tracked.log_checkpoints(spec.all_seeds, step, facts, final=not spec.placement.log_model)


def note_model(run: RunDir, tracked: Tracked, intervals: list[Point]) -> None:
    """Log the final policies of all seeds as one MLflow model, at its step with what was measured there."""
    spec, state = run.spec(), run.state()
    step, seeds = int(state.get("step", 0)), spec.all_seeds
    files = [run.member(seed, seeds) / "final_model.pt" for seed in seeds]
    if not all(file.is_file() for file in files):
        return
    points = [*evaluations(run.path).get(step, []), *intervals]

    def log(uri: str, run_id: str) -> None:
        from understudy.models import log_model  # a run that is not tracked has no use for it
        from understudy.policy import Policy

        policy = Policy.from_checkpoint(*files).with_config(**state.get("best_parameters", {}))
        with tempfile.TemporaryDirectory() as scratch:
            folder = policy.save(Path(scratch) / "policy")
            tags = {"seeds": ",".join(map(str, seeds))}
            log_model(run_id, folder, tracking_uri=uri, tags=tags, step=step, points=points)

    tracked.later(log)


def intervals_of(run: RunDir, spec: RunSpec) -> list[Point]:
    """Return the interval of each evaluation of a run of one seed, which its eval.csv has not, as MLflow's points."""
    parameters = algorithms.get(spec.algo).evaluation_parameters
    setting = setting_text({key: getattr(spec.config, key) for key in parameters})
    episodes = rows_where(read_episodes(run.path / FILE), stage=TRAINING, setting=setting)
    times = StepTimes(run.path / TIMING_FILE)
    points: list[Point] = []
    for step in values_of(episodes, "step"):
        rows = rows_where(episodes, step=step)
        name = objective_column(rows)
        found = interval_of(rows, name).as_metrics(name)
        ends = {key: found[key] for key in (f"{name}_low", f"{name}_high") if key in found}
        points += points_of(Row(step, ends, NOWHERE), "eval/", times.at(step))
    return points


def description(spec: RunSpec, step: int, metrics: Mapping[str, float]) -> str:
    """Return how a run came out, as its description in MLflow: `success 0.80 [0.38, 0.96] over 1 seed x 5 episodes`."""
    what = f"{spec.algo} on {spec.env_name}, {step} steps"
    name = objective_name(metrics)
    if name is None:
        return what
    seeds, episodes = len(spec.all_seeds), int(metrics.get(f"{name}_episodes", 0))
    counts = f" over {seeds} seed{'s'[: seeds - 1]}" + (f" x {episodes} episodes" if episodes else "")
    known = [key for key in ("return", "length") if key in metrics and key != name]
    others = [f"{key} {figure(metrics[key], key)}" for key in known]
    others += [f"temperature {metrics['temperature']:g}"] if "temperature" in metrics else []
    return f"**{name} {objective_text(metrics)}**{counts}  \n{'; '.join([what, *others])}"
