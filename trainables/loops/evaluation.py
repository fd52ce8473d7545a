"""Evaluate a pack in its environment, every member and evaluation-time setting, and on held-out episodes."""

from __future__ import annotations

import itertools
import logging
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from understudy.algorithm import Algorithm, Batch
from understudy.envs.rollouts.acting import Acting, Execution
from understudy.envs.rollouts.evaluation import (
    Ended,
    Episodes,
    Evaluation,
    OnEnd,
    OnEpisode,
    OnStep,
    Stepping,
    evaluate,
)
from understudy.envs.rollouts.limits import check_limit
from understudy.envs.rollouts.pools import Command, LocalPool, Poll, Pool, pool_for
from understudy.errors import DatasetError
from understudy.language import Told
from understudy.observations import Arrays, ObservationShape, describe, has_pictures, shape_of
from understudy.policy import Policy
from understudy.runs.episodes import TEMPERATURE, Played, Recorder, Setting, setting_text
from understudy.runs.results import rank_key
from understudy.spec.run import RunSpec
from understudy.statistics import interval, return_interval
from understudy.trainables.loops.batches import HELD_OUT
from understudy.trainables.loops.data import environment_of
from understudy.trainables.packs.pack import Pack

logger = logging.getLogger("understudy")
PolicyAct = Callable[[Arrays, np.ndarray, Sequence[int] | None, Algorithm | None], np.ndarray]
"""act(observations [K, R, *O], noise [K, R, *], members, algorithm) -> actions [K, R, H, A]: a Pack's or a Policy's."""


@dataclass
class Outcome:
    """One evaluation of a pack at its configured settings, and at every value of a grid when there is one."""

    rows: list[dict[str, float]]
    """Per seed: return, length, success, normalized_return (those the environment has)."""
    summary: dict[str, float]
    """Means over seeds; of the objective also `_low`, `_high`, `_iqm`, `_seeds`, `_episodes`."""
    grid_rows: list[dict[str, float]] = field(default_factory=list[dict[str, float]])
    """Per seed: the same columns for each grid value, as `flow_steps_10/success`."""
    grid_summary: dict[str, float] = field(default_factory=dict[str, float])
    best_summary: dict[str, float] = field(default_factory=dict[str, float])
    """The summary of the best grid value; `summary` itself without a grid."""
    best_parameters: dict[str, Any] = field(default_factory=dict[str, Any])
    episodes: list[Played] = field(default_factory=list[Played])
    """Every episode of `rows`, with its member's place for a seed."""
    best_episodes: list[Played] = field(default_factory=list[Played])
    """Those of the best grid value; `episodes` without a grid."""
    setting: Setting = field(default_factory=Setting)
    """How they were played."""


class Evaluator:
    """Holds a run's environment by name; nothing is created before `check` or `evaluate`."""

    def __init__(self, spec: RunSpec, recorded: Mapping[str, Any] | None = None) -> None:
        self.spec = spec
        self.factory = environment_of(spec, recorded)
        self.recorder: Recorder | None = None
        """What is told of each episode of the evaluation that was made last."""

    @classmethod
    def of(cls, policy: Policy, spec: RunSpec) -> Evaluator:
        """Return an evaluator in a saved policy's own environment, or in the one that `spec` names instead."""
        return cls(spec, policy.environment if spec.env_name == policy.env_name else None)

    def check(self, observation_shape: ObservationShape, action_dim: int, told: Told | None = None) -> None:
        """Make the environment, take one step in it, compare it with the dataset; DatasetError where it is unfit.

        Of a policy that is told task texts also that there is one to tell: UserError where there is none.
        """
        command = Command(0, seed=self.spec.evaluation.eval_seed, check=True)
        if has_pictures(observation_shape) or self.spec.placement.eval_timeout:
            # In the process that will render them: a renderer belongs to the thread that made it.
            first = self._pool().run([command])[0]
        else:
            with closing(LocalPool(self.factory, render=False)) as pool:
                first = pool.run([command])[0]
        check_limit(self.spec.env_name, first.limit)
        execution = Execution(told=told)
        shown = Acting(self.factory.view, execution, first.observation, first.goal, text=first.text).shown()
        shapes = shape_of(shown), first.action_dim
        if shapes != (observation_shape, action_dim):
            raise DatasetError(
                f"{self.spec.env_name}: the data have observations {describe(observation_shape)} and {action_dim}"
                f" action dims, the environment {describe(shapes[0])} and {shapes[1]}: they are not of one task"
            )

    def _pool(self) -> Pool:
        spec = self.spec
        slots = min(spec.placement.eval_envs, len(spec.all_seeds) * spec.evaluation.eval_episodes)
        timeout = spec.placement.eval_timeout or None
        return pool_for(self.factory, render=False, processes=spec.placement.cpus, slots=slots, timeout=timeout)

    def evaluate(
        self,
        act: PolicyAct,
        members: int,
        algorithm: Algorithm,
        grid: Mapping[str, tuple[Any, ...]],
        poll: Poll | None = None,
        recorder: Recorder | None = None,
    ) -> Outcome:
        """Evaluate at the configured settings, or at every combination of `grid` (evaluation-time parameters).

        `recorder` gets each episode when it ends, and where it is in the video that `record` makes next.
        """
        self.recorder = recorder
        outcome = self._evaluated(act, members, algorithm, grid, poll)
        if recorder is not None:
            recorder.finish()
        return outcome

    def _evaluated(
        self,
        act: PolicyAct,
        members: int,
        algorithm: Algorithm,
        grid: Mapping[str, tuple[Any, ...]],
        poll: Poll | None,
    ) -> Outcome:
        outcome = self._outcome(act, members, algorithm, poll)
        outcome.best_episodes = outcome.episodes
        if not grid:
            return outcome
        outcome.grid_rows = [{} for _ in range(members)]
        tried: list[tuple[dict[str, float], dict[str, Any], list[Played]]] = []
        for values in itertools.product(*grid.values()):
            parameters = dict(zip(grid, values, strict=True))
            configured = all(getattr(algorithm.config, key) == value for key, value in parameters.items())
            acting = algorithm.with_config(**parameters)
            one = outcome if configured else self._outcome(act, members, acting, poll)
            for row, column in zip(outcome.grid_rows, one.rows, strict=True):
                row.update({f"{tag(parameters)}/{key}": value for key, value in column.items()})
            outcome.grid_summary.update({f"{tag(parameters)}/{key}": value for key, value in one.summary.items()})
            tried.append((one.summary, parameters, one.episodes))
        best_of_all = max(tried, key=lambda item: rank_key(item[0]))
        outcome.best_summary, outcome.best_parameters, outcome.best_episodes = best_of_all
        numbers = {key: value for key, value in outcome.best_parameters.items() if isinstance(value, int | float)}
        best = {f"best/{key}": float(value) for key, value in numbers.items()}
        outcome.grid_summary |= {f"best/{key}": value for key, value in outcome.best_summary.items()} | best
        return outcome

    def _outcome(self, act: PolicyAct, members: int, algorithm: Algorithm, poll: Poll | None) -> Outcome:
        return self.outcome_of(self.rollouts(act, members, algorithm, poll=poll), setting_of(algorithm).temperature)

    @staticmethod
    def outcome_of(result: Evaluation, temperature: float) -> Outcome:
        """Return rows and summary of finished rollouts, with the temperature that was acted with."""
        acted = {TEMPERATURE: float(temperature)}
        summary = {**summarise(result), **acted}
        rows = [{**result.summary(k), **acted} for k in range(result.members)]
        return Outcome(rows, summary, best_summary=summary, episodes=episodes_of(result))

    def rollouts(
        self,
        act: PolicyAct,
        members: int,
        algorithm: Algorithm,
        on_step: OnStep | None = None,
        poll: Poll | None = None,
        on_episode: OnEpisode | None = None,
    ) -> Evaluation:
        """Run eval_episodes episodes of every member."""
        spec = self.spec
        episodes = Episodes(spec.evaluation.eval_episodes, spec.evaluation.eval_seed)
        processes = spec.placement.cpus if self._in_processes(algorithm) else 0
        return evaluate(
            lambda observations, noise, chosen: act(observations, noise, chosen, algorithm),
            self.factory,
            episodes,
            Execution.of(algorithm),
            Stepping(spec.placement.eval_envs, processes, spec.placement.eval_timeout or None),
            members=members,
            on_step=on_step,
            on_episode=on_episode,
            on_end=self._taken_down(algorithm),
            poll=poll,
        )

    def _taken_down(self, algorithm: Algorithm) -> OnEnd | None:
        """Return what gives the recorder each episode, if there is a recorder."""
        recorder, seeds = self.recorder, self.spec.all_seeds
        if recorder is None:
            return None
        setting = setting_of(algorithm)
        return lambda ended: recorder.add(setting, played(ended, seeds[ended.member]))

    def _in_processes(self, algorithm: Algorithm) -> bool:
        pictures = has_pictures(algorithm.observation_shape)
        return pictures or self.spec.placement.eval_processes or bool(self.spec.placement.eval_timeout)


def held_out_losses(pack: Pack, batches: Iterable[Batch], poll: Poll | None = None) -> list[dict[str, float]]:
    """Return each member's `validation/` losses: the means over the next HELD_OUT batches."""
    sums: dict[str, torch.Tensor] = {}
    for number, batch in enumerate(itertools.islice(batches, HELD_OUT)):
        if poll is not None:
            poll()
        for key, value in pack.losses(batch, number).items():
            sums[key] = sums.get(key, torch.zeros(len(pack), dtype=torch.float64)) + value.double().cpu()
    table = {f"validation/{key}": total / HELD_OUT for key, total in sums.items()}
    return [{key: float(values[index]) for key, values in table.items()} for index in range(len(pack))]


def summarise(result: Evaluation) -> dict[str, float]:
    """Return means over seeds and, for the objective, its interval and interquartile mean."""
    rows = [result.summary(k) for k in range(result.members)]
    means = {key: float(np.mean([row[key] for row in rows])) for key in rows[0]}
    if result.successes is not None:
        return {**means, **interval(result.successes).as_metrics("success")}
    if result.normalized is not None:
        return {**means, **return_interval(result.normalized).as_metrics("normalized_return")}
    return {**means, **return_interval(result.returns).as_metrics("return")}


def setting_of(algorithm: Algorithm) -> Setting:
    """Return the settings that an algorithm's policies act with, as the table of episodes has them."""
    parameters = {key: getattr(algorithm.config, key) for key in algorithm.evaluation_parameters}
    return Setting(setting_text(parameters), algorithm.config.acting_temperature)


def played(ended: Ended, seed: int) -> Played:
    """Return an episode as the table has it."""
    came = (ended.returns, ended.length, ended.success, ended.normalized_return)
    return Played(seed, ended.episode, ended.reset_seed, *came, text=ended.text)


def episodes_of(result: Evaluation) -> list[Played]:
    """Return the episodes of a finished evaluation, each with its member's place for a seed."""

    def at(scores: np.ndarray | None, member: int, episode: int) -> float | None:
        return None if scores is None else float(scores[member, episode])

    return [
        Played(
            member,
            episode,
            result.seed + episode,
            float(result.returns[member, episode]),
            int(result.lengths[member, episode]),
            at(result.successes, member, episode),
            at(result.normalized, member, episode),
            text=result.texts.get((member, episode)),
        )
        for member in range(result.members)
        for episode in range(result.returns.shape[1])
    ]


def tag(parameters: Mapping[str, Any]) -> str:
    """Return the column prefix of one combination of evaluation-time parameters, like `flow_steps_10`.

    Of texts, what no metric's name may hold becomes `_`.
    """
    shown = {key: f"{value:g}" if isinstance(value, float) else value for key, value in parameters.items()}
    for key, value in parameters.items():
        if isinstance(value, str):
            shown[key] = re.sub(r"[^\w\-. ]+", "_", value)
    return ",".join(f"{key}_{value}" for key, value in shown.items())
