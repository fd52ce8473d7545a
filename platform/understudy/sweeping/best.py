"""What becomes of the best configuration: confirmed on fresh episodes, filmed, registered, loaded, evaluated again.

It is taken as trained, not retrained (unless confirm_seeds asks for fresh ones): its seeds' final models are evaluated
with episode seeds that no trial was ranked by. The seed with the highest success there (ties: return, then the lower
seed) becomes the registered model, and its own score is measured on yet other episodes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from understudy.errors import UserError
from understudy.files import read_object, read_record, write_json
from understudy.policy import Policy
from understudy.registry import loops
from understudy.runs.clips import failures_first
from understudy.runs.directory import CsvLog, RunDir, read_csv
from understudy.runs.ended import hash_of, note_of
from understudy.runs.episodes import (
    FILE,
    REGISTERED,
    TRAINING,
    Played,
    metrics_of,
    put_evaluation,
    read_episodes,
    rows_where,
)
from understudy.runs.registering import best_seed, final_evaluation, register_policy, version_tags
from understudy.runs.stop import Notice
from understudy.spec.keys import with_changes
from understudy.spec.run import RunSpec
from understudy.sweeping.confirm import Confirmed, confirm, fresh_seeds, load_policies
from understudy.sweeping.directory import SweepDir
from understudy.sweeping.outcomes import TrialOutcome, finished, packs_of
from understudy.sweeping.sweep_spec import SweepSpec
from understudy.sweeping.trial import trial_folder, trial_spec
from understudy.tracking import Tracked

BEST_CSV, RECORD = "best_eval.csv", "best.json"
HASH = "hash"
"""Key of best.json: the hash of all its others."""


@dataclass(frozen=True)
class BestPolicy:
    """The best configuration of a sweep and its evaluations."""

    trial: int
    training_steps: int
    parameters: dict[str, Any]
    metrics: dict[str, float]
    """Means over its seeds, final_episodes fresh episodes of each, with the interval."""
    seed: int
    """The seed whose policy is registered."""
    seed_metrics: dict[str, float]
    """That seed's metrics, on episodes that it was not chosen by."""
    folder: str
    video: str | None = None
    model: str | None = None
    """models:/NAME/VERSION of the registered model."""
    loaded_metrics: dict[str, float] = field(default_factory=dict[str, float])
    """Metrics of the registered model, loaded back through MLflow and evaluated on the same episodes."""
    is_best: bool = True
    """Whether the alias `best` points at it; it always did before it was compared."""
    why: str = ""
    ranked: float | None = None
    """The score that it was chosen by: the highest of many, and so biased upwards."""
    seeds: list[int] = field(default_factory=list[int])
    """The seeds behind `metrics`."""
    fresh: bool = True
    """Whether `metrics` come from episodes that it was not chosen by; held-out episodes are the same ones."""
    compared: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])
    """The other configurations that were confirmed (`Confirmed`)."""
    is_default: bool = False
    """Whether it has the default value of all that is swept."""
    files: dict[str, list[Any]] = field(default_factory=dict[str, list[Any]])
    """The files of these evaluations: [bytes, hash] of each."""


def evaluate_best(
    sweep: SweepDir, spec: SweepSpec, ranked: Sequence[TrialOutcome], parent_run_id: str | None = None
) -> BestPolicy:
    """Confirm the best trial and its rivals and write best/; read back if it was done before.

    Stopped by the sweep's notice, between two steps of an environment; what was played to its end is not played again.
    """
    winner, held, notice = ranked[0], read_best(sweep.path), Notice(sweep.path)
    steps = spec.base.total_steps
    parameters = {**winner.parameters, **winner.chosen}
    if held is not None and (held.trial, held.training_steps, held.parameters) == (winner.number, steps, parameters):
        return held
    confirmed = confirm(sweep, spec, ranked, parent_run_id)
    runs = [pack for pack in packs_of(sweep.path, winner.number) if finished(pack, steps)]
    base = trial_spec(spec, winner.parameters)
    policy = load_policies(runs, base.placement.device, winner.chosen)
    best = best_seed(_seed_rows(sweep.path, winner, confirmed[0], policy), tuple(policy.seeds))
    chosen, folder = policy.member(best), sweep.path / "best"
    chosen.save(folder)
    seed_metrics, played = _registered(sweep.path, spec, winner, chosen, notice)
    video, count = folder / "video.mp4", spec.base.evaluation.video_episodes
    if count:
        filmed = [episode for _, episode in failures_first(played, count)] or range(count)
        loop = loops.get(chosen.algorithm.loop)
        loop.record(chosen, final_spec(spec, winner), video, episodes=filmed, poll=notice.poll)
    result = BestPolicy(
        trial=winner.number,
        training_steps=steps,
        parameters=parameters,
        metrics=confirmed[0].metrics,
        seed=policy.seeds[best],
        seed_metrics=seed_metrics,
        folder=str(folder),
        video=str(video) if video.is_file() else None,
        ranked=confirmed[0].ranked,
        seeds=confirmed[0].seeds,
        fresh=not spec.held_out_only or bool(fresh_seeds(spec)),
        compared=[asdict(item) for item in confirmed[1:]],
        is_default=confirmed[0].is_default,
    )
    append_best(sweep.path / BEST_CSV, spec.options.num_trials * steps, result.metrics)
    result = replace(result, files=note_of(sweep.path, (BEST_CSV, FILE)))
    write_best(sweep.path, result)
    return result


def _seed_rows(sweep: Path, winner: TrialOutcome, confirmed: Confirmed, policy: Policy) -> list[dict[str, float]]:
    """Return each seed's metrics, from the confirmation or else the ranking: one seed is chosen by them."""
    own = rows_where(read_episodes(sweep / FILE), stage="confirmation", trial=winner.number)
    if confirmed.seeds != sorted(policy.seeds) or not own.num_rows:
        own = rows_where(winner.episodes, stage=TRAINING)
    if own.num_rows:
        return [metrics_of(rows_where(own, seed=seed)) for seed in policy.seeds]
    return [{key: values[place] for key, values in winner.validated.items()} for place in range(len(policy.seeds))]


def _registered(
    sweep: Path, spec: SweepSpec, winner: TrialOutcome, policy: Policy, notice: Notice
) -> tuple[dict[str, float], list[Played]]:
    """Return the chosen seed's metrics, and its episodes, of an evaluation that nothing was chosen by."""
    outcome = loops.get(policy.algorithm.loop).evaluate(policy, final_spec(spec, winner), poll=notice.poll)
    if outcome.episodes:
        played = [replace(one, seed=policy.seeds[0]) for one in outcome.episodes]
        steps = spec.base.total_steps
        put_evaluation(sweep / FILE, REGISTERED, winner.number, outcome.setting, steps, played)
    return outcome.rows[0], outcome.episodes


def read_best(sweep: Path) -> BestPolicy | None:
    """Return the record of the best configuration; None before there is one, UserError where it was changed since."""
    record = sweep / RECORD
    if not record.is_file():
        return None
    found = read_object(record)
    if HASH in found and found.pop(HASH) != hash_of(found):
        raise UserError(f"{record} was changed by hand: put its copy back, or delete it, and resume evaluates anew")
    return read_record(record, BestPolicy)


def write_best(sweep: Path, best: BestPolicy) -> None:
    """Write the record of the best configuration, with the hash of what it says."""
    document = asdict(best)
    write_json(sweep / RECORD, {**document, HASH: hash_of(document)})


def append_best(path: Path, steps: int, metrics: Mapping[str, float | None]) -> None:
    """Append the best's row, at the steps that all trials take together, or at the next free step if the best
    changed."""
    log = CsvLog(path)
    rows = read_csv(path) if path.is_file() else []
    if not rows or any(rows[-1].get(key) != value for key, value in metrics.items()):
        log.append(max(steps, log.last_step + 1), metrics)


def register_best(
    sweep: Path,
    spec: SweepSpec,
    best: BestPolicy,
    tracked: Tracked,
    *,
    name: str | None = None,
    poll: Callable[[], None] | None = None,
) -> BestPolicy:
    """Register the policy, load it back through MLflow, evaluate it on the same episodes, offer it as the best one.

    With `name` it is registered under that instead of the sweep's own name, even if it is registered already. What
    `poll` raises ends the loaded policy's evaluation: the alias stays where it was, and registering can be repeated.
    """
    wanted = name or (spec.model_name if best.model is None else None)
    if wanted is None or tracked.run_id is None:
        return best
    run = RunDir(trial_folder(sweep, best.trial))
    tags = {"sweep": sweep.name, "trial": best.trial, "seed": best.seed, **version_tags(run, run.spec())}
    made = register_policy(Path(best.folder), final_spec(spec, None), wanted, tracked.run_id, tags, poll)
    best = replace(best, model=made.uri, loaded_metrics=made.metrics, is_best=made.best, why=made.why)
    write_best(sweep, best)
    return best


def final_spec(spec: SweepSpec, trial: TrialOutcome | None) -> RunSpec:
    """Return the spec of the registered seed's evaluation, on episodes that neither it nor its trial was chosen by."""
    base = with_changes(spec.base, **trial.parameters) if trial is not None else spec.base
    return final_evaluation(base, spec.options.final_episodes, 2)
