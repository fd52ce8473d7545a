"""Play episodes with a control, a policy or both, and hand each to whoever keeps it as soon as it ends.

A step's action is the control's where it says one, else the policy's. `interventions` marks the steps that a control
took from a policy. Shape suffix: T steps of an episode.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from understudy.envs.recording.control import Control, Driven, Event
from understudy.envs.recording.settings import RecordSettings
from understudy.envs.recording.view import TerminalView
from understudy.envs.rollouts.collecting import Recording, Row, Step
from understudy.envs.rollouts.factory import EnvFactory
from understudy.envs.rollouts.limits import episode_limit
from understudy.envs.simulators.deterministic import global_numpy_seed
from understudy.envs.sources.source import task_of
from understudy.envs.sources.task import Task
from understudy.errors import DatasetError, UserError
from understudy.observations import is_picture
from understudy.randomness import numpy_generator, stream_key
from understudy.registry import controls

FPS = 10.0
"""Steps a second where neither the settings nor the environment say how many."""


class Acts(Protocol):
    """A policy, as `envs.experts` has them."""

    def reset(self, env: Any, observation: Any, info: dict[str, Any], rng: np.random.Generator) -> None:
        """Begin an episode."""
        ...

    def act(self, env: Any, observation: Any, info: dict[str, Any]) -> np.ndarray:
        """Return the action [A] for what is seen."""
        ...


@dataclass(frozen=True)
class Played:
    """One episode, and how it ended."""

    columns: Row
    success: bool
    event: Event | None
    """What the control said last, if that ended it."""
    interventions: int
    """Times that the control took over from the policy."""

    @property
    def length(self) -> int:
        """T."""
        return len(self.columns["actions"])


class Stage:
    """An environment, what drives it, and the clock."""

    def __init__(self, settings: RecordSettings, policy: Acts | None = None) -> None:
        self.settings, self._policy = settings, policy
        self.task: Task = task_of(settings.env_name)
        self.fps = settings.fps or self.task.control_hz or FPS
        self.environment = self.task.rendering(settings.drawn)
        text = json.dumps(self.environment, sort_keys=True) if self.environment else ""
        steps = max(1, round(settings.control_time_s * self.fps)) if settings.control_time_s else 0
        factory = EnvFactory(settings.env_name, settings=text, max_steps=steps)
        self.env = factory(render=settings.view != "none")
        self.limit = episode_limit(self.env) or self.task.max_episode_steps
        driven = Driven.of(
            settings.env_name,
            self.env,
            names=self.task.action_names,
            fps=self.fps,
            alone=policy is None,
            expert=self.task.expert(),
        )
        self.driven = driven
        self.control: Control = controls.get(settings.control)(driven)
        self._view = TerminalView() if settings.view == "terminal" else None
        self._due = 0.0

    def start(self, number: int, seed: int) -> tuple[Any, dict[str, Any]]:
        """Reset the environment to the start of episode `number` of a recording with this seed."""
        return self.env.reset(seed=start_seed(seed, number))

    def play(self, number: int, attempt: int = 0, on_step: Callable[[str], None] | None = None) -> Played:
        """Play episode `number` until it ends; `attempt` counts how often it was thrown away before."""
        settings, seed = self.settings, self.settings.seed
        observation, info = self.start(number, seed)
        recording = Recording(observation, stored_reward=self.task.stored_reward)
        self._due = time.monotonic()
        event: Event | None = None
        solved, driving, taken = False, False, 0
        with global_numpy_seed(stream_key(seed, "recording", number, attempt)):
            self.control.begin(self.env, observation, info, numpy_generator(seed, "control", number, attempt))
            if self._policy is not None:
                self._policy.reset(self.env, observation, info, numpy_generator(seed, "recorded policy", number))
            for place in range(self.limit):
                said = self.control.read(self.env, observation, info)
                if said.event in (Event.AGAIN, Event.STOP):
                    event = said.event
                    break
                before, driving = driving, said.action is not None
                taken += driving and not before and self._policy is not None
                action = self._policy_action(observation, info) if said.action is None else said.action
                observation, reward, terminated, truncated, info = self.env.step(action)
                success = bool(info.get("success", False)) or said.event is Event.SUCCESS
                solved, event = solved or success, said.event
                if said.event is Event.SUCCESS:
                    reward = max(float(reward), settings.success_reward)
                ended = said.event is not None or (success and settings.terminate_on_success)
                step = Step(action, observation, float(reward), bool(terminated or ended), bool(truncated))
                mine = driving and self._policy is not None
                recording.add(step, {"success": np.uint8(success), "interventions": np.uint8(mine)})
                self._show(observation, on_step, f"episode {number} step {place + 1}/{self.limit} reward {reward:g}")
                self._wait()
                if step.ends:
                    break
        if not len(recording):
            return Played({"actions": np.zeros((0, 1))}, False, event, 0)
        return Played(recording.columns(), solved, event, taken)

    def play_again(self, number: int, seed: int, actions: np.ndarray) -> tuple[float, bool]:
        """Execute recorded actions [T, A] from the start of episode `number`; return the return and the success."""
        observation, info = self.start(number, seed)
        del observation
        self._due = time.monotonic()
        total, success = 0.0, bool(info.get("success", False))
        for place, action in enumerate(actions):
            observation, reward, terminated, truncated, info = self.env.step(action)
            total += self.task.stored_reward(float(reward))
            success = success or bool(info.get("success", False))
            self._show(observation, None, f"episode {number} step {place + 1}/{len(actions)} reward {reward:g}")
            self._wait()
            if terminated or truncated:
                break
        return total, success

    def rest(self) -> None:
        """Wait between two episodes, where a person drives."""
        if self.control.by_hand and self.settings.reset_time_s:
            time.sleep(self.settings.reset_time_s)

    def close(self) -> None:
        """Close the environment."""
        self.env.close()

    def _policy_action(self, observation: Any, info: dict[str, Any]) -> np.ndarray:
        if self._policy is None:
            return self.driven.neutral
        action = np.asarray(self._policy.act(self.env, observation, info), np.float32)
        return np.clip(action, self.driven.low, self.driven.high)

    def _show(self, observation: Any, on_step: Callable[[str], None] | None, line: str) -> None:
        if self._view is not None:
            self._view.show(_picture(observation, self.env), line)
        elif on_step is not None:
            on_step(line)

    def _wait(self) -> None:
        """Keep the time of the clock where a person drives; one that is late does not hurry."""
        if not self.control.by_hand:
            return
        self._due = max(self._due + 1.0 / self.fps, time.monotonic() - 1.0 / self.fps)
        time.sleep(max(0.0, self._due - time.monotonic()))


def start_seed(seed: int, number: int) -> int:
    """Return the environment's seed of episode `number` of a recording."""
    return stream_key(seed, "recorded episode", number) % 2**31


def _picture(observation: Any, env: Any) -> np.ndarray:
    if isinstance(observation, dict):
        for name, part in observation.items():
            if is_picture(name):
                return np.asarray(part)
    frame = env.render()
    if frame is None:
        raise UserError("view=terminal: the environment draws nothing")
    return np.asarray(frame)


def check_actions(actions: np.ndarray, driven: Driven, where: str) -> None:
    """Raise DatasetError where recorded actions are not of this environment."""
    if actions.ndim != 2 or actions.shape[1] != len(driven.low):
        raise DatasetError(
            f"{where}: actions of {actions.shape[1:]} numbers, {driven.env_name} takes {len(driven.low)}"
        )
