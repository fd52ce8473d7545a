"""What becomes of the best configuration: evaluated on fresh episodes, filmed, registered, loaded, evaluated again.

It is taken as trained, not retrained: its seeds' final models are evaluated with episode seeds that no trial was
ranked by, so the number is free of the selection's optimism over episodes. The seed with the highest success there
(ties: return, then the lower seed) becomes the registered model.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from optuna.trial import FrozenTrial

from understudy.devices import resolve_device
from understudy.files import write_json
from understudy.policy import Policy
from understudy.registry import loops
from understudy.runs.directory import CsvLog, RunDir, read_csv
from understudy.runs.registering import best_seed, final_evaluation, register_policy, version_tags
from understudy.spec.keys import with_changes
from understudy.spec.run import RunSpec
from understudy.sweeping.spec import SweepSpec
from understudy.sweeping.trial import trial_folder
from understudy.tracking import Tracked

BEST_CSV, RECORD = "best_eval.csv", "best.json"


@dataclass(frozen=True)
class BestPolicy:
    """The best configuration of a sweep and its evaluations."""

    trial: int
    training_steps: int
    parameters: dict[str, Any]
    metrics: dict[str, float]
    """Over all seeds and final_episodes episodes of each, with the interval."""
    seed: int
    """The seed whose policy is registered."""
    seed_metrics: dict[str, float]
    folder: str
    video: str | None = None
    model: str | None = None
    """models:/NAME/VERSION of the registered model."""
    loaded_metrics: dict[str, float] = field(default_factory=dict)
    """The registered model's, loaded back through MLflow and evaluated on the same episodes."""
    is_best: bool = True
    """Whether the alias `best` points at it; it always did before it was compared."""
    why: str = ""


def evaluate_best(sweep: Path, spec: SweepSpec, trial: FrozenTrial) -> BestPolicy:
    """Evaluate the best trial's seeds on fresh episodes and write best/; read back if it was done before."""
    folder, run_spec = sweep / "best", final_spec(spec, trial)
    held = read_best(sweep)
    if held is not None and (held.trial, held.training_steps) == (trial.number, run_spec.training_steps):
        return held
    run = RunDir(trial_folder(sweep, trial.number))
    seeds = run_spec.all_seeds
    files = (run.member(seed, seeds) / "final_model.pt" for seed in seeds)
    trained = Policy.from_checkpoint(*files, device=resolve_device(run_spec.placement.device))
    chosen = trial.user_attrs.get("best_parameters", {})
    policy = trained.with_config(**chosen)
    outcome = loops.get(policy.algorithm.loop).evaluate(policy, run_spec)
    best = best_seed(outcome.rows, seeds)
    policy.member(best).save(folder)
    video = folder / "video.mp4"
    if run_spec.evaluation.video_episodes:
        loops.get(policy.algorithm.loop).record(policy, run_spec, video, best)
    policy_result = BestPolicy(
        trial=trial.number,
        training_steps=run_spec.training_steps,
        parameters={**trial.params, **chosen},
        metrics=outcome.summary,
        seed=seeds[best],
        seed_metrics=outcome.rows[best],
        folder=str(folder),
        video=str(video) if video.is_file() else None,
    )
    append_best(sweep / BEST_CSV, spec.options.num_trials * run_spec.training_steps, outcome.summary)
    write_json(sweep / RECORD, asdict(policy_result))
    return policy_result


def read_best(sweep: Path) -> BestPolicy | None:
    """Return what was found of the best configuration so far."""
    record = sweep / RECORD
    return BestPolicy(**json.loads(record.read_text())) if record.is_file() else None


def append_best(path: Path, steps: int, metrics: dict[str, float]) -> None:
    """Append the best's row, at the steps that all trials may take; a changed best has a row of its own at any rate."""
    log = CsvLog(path)
    rows = read_csv(path) if path.is_file() else []
    if not rows or any(rows[-1].get(key) != value for key, value in metrics.items()):
        log.append(max(steps, log.last_step + 1), metrics)


def register_best(
    sweep: Path, spec: SweepSpec, best: BestPolicy, tracked: Tracked, *, name: str | None = None
) -> BestPolicy:
    """Register the policy, load it back through MLflow, evaluate it on the same episodes, offer it as the best one.

    `name` is another name than the sweep's, under which it is registered though it may be registered already.
    """
    wanted = name or (spec.model_name if best.model is None else None)
    if wanted is None or tracked.run_id is None:
        return best
    run = RunDir(trial_folder(sweep, best.trial))
    tags = {"sweep": sweep.name, "trial": best.trial, "seed": best.seed, **version_tags(run, run.spec())}
    made = register_policy(Path(best.folder), final_spec(spec, None), wanted, tracked.run_id, tags)
    best = replace(best, model=made.uri, loaded_metrics=made.metrics, is_best=made.best, why=made.why)
    write_json(sweep / RECORD, asdict(best))
    return best


def final_spec(spec: SweepSpec, trial: FrozenTrial | None) -> RunSpec:
    """Return the spec of the final evaluation: fresh episodes, final_episodes of each seed."""
    base = with_changes(spec.base, **trial.params) if trial is not None else spec.base
    return final_evaluation(base, spec.options.final_episodes)
