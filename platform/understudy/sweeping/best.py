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

from understudy import models
from understudy.devices import resolve_device
from understudy.files import write_json
from understudy.policy import Policy
from understudy.registry import loops
from understudy.runs.directory import CsvLog, RunDir
from understudy.runs.results import rank_key
from understudy.spec.keys import with_changes
from understudy.spec.run import RunSpec
from understudy.sweeping.spec import SweepSpec
from understudy.sweeping.trial import trial_folder
from understudy.tracking import Tracked

BEST_CSV, RECORD = "best_eval.csv", "best.json"
FRESH_EPISODES = 1_000_000
"""Added to eval_seed, so that the final evaluation plays episodes that no trial was ranked by."""


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
    best = max(range(len(seeds)), key=lambda k: (rank_key(outcome.rows[k]), -seeds[k]))
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
    # By the steps that all trials may take: given more trials or more steps, a sweep has a further row.
    CsvLog(sweep / BEST_CSV).append(spec.options.num_trials * run_spec.training_steps, outcome.summary)
    write_json(sweep / RECORD, asdict(policy_result))
    return policy_result


def read_best(sweep: Path) -> BestPolicy | None:
    """Return what was found of the best configuration so far."""
    record = sweep / RECORD
    return BestPolicy(**json.loads(record.read_text())) if record.is_file() else None


def register_best(sweep: Path, spec: SweepSpec, best: BestPolicy, tracked: Tracked) -> BestPolicy:
    """Register the policy with alias `best`, load it back through MLflow and evaluate it on the same episodes."""
    if spec.model_name is None or tracked.run_id is None or best.model is not None:
        return best
    uri = spec.base.placement.tracking()
    version = models.register(
        tracked.run_id,
        Path(best.folder),
        spec.model_name,
        alias="best",
        tags={"sweep": sweep.name, "trial": best.trial, "seed": best.seed},
        tracking_uri=uri,
    )
    again = final_spec(spec, None)
    device = resolve_device(again.placement.device)
    loaded = models.load_policy(f"models:/{spec.model_name}@best", tracking_uri=uri, device=device)
    outcome = loops.get(loaded.algorithm.loop).evaluate(loaded, again)
    best = replace(best, model=f"models:/{spec.model_name}/{version}", loaded_metrics=outcome.rows[0])
    write_json(sweep / RECORD, asdict(best))
    return best


def final_spec(spec: SweepSpec, trial: FrozenTrial | None) -> RunSpec:
    """Return the spec of the final evaluation: fresh episodes, final_episodes of each seed."""
    base = with_changes(spec.base, **trial.params) if trial is not None else spec.base
    first = base.evaluation.eval_seed + FRESH_EPISODES
    return with_changes(base, eval_seed=first, eval_episodes=spec.options.final_episodes)
