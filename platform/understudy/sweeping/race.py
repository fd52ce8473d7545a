"""Give the promising trials of a sweep more seeds, round by round, as further packs; what is done is not done again.

Which trials go on is a function of what is in the run directories, so a race that was interrupted goes on as it would
have. `race.json` records how many seeds each trial got, and what that cost compared with all seeds for all.
"""

from __future__ import annotations

import itertools
import logging
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from optuna.trial import FrozenTrial, TrialState

from understudy.errors import UserError
from understudy.files import write_json
from understudy.runs.directory import RunDir
from understudy.runs.episodes import FILE, read_episodes, rows_where, values_of
from understudy.runs.results import RATES
from understudy.sweeping.directory import SweepDir
from understudy.sweeping.objective import Objective
from understudy.sweeping.outcomes import (
    TrialOutcome,
    finished,
    held_out,
    matrix_of,
    outcome_of,
    pack_name,
    packs_of,
)
from understudy.sweeping.racing import RaceReplay, Rule, binomial_floor, looks, replay, survivors
from understudy.sweeping.study import Study
from understudy.sweeping.sweep_spec import SweepSpec
from understudy.sweeping.trial import trial_folder
from understudy.sweeping.tuning import run_packs

logger = logging.getLogger("understudy")
RECORD = "race.json"


def race(sweep: SweepDir, spec: SweepSpec, study: Study, parent_run_id: str | None) -> dict[int, TrialOutcome]:
    """Run the rounds that are left and return what each finished trial came to, by its number."""
    rule, seeds = spec.options.racing, spec.base.all_seeds
    stages = looks(rule, len(seeds))
    done = study.trials(TrialState.COMPLETE)
    outcomes: dict[int, TrialOutcome] = outcomes_of(sweep.path, spec, done, seeds[: stages[0]])
    alive: list[int] = sorted(outcomes)
    rounds: list[dict[str, Any]] = [{"seeds": stages[0], "trials": alive}]
    for before, now in itertools.pairwise(stages):
        alive = going_on(rule, spec, outcomes, alive, len(stages))
        new = seeds[before:now]
        wanted = [pack_name(f"{number:04d}", new) for number in alive]
        packs = [
            {"number": number, "parameters": outcomes[number].parameters, "seeds": list(new), "name": name}
            for number, name in zip(alive, wanted, strict=True)
            if not finished(RunDir(trial_folder(sweep.path, number).with_name(name)), spec.base.total_steps)
        ]
        if packs:
            logger.info("%d of %d configurations go on to %d seeds", len(alive), len(outcomes), now)
            run_packs(sweep, spec, packs, parent_run_id)
        again = [trial for trial in done if trial.number in alive]
        outcomes |= outcomes_of(sweep.path, spec, again, seeds[:now])
        alive = [number for number in alive if len(outcomes[number].seeds) == now] or alive  # a pack may have failed
        rounds.append({"seeds": now, "trials": sorted(alive)})
    if rule != "none":
        spent = sum(len(outcome.seeds) for outcome in outcomes.values())
        cost = {"rule": rule, "rounds": rounds, "seed_runs": spent, "all_seed_runs": len(outcomes) * len(seeds)}
        write_json(sweep.path / RECORD, cost)
    return outcomes


def outcomes_of(
    sweep: Path, spec: SweepSpec, trials: Iterable[FrozenTrial], seeds: tuple[int, ...]
) -> dict[int, TrialOutcome]:
    """Return the outcomes of trials over these seeds; for folders of earlier versions, what the study holds."""
    found: dict[int, TrialOutcome] = {}
    for trial in trials:
        outcome = outcome_of(sweep, spec, trial.number, dict(trial.params), seeds)
        if outcome is None and "metrics" in trial.user_attrs:
            chosen = trial.user_attrs.get("best_parameters", {})
            outcome = TrialOutcome(trial.number, dict(trial.params), chosen, trial.user_attrs["metrics"], seeds)
        if outcome is not None:
            found[trial.number] = outcome
    return found


def ranking(spec: SweepSpec, outcomes: Mapping[int, TrialOutcome]) -> list[TrialOutcome]:
    """Return the outcomes, best first: those with the most seeds before those that the race dropped."""
    return sorted(outcomes.values(), key=lambda item: _order(spec, item), reverse=True)


def _order(spec: SweepSpec, item: TrialOutcome) -> tuple[Any, ...]:
    keeps, score, returns = spec.goal.key(item.metrics)
    return keeps, len(item.seeds), score, returns, -item.number


def going_on(
    rule: Rule, spec: SweepSpec, outcomes: Mapping[int, TrialOutcome], alive: list[int], number_of_looks: int
) -> list[int]:
    """Return the numbers of the trials that get the next seeds, best first."""
    numbers = sorted(outcomes)
    means = [seed_means(spec, outcomes[number]) for number in numbers]
    places = [numbers.index(number) for number in alive]
    kept = survivors(rule, means, places, number_of_looks, _floor(spec, outcomes, means))
    return [numbers[place] for place in kept]


def seed_means(spec: SweepSpec, outcome: TrialOutcome) -> np.ndarray:
    """Return each seed's score (higher is better); the one score of the trial where seeds are not kept apart."""
    scores = outcome.matrix(spec.goal.first)
    if scores is None:
        return np.full(len(outcome.seeds), spec.goal.first.score(outcome.metrics))
    return scores.mean(axis=1)


def _floor(spec: SweepSpec, outcomes: Mapping[int, TrialOutcome], means: list[np.ndarray]) -> float:
    some = next((item for item in outcomes.values() if item.episodes.num_rows), None)
    if some is None or spec.goal.first.named(some.metrics) not in RATES:
        return 0.0
    episodes = len(values_of(some.episodes, "reset_seed"))
    return binomial_floor(np.concatenate(means), episodes)


# ---- another rule on the same trials ----


def replayed(sweep: Path, spec: SweepSpec, trials: Iterable[FrozenTrial], rule: Rule) -> tuple[RaceReplay, list[int]]:
    """Return what a rule would have done on a sweep's recorded episodes, and the numbers of its configurations."""
    own = spec.options.racing
    if own != "none":
        raise UserError(
            f"{sweep}: its seeds were raced (racing={own}), so not all trials have all of them: a race is replayed on a"
            " sweep with racing=none"
        )
    numbers: list[int] = []
    scores: list[np.ndarray] = []
    for trial in trials:
        table = _setting_by_seed(sweep, spec, trial.number)
        if table is not None:
            numbers.append(trial.number)
            scores.append(table)
    if len(numbers) < 2:
        raise UserError(
            f"{sweep}: fewer than two trials have all {len(spec.base.all_seeds)} seeds: a race is replayed on a sweep"
            " with racing=none"
        )
    every = np.stack(scores)
    rate = spec.goal.first.name in ("auto", *RATES) and every.min() >= 0 and every.max() <= 1
    episodes = spec.base.evaluation.eval_episodes
    return replay(rule, every, binomial_floor(every, episodes) if rate and episodes else 0.0), numbers


def _setting_by_seed(sweep: Path, spec: SweepSpec, number: int) -> np.ndarray | None:
    """Return a trial's scores [settings, seeds]; None where a seed is missing."""
    steps, seeds, objective = spec.base.total_steps, spec.base.all_seeds, spec.goal.first
    packs = [pack for pack in packs_of(sweep, number) if finished(pack, steps)]
    if not packs:
        return None
    rows = pa.concat_tables([rows_where(read_episodes(pack.path / FILE), step=steps) for pack in packs])
    if not rows.num_rows:
        measures = held_out(packs, seeds, steps)
        values = measures.get(objective.named({key: each[0] for key, each in measures.items()}), [])
        return np.array([[objective.signed(value) for value in values]]) if len(values) == len(seeds) else None
    if not set(seeds) <= set(values_of(rows, "seed")):
        return None
    return np.array(
        [
            [_mean(rows_where(rows, setting=text, seed=seed), objective) for seed in seeds]
            for text in values_of(rows, "setting")
        ]
    )


def _mean(rows: pa.Table, objective: Objective) -> float:
    scores = matrix_of(rows, objective)
    if scores is None:
        raise UserError(f"no {objective.name} is known of the episodes")
    return float(scores.mean())
