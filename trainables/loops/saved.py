"""Evaluate and collect episodes of saved policies, and of random actions, outside of training."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from understudy.envs.rollouts.acting import Execution
from understudy.envs.rollouts.collecting import Row
from understudy.envs.rollouts.evaluation import Episodes, OnStep, Stepping, evaluate
from understudy.envs.rollouts.pools import Poll
from understudy.language import Told
from understudy.observations import Arrays
from understudy.policy import Policy
from understudy.runs.episodes import Setting
from understudy.spec.run import RunSpec
from understudy.trainables.loops.evaluation import Evaluator, Outcome, setting_of
from understudy.trainables.loops.interaction import Surroundings
from understudy.trainables.loops.judging import judge


def evaluate_policy(
    policy: Policy, spec: RunSpec, *, on_step: OnStep | None = None, poll: Poll | None = None
) -> Outcome:
    """Evaluate every member of a saved policy by `spec`'s settings; without actions or episodes, on held-out ones.

    `poll` is called between steps; what it raises ends the evaluation.
    """
    torch.set_num_threads(spec.placement.cpus)
    if not policy.algorithm.acts or not spec.evaluation.eval_episodes:
        return judge(policy, spec, poll)
    evaluator = Evaluator.of(policy, spec)
    algorithm = policy.algorithm
    evaluator.check(algorithm.observation_shape, algorithm.action_dim, Told.of(algorithm.config.language))
    result = evaluator.rollouts(policy.act_members, len(policy), policy.algorithm, on_step, poll)
    setting = setting_of(policy.algorithm)
    outcome = evaluator.outcome_of(result, setting.temperature)
    outcome.setting = setting
    return outcome


def collect_episodes(policy: Policy, spec: RunSpec, *, poll: Poll | None = None) -> list[Row]:
    """Return the `eval_episodes` episodes that a policy's first member plays, in order, as a store has them.

    They are those of an evaluation: deterministic unless `eval_temperature` says otherwise, episode e with the
    environment's seed `eval_seed + e`.
    """
    torch.set_num_threads(spec.placement.cpus)
    evaluator = Evaluator.of(policy, spec)
    algorithm = policy.algorithm
    evaluator.check(algorithm.observation_shape, algorithm.action_dim, Told.of(algorithm.config.language))
    acting = policy.algorithm.with_config(eval_temperature=spec.config.eval_temperature)
    played: dict[int, Row] = {}
    evaluator.rollouts(
        policy.act_members,
        1,
        acting,
        poll=poll,
        on_episode=lambda _, episode, columns: played.update({episode: columns}),
    )
    return [played[episode] for episode in sorted(played)]


def evaluate_chance(spec: RunSpec, *, poll: Poll | None = None) -> Outcome:
    """Evaluate actions drawn uniformly from the action space, on the episodes that policies are evaluated on."""
    evaluator, settings = Evaluator(spec), spec.evaluation
    bounds = Surroundings(evaluator.factory, settings.eval_seed)
    low, high = bounds.low, bounds.high

    def act(observations: Arrays, noise: np.ndarray, members: Sequence[int]) -> np.ndarray:
        drawn: Any = torch.special  # whose functions have no types
        share = drawn.ndtr(torch.as_tensor(noise).double()).numpy()
        return (low + (high - low) * share).astype(np.float32)[:, :, None]

    result = evaluate(
        act,
        evaluator.factory,
        Episodes(settings.eval_episodes, settings.eval_seed),
        Execution(noise_shape=(bounds.action_dim,)),
        Stepping(spec.placement.eval_envs),
        poll=poll,
    )
    outcome = evaluator.outcome_of(result, 1.0)
    outcome.setting = Setting("random actions", 1.0)
    return outcome
