"""A member that is corrected while it acts, and rewarded by a classifier where one is given.

What is executed is what is kept: a correction takes the place of the policy's action, and its row is marked.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
import torch

from understudy.algorithm import Batch
from understudy.envs.recording.control import Event, Said
from understudy.envs.recording.overseer import Overseer
from understudy.envs.replay.pool import INTERVENTIONS, Pool
from understudy.envs.replay.replay import Replay
from understudy.errors import SpecError, UserError
from understudy.loading import load_policy
from understudy.observations import Arrays, describe, each, shape_of, together
from understudy.spec.in_the_loop import InTheLoop
from understudy.spec.run import RunSpec
from understudy.trainables.algorithms.hilserl import PENALTIES
from understudy.trainables.algorithms.reward_classifier import SuccessDetector
from understudy.trainables.loops.data import Data
from understudy.trainables.loops.interaction import MakesPlayer, Player, Surroundings

MARKS = (INTERVENTIONS, PENALTIES)
Judge = Callable[[Arrays], tuple[float, bool]]
"""Returns the reward of what is seen, and whether the episode ends with it."""


class CorrectedPlayer(Player):
    """One member in its environment, with somebody who may take over."""

    def __init__(
        self, surroundings: Surroundings, seed: int, buffer: Replay, config: InTheLoop, judge: Judge | None
    ) -> None:
        super().__init__(surroundings, seed, buffer)
        self._judge = judge
        self._grips = config.gripper == "discrete"
        self._overseer = (
            None if config.takeover == "none" else Overseer(config, surroundings.factory, self._slot.env, seed)
        )
        self._driving = False
        self.run_steps: int | None = None
        """How far the run is, where this member's own steps are but a share of it."""

    @property
    def overseer(self) -> Overseer | None:
        """Who may take over."""
        return self._overseer

    def step(self, action: np.ndarray) -> dict[str, float] | None:
        """Take one step, with the overseer's action where it says one; return the episode's totals where it ends."""
        said = self._asked()
        before, self._driving = self._driving, said.action is not None
        if said.action is not None:
            action = said.action
            self.decided.clear()
        wasted = self._wasted(action)
        outcome = self._step(action)
        recorded = outcome.recorded[0]
        reward, terminated, ended = self._surroundings.reward(recorded.reward), recorded.terminated, recorded.ends
        if self._judge is not None:
            reward, over = self._judge(self._now())
            terminated, ended = terminated or over, ended or over
        if said.event in (Event.SUCCESS, Event.FAILURE):
            reward, terminated, ended = (1.0 if said.event is Event.SUCCESS else reward), True, True
        self._count(before, wasted)
        self.buffer.add(
            action,
            reward,
            self._now(),
            terminated=terminated,
            ended=ended,
            marks={INTERVENTIONS: float(self._driving), PENALTIES: wasted},
        )
        if not ended:
            return None
        self._acting = None
        self.decided.clear()
        corrected = self.totals.pop("corrected")
        return {**self.totals, "intervention_rate": corrected / self.totals["length"]}

    def _asked(self) -> Said:
        """Return what the overseer says of the next step."""
        if self._overseer is None:
            return Said()
        return self._overseer.says(self._slot.env, self._raw, self._told)

    def _count(self, before: bool, wasted: float) -> None:
        """Count corrected steps, and takeovers by their first steps."""
        self.totals["corrected"] = self.totals.get("corrected", 0.0) + self._driving
        self.totals["interventions"] = self.totals.get("interventions", 0.0) + (self._driving and not before)
        if self._grips:
            self.totals["wasted_grips"] = self.totals.get("wasted_grips", 0.0) + wasted

    def _wasted(self, action: np.ndarray) -> float:
        """Return 1 where the action tells the gripper what it has done already, else 0."""
        closed = self._surroundings.factory.task.gripper_closed(self._slot.env) if self._grips else None
        if closed is None:
            return 0.0
        told = float(action[-1])
        return float((told > 0.5 and closed > 0.9) or (told < -0.5 and closed < 0.1))

    def _replayed(self, action: np.ndarray) -> None:
        """Take a step again; an oracle that keeps a state is asked again, so that it has the same."""
        before = self._driving
        if self._overseer is not None and self._overseer.scheduled:
            self._driving = self._asked().action is not None
        wasted = self._wasted(action)
        self._step(action)
        self._count(before, wasted)

    def _reset(self) -> None:
        super()._reset()
        self._driving = False
        self.totals |= {"interventions": 0.0, "corrected": 0.0}
        if self._overseer is not None:
            counters = self.buffer.counters
            begun = counters.rows - counters.open_rows if self.run_steps is None else self.run_steps
            self._overseer.begin(self._slot.env, self._raw, self._told, counters.episodes, begun)


def judge_of(spec: RunSpec) -> Judge | None:
    """Return the reward classifier that a run names, as what it says of one observation; None without one."""
    config = spec.config
    assert isinstance(config, InTheLoop)
    if config.reward_classifier is None:
        return None
    try:
        policy = load_policy(config.reward_classifier, spec.placement.tracking())
    except UserError as error:
        raise type(error)(f"reward_classifier={config.reward_classifier}: {error}") from None
    detector = SuccessDetector(
        policy,
        success_threshold=config.success_threshold,
        success_reward=config.success_reward,
        terminate_on_success=config.terminate_on_success,
    )
    wanted = policy.algorithm.observation_shape

    def judge(seen: Arrays) -> tuple[float, bool]:
        if isinstance(seen, dict) and isinstance(wanted, dict):
            seen = {name: part for name, part in seen.items() if name in wanted}
        if shape_of(seen) != wanted:
            raise SpecError(
                f"reward_classifier={config.reward_classifier} sees {describe(wanted)}, the environment shows"
                f" {describe(shape_of(seen))}"
            )
        rewards, ends = detector.judge(seen)
        return float(rewards[0]), bool(ends[0])

    return judge


def corrected(config: InTheLoop, judge: Judge | None) -> MakesPlayer:
    """Return what makes members that are corrected."""

    def make(surroundings: Surroundings, seed: int, buffer: Replay) -> Player:
        return CorrectedPlayer(surroundings, seed, buffer, config, judge)

    return make


def corrected_batch(
    pool: Pool,
    data: Data | None,
    seed: int,
    update: int,
    size: int,
    shown: int,
    counts: Sequence[int] | None = None,
) -> Batch:
    """Return a member's batch of `size`: `shown` of demonstrations and corrections first; `counts` as the pool says."""
    done = pool.draw(seed, update, size - shown, counts)
    if shown:
        assert data is not None
        demonstrated = pool.draw_shown(data.windows(update), seed, update, shown, counts)
        done = {name: together(partial(torch.cat, dim=0), [demonstrated[name], done[name]]) for name in done}
    return {name: each(lambda part: part, value) for name, value in done.items() if name != INTERVENTIONS}
