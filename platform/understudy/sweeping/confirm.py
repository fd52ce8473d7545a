"""Evaluate on fresh start states what a sweep chose: the best, those not distinguishable from it, the default.

The start states' reset seeds are none that any trial was ranked by, and with confirm_seeds the policies are of fresh
training seeds too. So what is printed for the best is never what it was chosen by. The default is trained for it where
no trial has its values. The episodes are in the sweep's own episodes.arrow (stage `confirmation`), which a resumed
sweep takes them from.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from understudy.comparisons import SIGNIFICANCE, Difference, holm, paired_difference, undistinguished
from understudy.devices import resolve_device
from understudy.errors import UserError
from understudy.policy import Policy
from understudy.registry import algorithms, loops
from understudy.runs.directory import RunDir
from understudy.runs.episodes import (
    CONFIRMATION,
    FILE,
    put_evaluation,
    read_episodes,
    rows_where,
    setting_text,
    values_of,
)
from understudy.runs.registering import final_evaluation
from understudy.runs.results import RATES
from understudy.runs.stop import Notice
from understudy.spec.keys import build_run, with_changes
from understudy.sweeping.directory import SweepDir
from understudy.sweeping.outcomes import TrialOutcome, finished, matrix_of, measured, pack_name, packs_of
from understudy.sweeping.sweep_spec import SweepSpec
from understudy.sweeping.trial import trial_spec
from understudy.sweeping.tuning import run_packs
from understudy.sweeping.words import DEFAULT

logger = logging.getLogger("understudy")


@dataclass(frozen=True)
class Candidate:
    """A configuration that is confirmed."""

    name: str
    """`trial 3`, or DEFAULT where no trial at the settings that it does best at is just that."""
    trial: int | None
    parameters: dict[str, Any]
    chosen: dict[str, Any]
    """Its evaluation-time parameters."""
    ranked: float | None = None
    """The score that it was ranked by."""
    is_default: bool = False


@dataclass(frozen=True)
class Confirmed:
    """A candidate and its results on episodes that it was not chosen by."""

    name: str
    trial: int | None
    parameters: dict[str, Any]
    chosen: dict[str, Any]
    ranked: float | None
    is_default: bool
    seeds: list[int] = field(default_factory=list[int])
    metrics: dict[str, float] = field(default_factory=dict[str, float])
    below: list[float | None] | None = None
    """How far below the best it scores on the same start states: [mean, low, high], the ends None without any spread;
    None for the best itself."""
    distinguishable: bool | None = None
    """Whether that is significant, after Holm's correction for the number of candidates."""


def candidates(spec: SweepSpec, ranked: Sequence[TrialOutcome]) -> list[Candidate]:
    """Return what is to be confirmed: the best, at most confirm_rivals not distinguishable from it, the default."""
    objective = spec.goal.first
    found = [
        Candidate(f"trial {item.number}", item.number, item.parameters, item.chosen, objective.value(item.metrics))
        for item in (ranked[0], *rivals(spec, ranked)[: spec.options.confirm_rivals])
    ]
    default = default_candidate(spec, ranked)
    if default is None:
        return found
    for place, item in enumerate(found):
        if (item.trial, item.chosen) == (default.trial, default.chosen):
            found[place] = replace(item, is_default=True)
            return found
    return [*found, default]


def rivals(spec: SweepSpec, ranked: Sequence[TrialOutcome]) -> list[TrialOutcome]:
    """Return, best first, the trials that the episodes of the ranking do not distinguish from the best."""
    first, *rest = ranked
    matrices = {item.number: item.matrix(spec.goal.first) for item in ranked}
    own = matrices[first.number]
    if own is None:
        return []
    scores = {
        str(number): matrix
        for number, matrix in matrices.items()
        if matrix is not None and matrix.shape[1] == own.shape[1] and max(len(own), len(matrix), own.shape[1]) > 1
    }
    if str(first.number) not in scores:
        return []
    alike = set(undistinguished(scores, str(first.number), rate=spec.goal.first.named(first.metrics) in RATES))
    return [item for item in rest if str(item.number) in alike and spec.goal.keeps(item.metrics)]


def default_candidate(spec: SweepSpec, ranked: Sequence[TrialOutcome]) -> Candidate | None:
    """Return the default values of all that is swept: a trial that has them, else one that is yet to be trained."""
    if not spec.options.with_default:
        return None
    swept = {*spec.dimensions, *spec.grid}
    try:
        run = build_run({key: value for key, value in spec.run.items() if key not in swept})
    except UserError:  # the default goes with no such run
        return None
    defaults = {**run.flat(), "eval_temperature": run.config.acting_temperature}  # what none stands for
    parameters = {key: defaults.get(key) for key in spec.dimensions}
    chosen = {key: defaults.get(key) for key in spec.grid}
    for item in ranked:
        if item.parameters == parameters:
            return Candidate(DEFAULT, item.number, parameters, chosen, is_default=True)
    return Candidate(DEFAULT, None, parameters, chosen, is_default=True)


def confirm(
    sweep: SweepDir, spec: SweepSpec, ranked: Sequence[TrialOutcome], parent_run_id: str | None
) -> list[Confirmed]:
    """Evaluate the candidates on episodes that none was ranked by; return them, best first. The notice raises
    Stopped."""
    chosen, notice = candidates(spec, ranked), Notice(sweep.path)
    _train_missing(sweep, spec, chosen, parent_run_id)
    _say_cost(spec, chosen)
    found: list[Confirmed] = []
    tables: list[pa.Table] = []
    for item in chosen:
        runs = _runs(sweep.path, spec, item)
        if not runs:
            logger.warning("%s is not confirmed: its training did not finish", item.name)
            continue
        seeds = sorted(seed for run in runs for seed in run.spec().all_seeds)
        metrics, table = _confirmed(sweep.path, spec, item, runs, notice)
        facts = (item.name, item.trial, item.parameters, item.chosen, item.ranked, item.is_default)
        found.append(Confirmed(*facts, seeds, metrics))
        tables.append(table)
    return told_apart(spec, found, tables)


def told_apart(spec: SweepSpec, found: list[Confirmed], tables: Sequence[pa.Table]) -> list[Confirmed]:
    """Return the same with each one's difference from the best."""
    matrices = [matrix_of(table, spec.goal.first) for table in tables]
    if len(found) < 2 or any(matrix is None or max(matrix.shape) < 2 for matrix in matrices):
        return found
    known = {str(place): matrix for place, matrix in enumerate(matrices) if matrix is not None}
    differences = verdicts(known, "0", rate=spec.goal.first.named(found[0].metrics) in RATES)
    for place in range(1, len(found)):
        difference, told = differences[str(place)]
        below = [difference.mean, *(difference.ends or (None, None))]
        found[place] = replace(found[place], below=below, distinguishable=told)
    return found


def verdicts(scores: Mapping[str, np.ndarray], best: str, *, rate: bool = False) -> dict[str, tuple[Difference, bool]]:
    """Return the best's paired difference from each of the others, and whether it is significant (Holm)."""
    others = {name: own for name, own in scores.items() if name != best}
    differences = {name: paired_difference(scores[best], own, rate=rate) for name, own in others.items()}
    adjusted = holm({name: difference.p for name, difference in differences.items()})
    return {name: (difference, adjusted[name] < SIGNIFICANCE) for name, difference in differences.items()}


def fresh_seeds(spec: SweepSpec) -> tuple[int, ...]:
    """Return the seeds that only confirmation trains."""
    first = max(spec.base.all_seeds) + 1
    return tuple(range(first, first + spec.options.confirm_seeds))


def _own_pack(spec: SweepSpec, item: Candidate) -> tuple[str, tuple[int, ...]] | None:
    """Return the folder and the seeds of the pack that only the confirmation of a candidate trains; None: of none."""
    seeds, stem = fresh_seeds(spec), "default" if item.trial is None else f"{item.trial:04d}"
    if seeds:
        return f"{stem}_fresh_sd{seeds[0]:03d}-sd{seeds[-1]:03d}", seeds  # so since earlier versions
    return (pack_name(stem, spec.base.all_seeds), spec.base.all_seeds) if item.trial is None else None


def _train_missing(sweep: SweepDir, spec: SweepSpec, chosen: Sequence[Candidate], parent_run_id: str | None) -> None:
    """Train each candidate's fresh seeds, and the default that no trial has, as packs, where that is not done."""
    packs: dict[str, dict[str, Any]] = {}
    for item in chosen:
        own = _own_pack(spec, item)
        if own is None or finished(RunDir(sweep.path / "trials" / own[0]), spec.base.total_steps):
            continue
        number = item.trial if item.trial is not None else 0
        packs[own[0]] = {"number": number, "parameters": item.parameters, "seeds": list(own[1]), "name": own[0]}
    if not packs:
        return
    if spec.options.confirm_seeds:
        logger.info("confirming: %d configurations x %d fresh seeds are trained", len(packs), len(fresh_seeds(spec)))
    else:
        many = len(spec.base.all_seeds)
        seeds = f"{many} seed{'s' if many > 1 else ''}"
        logger.info("no trial has the default values: they are trained with %s (with_default=false: not)", seeds)
    run_packs(sweep, spec, list(packs.values()), parent_run_id)


def _say_cost(spec: SweepSpec, chosen: Sequence[Candidate]) -> None:
    seeds = spec.options.confirm_seeds or len(spec.base.all_seeds)
    if spec.base.evaluation.eval_episodes and len(chosen) > 1:
        episodes = spec.options.final_episodes
        logger.info(
            "confirming %s on %d fresh episodes a seed: up to %d in all (confirm_rivals, final_episodes)",
            ", ".join(item.name for item in chosen),
            episodes,
            len(chosen) * seeds * episodes,
        )


def _runs(sweep: Path, spec: SweepSpec, item: Candidate) -> list[RunDir]:
    """Return the run directories of the policies that a candidate is confirmed with."""
    own = _own_pack(spec, item)
    if own is not None:
        runs = [RunDir(sweep / "trials" / own[0])]
    else:
        assert item.trial is not None
        runs = packs_of(sweep, item.trial)
    return [run for run in runs if finished(run, spec.base.total_steps)]


def load_policies(runs: Sequence[RunDir], device: str, chosen: Mapping[str, Any]) -> Policy:
    """Return the final policies of all seeds of these runs as one, acting with `chosen` settings."""
    files: dict[int, Path] = {}
    for run in runs:
        own = run.spec().all_seeds
        files |= {seed: run.member(seed, own) / "final_model.pt" for seed in own}
    policy = Policy.from_checkpoint(*(files[seed] for seed in sorted(files)), device=resolve_device(device))
    return policy.with_config(**{key: value for key, value in chosen.items() if value is not None})


def _confirmed(
    sweep: Path, spec: SweepSpec, item: Candidate, runs: Sequence[RunDir], notice: Notice
) -> tuple[dict[str, float], pa.Table]:
    """Return a candidate's metrics and episodes, which are played once, and which nothing was ranked by."""
    base = trial_spec(spec, item.parameters)
    run_spec = with_changes(
        final_evaluation(base, spec.options.final_episodes),
        seeds=sorted(seed for run in runs for seed in run.spec().all_seeds),
    )
    trial = None if item.name == DEFAULT else item.trial
    held = _held(sweep / FILE, spec, run_spec, trial, item.chosen)
    if held is not None:
        return measured(spec, held), held
    notice.check()
    policy = load_policies(runs, base.placement.device, item.chosen)
    outcome = loops.get(policy.algorithm.loop).evaluate(policy, run_spec, poll=notice.poll)
    if not outcome.episodes:
        return outcome.summary, read_episodes(sweep / "none")
    played = [replace(one, seed=policy.seeds[one.seed]) for one in outcome.episodes]
    steps = spec.base.total_steps
    table = put_evaluation(sweep / FILE, CONFIRMATION, trial, outcome.setting, steps, played)
    return measured(spec, table), table


def _held(path: Path, spec: SweepSpec, run_spec: Any, trial: int | None, chosen: Mapping[str, Any]) -> pa.Table | None:
    """Return the episodes of the same evaluation where they were played before."""
    rows = rows_where(read_episodes(path), stage=CONFIRMATION, trial=trial, step=spec.base.total_steps)
    config, names = run_spec.config, algorithms.get(run_spec.algo).evaluation_parameters
    text = setting_text({**{key: getattr(config, key) for key in names}, **chosen})
    rows = rows_where(rows, setting=text)
    evaluation = run_spec.evaluation
    states = range(evaluation.eval_seed, evaluation.eval_seed + evaluation.eval_episodes)
    same = values_of(rows, "reset_seed") == list(states) and values_of(rows, "seed") == sorted(run_spec.all_seeds)
    return rows if same and rows.num_rows else None
