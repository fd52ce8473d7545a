"""Act with a trained policy in an environment loop of one's own, as evaluations do: the same histories, chunks,
ensembling, noise and arithmetic.

    runner = policy.runner()
    observation, info = env.reset(seed=0)
    runner.reset(observation, info)
    while not done:
        action = runner.act(observation)
        observation, reward, terminated, truncated, info = env.step(action)
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from understudy.envs.rollouts.acting import Acting, Execution, View, decide
from understudy.envs.rollouts.collecting import goal_of, stored
from understudy.errors import UserError
from understudy.language import text_of
from understudy.observations import GOAL, STATE, describe, each, has_pictures, is_picture, shape_of, without_text
from understudy.policy import Policy


class Runner:
    """One member of a policy in one episode after another.

    It sees what it was trained on, of whatever number types the environment gives: the last `obs_horizon` observations,
    and the episode's goal where it takes one. Episode e of a runner with `seed` equals that of an evaluation with
    `eval_seed=seed`, where the environment is reset with `seed + e`.
    """

    def __init__(
        self, policy: Policy, member: int = 0, temperature: float | None = None, seed: int = 1_000_000
    ) -> None:
        if not policy.algorithm.acts:
            raise UserError(f"{policy.algorithm.name} gives no actions: it only judges")
        if not 0 <= member < len(policy):
            raise UserError(f"member {member} of a policy with {len(policy)}: allowed are 0 to {len(policy) - 1}")
        self.policy, self.member, self.seed = policy, member, seed
        self.episode = -1
        """Number of the episode that is played, from 0; -1 before the first."""
        self._execution = Execution.of(policy.algorithm, temperature)
        self._acting: Acting | None = None
        self._first = True
        self._text: str | None = None
        self._given: Any = None
        """Shape of the observation that the episode began with."""

    def reset(
        self, observation: Any, info: Mapping[str, Any] | None = None, *, where: str = "this environment"
    ) -> None:
        """Begin an episode with its first observation; `info` is the reset's, which may tell a goal and a text.

        UserError where the policy was trained on observations of another shape; `where` is for the message.
        """
        self.episode += 1
        self._text = text_of(info or {})
        view, goal, wanted = self._view(observation), goal_of(dict(info or {})), self._shape
        seen = each(stored, observation)
        acting = self._begin(view, seen, goal)
        if goal is not None and shape_of(acting.shown()) != wanted:  # many tasks tell one that policies do not need
            told = self._begin(replace(view, with_goal=True), seen, goal)
            acting = told if shape_of(told.shown()) == wanted else acting
        if shape_of(acting.shown()) != wanted:
            made_for = f" (it was trained on {self.policy.env_name})" if self.policy.env_name else ""
            given = describe(shape_of(acting.shown()))
            raise UserError(f"the policy has observations {describe(wanted)}, {where} has {given}{made_for}")
        self._acting, self._first, self._given = acting, True, shape_of(seen)

    def act(self, observation: Any) -> np.ndarray:
        """Return the next action [A] float32, asking the policy where its last chunk is used up.

        UserError for an observation of another shape than the reset's.
        """
        acting = self.see(observation)
        self._decide(acting)
        return acting.next_action()

    def see(self, observation: Any) -> Acting:
        """Take what is seen now, the reset's observation at first, and return the episode that it belongs to."""
        if self._acting is None:
            self.reset(observation)
        acting = self._acting
        assert acting is not None
        seen = each(stored, observation)
        if (given := shape_of(seen)) != self._given:
            raise UserError(f"act() was given observations {describe(given)}, reset() {describe(self._given)}")
        if not self._first:
            acting.see(seen)
        self._first = False
        return acting

    __call__ = act

    def _decide(self, acting: Acting) -> None:
        decide(self.policy.act_members, [acting], self.seed)

    @property
    def _shape(self) -> Any:
        return self.policy.algorithm.observation_shape

    def _begin(self, view: View, seen: Any, goal: Any) -> Acting:
        return Acting(view, self._execution, seen, goal, text=self._text, member=self.member, episode=self.episode)

    def _view(self, observation: Any) -> View:
        """Return what the policy was shown in training, of an environment that may show more."""
        spec, shape = self.policy.spec, without_text(self._shape)
        length = int(spec.get("obs_horizon", 1))
        if not isinstance(observation, Mapping):
            return View(length)
        if isinstance(shape, dict):
            cameras = tuple(name for name in shape if is_picture(name) and not name.startswith(GOAL))
            return View(length, cameras=cameras, use_proprio=STATE in shape)
        if not has_pictures(shape):
            return View(length, cameras=())
        known = [name for name in observation if is_picture(name)]
        return View(length, cameras=tuple((spec.get("cameras") or known)[:1]), use_proprio=False)


def play(
    policy: Policy, env: Any, episodes: int, *, seed: int = 1_000_000, filmed: int = 0, frame_skip: int = 3
) -> tuple[dict[str, float], list[dict[str, np.ndarray]], list[np.ndarray]]:
    """Play episodes in one environment; return the means, each episode's columns, and the videos of the first ones.

    A video is [T, height, width, 3] of what `env.render()` gives every `frame_skip` steps.
    """
    runner = Runner(policy, seed=seed)
    played: list[dict[str, np.ndarray]] = []
    videos: list[np.ndarray] = []
    solved: list[float] = []
    for number in range(episodes):
        observation, info = env.reset(seed=seed + number)
        runner.reset(observation, info)
        rows: list[tuple[Any, np.ndarray, float]] = []
        frames: list[np.ndarray] = []
        ended, success = False, None
        while not ended:
            action = runner.act(observation)
            if number < filmed and len(rows) % frame_skip == 0:
                frames.append(np.asarray(env.render()))
            following, reward, terminated, truncated, info = env.step(action)
            rows.append((observation, action, float(reward)))
            observation, ended = following, bool(terminated or truncated)
            success = max(success or 0.0, float(info["success"])) if "success" in info else success
        seen, actions, rewards = zip(*rows, strict=True)
        played.append({"observations": np.asarray(seen), "actions": np.stack(actions), "rewards": np.asarray(rewards)})
        videos += [np.stack(frames)] if frames else []
        solved += [success] if success is not None else []
    means = {
        "return": float(np.mean([episode["rewards"].sum() for episode in played])),
        "length": float(np.mean([len(episode["rewards"]) for episode in played])),
    }
    return {**means, **({"success": float(np.mean(solved))} if solved else {})}, played, videos
