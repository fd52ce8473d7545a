"""Register a policy as a version of a model, load it back, evaluate it, and call it the best one if it is better."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from understudy import models, tracking
from understudy.devices import resolve_device
from understudy.errors import StoreAway, UserError
from understudy.files import typed
from understudy.policy import Policy
from understudy.registry import loops
from understudy.runs.directory import RunDir
from understudy.runs.ended import check_ended
from understudy.runs.results import rank_key
from understudy.runs.scores import Score, judge
from understudy.runs.sync import check_sent, sync
from understudy.secrecy import without_secrets
from understudy.spec.keys import with_changes
from understudy.spec.model_names import check_model_name, default_model_name
from understudy.spec.run import RunSpec

FRESH_EPISODES = 1_000_000
"""Added to eval_seed, so that reported numbers come from episodes that played no part in the choice: once for a chosen
configuration, twice for its registered seed."""
FINAL_EPISODES = 50


@dataclass(frozen=True)
class Registered:
    """A version of a registered model."""

    name: str
    version: int
    best: bool
    """Whether the alias `best` points at it now."""
    why: str
    metrics: dict[str, float] = field(default_factory=dict[str, float])
    """Metrics of the policy as it was loaded back; empty where it cannot be evaluated here."""

    @property
    def uri(self) -> str:
        """Its address."""
        return f"models:/{self.name}/{self.version}"


def final_evaluation(spec: RunSpec, episodes: int, times: int = 1) -> RunSpec:
    """Return the spec of a final evaluation: fresh episodes, as many of each seed, the `times`-th such set.

    A run that plays no episodes still plays none: it is scored on held-out episodes.
    """
    if not spec.evaluation.eval_episodes:
        return spec
    return with_changes(spec, eval_seed=spec.evaluation.eval_seed + times * FRESH_EPISODES, eval_episodes=episodes)


def best_seed(rows: list[dict[str, float]], seeds: tuple[int, ...]) -> int:
    """Return the place of the seed with the highest objective (ties: the return, then the lower seed)."""
    return max(range(len(seeds)), key=lambda k: (rank_key(rows[k]), -seeds[k]))


def register_policy(
    folder: Path,
    spec: RunSpec,
    name: str,
    run_id: str,
    tags: Mapping[str, Any],
    poll: Callable[[], None] | None = None,
) -> Registered:
    """Register a policy folder, load it back through MLflow, evaluate it by `spec`, and offer it as the best.

    Repeating it after an interruption, such as what `poll` raises before it or between the evaluation's steps, changes
    nothing.
    """
    if poll is not None:
        poll()
    uri, device = spec.placement.tracking(), resolve_device(spec.placement.device)
    version = models.register(run_id, folder, name, alias=None, tags=tags, tracking_uri=uri, step=spec.total_steps)
    policy = models.load_policy(f"models:/{name}/{version}", tracking_uri=uri, device=device)
    score, metrics, why_not = _evaluated(policy, spec, poll)
    if score is not None:
        models.tag_version(uri, name, version, score.tags())
    best, why = models.offer_best(uri, name, version, partial(judge, score))
    return Registered(name, version, best, why_not or why, metrics)


def _evaluated(
    policy: Policy, spec: RunSpec, poll: Callable[[], None] | None
) -> tuple[Score | None, dict[str, float], str]:
    """Return (score, metrics, why there are none)."""
    evaluate = loops.get(policy.algorithm.loop).evaluate
    try:
        outcome = evaluate(policy, spec, poll=poll)
    except UserError as error:  # its environment is not here
        return None, {}, f"it was not evaluated: {error}"
    environment = policy.environment or {"env_name": spec.env_name}
    if not policy.algorithm.acts or not spec.evaluation.eval_episodes:
        data = spec.data
        held_out = data.validation_fraction, data.validation_filter_key, data.dataset_proportion
        environment = {"env_name": spec.env_name, "held_out": held_out}
    settings = spec.evaluation
    score = Score.of(outcome.summary, environment, settings.eval_episodes, settings.eval_seed)
    return score, outcome.rows[0], ""


def register_run(
    run: RunDir,
    name: str | None,
    *,
    tracking_uri: str,
    seed: int | None,
    episodes: int,
    poll: Callable[[], None] | None = None,
) -> tuple[Registered, int]:
    """Register a finished run's policy; return it and its seed: the one that does best on fresh episodes, unless given.

    Raises UserError, before anything is registered, for a run that has not finished or is damaged and for a name that
    cannot be.
    """
    spec = run.spec()
    name = name or default_model_name(spec.algo, spec.env_name)
    check_model_name(name, "--as")
    state = run.state()
    if state.get("status") != "finished":
        how = state.get("status", "not begun")
        raise UserError(
            f"{run.path} has not finished (it is {how}): `understudy resume {typed(run.path)}` goes on with it"
        )
    check_ended(run)
    if seed is not None and seed not in spec.all_seeds:
        raise UserError(f"--seed {seed}: the run has the seeds {', '.join(map(str, spec.all_seeds))}")
    spec = store_of(spec, tracking_uri, run.path)
    files = [run.member(one, spec.all_seeds) / "final_model.pt" for one in spec.all_seeds]
    policy = Policy.from_checkpoint(*files, device=resolve_device(spec.placement.device))
    policy = policy.with_config(**state.get("best_parameters", {}))
    tracking.prepare(spec.placement.tracking())
    run_id = tracked_run(run, spec)
    final = final_evaluation(spec, episodes)
    place = spec.all_seeds.index(seed) if seed is not None else 0
    if seed is None and len(files) > 1:
        place = best_seed(loops.get(policy.algorithm.loop).evaluate(policy, final, poll=poll).rows, spec.all_seeds)
    chosen = spec.all_seeds[place]
    tags = {"run": run.path.name, "seed": chosen, **version_tags(run, spec)}
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "policy"
        policy.member(place).save(folder)
        return register_policy(folder, final_evaluation(spec, episodes, 2), name, run_id, tags, poll), chosen


def version_tags(run: RunDir, spec: RunSpec) -> dict[str, Any]:
    """Return what a version's tags say of its training: steps, and the dataset's hash where the run noted it."""
    facts = {"training_steps": spec.training_steps, "dataset_hash": run.state().get("dataset_hash")}
    return {key: value for key, value in facts.items() if value is not None}


def store_of(spec: RunSpec, tracking_uri: str, folder: Path) -> RunSpec:
    """Return the spec with the store that its model is registered in: its own, or `tracking_uri` where it has none."""
    own = spec.placement.tracking()
    if own == tracking.OFF:
        if tracking_uri in ("", tracking.OFF):
            raise UserError(f"{folder} was not tracked (tracking_uri=none): --tracking_uri says where to register it")
        return with_changes(spec, tracking_uri=tracking_uri)
    if tracking_uri and with_changes(spec, tracking_uri=tracking_uri).placement.tracking() != own:
        raise UserError(f"{folder} is registered where it is tracked, {without_secrets(own)}: no --tracking_uri")
    return spec


def tracked_run(run: RunDir, spec: RunSpec) -> str:
    """Return the id of a finished run in MLflow, sending first what is missing there."""
    if run.spec().placement.tracking() != tracking.OFF:
        sync(run)
        held = run.state().get("run_id")
        if held:
            return held
    tracked = tracking.track_run(spec, run.path, name=run.state().get("name"))
    tracked.log_folder(run.path)
    check_sent(run.path, tracked, tracked.close("FINISHED"))
    if tracked.run_id is None:
        raise StoreAway(f"MLflow went away while {run.path} was sent: try again once it is back")
    return tracked.run_id
