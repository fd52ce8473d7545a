"""The checkpoints that a run keeps, as MLflow logged models: each linked to its step and to what was measured there.

A logged model here is a link, without weights of its own ("external", in MLflow's words): the files are in the run's
artifacts already, and a copy of each would double them. So it costs a few small writes, and MLflow can order and filter
checkpoints by any score. What `understudy models register` makes of one holds its weights and can be served.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from understudy.tracking.addresses import absolute_address
from understudy.tracking.client import client, tracking_errors
from understudy.tracking.facts import printable
from understudy.tracking.shipping import BATCH_METRICS, Point, points_of
from understudy.tracking.tailing import TIMING_FILE, CsvTail, StepTimes
from understudy.tracking.turns import our_turn

FINAL, KEPT = "final_model.pt", "checkpoint_"
STEP_TAG, FILE_TAG = "understudy.step", "understudy.checkpoint"
EXTERNAL_TAG = "mlflow.model.isExternal"
EVALUATIONS = ("eval.csv", "eval/")
"""The file of what was measured, and the prefix of its metrics."""


def kept_checkpoints(folder: Path, seeds: Sequence[int], last_step: int, final: bool = True) -> dict[int, Path]:
    """Return the first seed's kept checkpoint of each step, below a run directory; the other seeds' lie beside it.

    The final model counts as the one of the last step, which is left out unless `final`.
    """
    first = folder / f"sd{seeds[0]:03d}" if len(seeds) > 1 else folder
    steps = {int(file.stem.removeprefix(KEPT)): file for file in first.glob(f"{KEPT}*.pt")}
    if (first / FINAL).is_file():
        steps[last_step] = first / FINAL
    if not final:
        steps.pop(last_step, None)
    return dict(sorted(steps.items()))


def log_checkpoints(
    tracking_uri: str,
    run_id: str,
    folder: Path,
    seeds: Sequence[int],
    last_step: int,
    facts: Mapping[str, Any],
    final: bool = True,
) -> None:
    """Make a logged model of each checkpoint that is none yet, with what eval.csv has of its step."""
    kept, tracking_uri = kept_checkpoints(folder, seeds, last_step, final), absolute_address(tracking_uri)
    if not kept:
        return
    measured = evaluations(folder)
    with tracking_errors(tracking_uri), our_turn(tracking_uri):
        held = _held(tracking_uri, run_id)
        new = [step for step in kept if step not in held]
        for step, model in held.items():
            if step != last_step and model.tags.get(FILE_TAG, "").endswith(FINAL):  # trained on: the file is newer
                tags = {FILE_TAG: f"replaced: the run was trained on to step {last_step}"}
                client(tracking_uri).set_logged_model_tags(model.model_id, tags)
        for step in new:
            place = kept[step].relative_to(folder).as_posix()
            tags = {FILE_TAG: f"runs:/{run_id}/{place}", "seeds": ",".join(map(str, seeds))}
            _log(tracking_uri, run_id, step, measured.get(step, []), tags, printable(facts))


def evaluations(folder: Path) -> dict[int, list[Point]]:
    """Return what eval.csv has of each step, at the times that the run's own points have: stores keep equal ones
    once."""
    times = StepTimes(folder / TIMING_FILE)
    rows = CsvTail(folder / EVALUATIONS[0], EVALUATIONS[1]).rows(None)
    return {row.step: points_of(row, EVALUATIONS[1], times.at(row.step)) for row in rows}


def _held(tracking_uri: str, run_id: str) -> dict[int, Any]:
    """Return the logged models that are whole, by their steps."""
    store = client(tracking_uri)
    run = store.get_run(run_id)
    outputs = run.outputs.model_outputs if run.outputs else []
    models = [store.get_logged_model(output.model_id) for output in outputs]
    return {int(model.tags[STEP_TAG]): model for model in models if STEP_TAG in model.tags}


def _log(
    tracking_uri: str, run_id: str, step: int, points: Sequence[Point], tags: dict[str, str], params: dict[str, str]
) -> None:
    """Make one logged model; it is an output of the run last, so that one that was cut off is made anew."""
    from mlflow.entities import LoggedModelOutput

    store = client(tracking_uri)
    logged = store.create_logged_model(
        store.get_run(run_id).info.experiment_id,
        name=f"step_{step}",
        source_run_id=run_id,
        tags={**tags, STEP_TAG: str(step), EXTERNAL_TAG: "true"},
        params=params,
        model_type="checkpoint",
    )
    link_points(tracking_uri, run_id, logged.model_id, points)
    store.finalize_logged_model(logged.model_id, "READY")
    store.log_outputs(run_id, [LoggedModelOutput(logged.model_id, step=step)])


def link_points(tracking_uri: str, run_id: str, model_id: str, points: Sequence[Point]) -> None:
    """Have a logged model show what was measured of it."""
    from mlflow.entities import Metric

    values = [
        Metric(point.key, point.value, point.time_ms, point.step, model_id=model_id, run_id=run_id) for point in points
    ]
    if values:
        client(tracking_uri).log_batch(run_id, values[:BATCH_METRICS])
