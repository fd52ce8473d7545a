"""How a policy acts in an episode: what it is shown, when it decides, and which action of its chunks is executed.

The one place for evaluations, demonstrations, online collection and serving. An `Acting` is the state of one episode;
`decide` asks the policy for all episodes that need a decision.

What a policy decides depends on nothing but what it is shown, the seed and the episode. For that, a decision's noise is
a pure function of (seed, episode, decision), and the policy is always called on blocks of ROWS rows in which an episode
has a fixed row, so that the shapes, and with them the float arithmetic, never change.

Shape suffixes: K members, R rows of a block, H steps of a chunk, A action dims, O observation dims.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from understudy.envs.rollouts.ensembling import TemporalEnsemble
from understudy.errors import DatasetError, UnderstudyError, did_you_mean
from understudy.language import Told
from understudy.observations import GOAL, PIXELS, STATE, Arrays, each, is_picture, with_text
from understudy.randomness import numpy_generator

if TYPE_CHECKING:
    from understudy.algorithm import Algorithm

ROWS = 16
Act = Callable[[Arrays, np.ndarray, Sequence[int]], np.ndarray]
"""act(observations [K, R, *O], noise [K, R, *noise_shape], members) -> actions [K, R, H, A]; K == len(members)."""


@dataclass(frozen=True)
class View:
    """What a policy is shown of an environment; the environment's side of `understudy.envs.windows.views`."""

    obs_horizon: int = 1
    """Observations that it sees at once, oldest first; before an episode's start the first one is repeated."""
    with_goal: bool = False
    """Whether it sees the episode's goal after them."""
    cameras: tuple[str, ...] | None = None
    """The cameras that it sees; None for all there are."""
    use_proprio: bool = True
    """Whether it sees the state beside pictures."""

    def choose(self, observation: Any) -> Any:
        """Return the parts that are shown; a single one is shown as it is, unless a goal will join it."""
        if not isinstance(observation, Mapping):
            return observation
        known = [name for name in observation if is_picture(name)]
        for camera in self.cameras or ():
            if camera not in known:
                raise DatasetError(f"the environment has no camera {camera!r}{did_you_mean(camera, known)}")
        wanted = known if self.cameras is None else list(self.cameras)
        state = STATE in observation and (self.use_proprio or not wanted)
        names = [*([STATE] if state else []), *wanted]
        if len(names) == 1 and not (self.with_goal and wanted):
            return observation[names[0]]
        return {name: observation[name] for name in names}

    def join(self, seen: Sequence[Any], goal: Any = None) -> Any:
        """Return chosen observations, oldest first, as one, with the goal after them where the policy sees it."""
        if isinstance(seen[0], Mapping):
            joined: Any = {name: join_history([one[name] for one in seen]) for name in seen[0]}
        else:
            joined = join_history(seen)
        return join_goal(joined, goal) if self.with_goal else joined


@dataclass(frozen=True)
class Execution:
    """How a policy's decisions become actions."""

    noise_shape: tuple[int, ...] = ()
    """Shape of the standard normal noise that one decision takes."""
    temperature: float = 1.0
    """Scale of that noise; 0 is deterministic."""
    executed: int = 1
    """Actions of a chunk that are executed before the policy is asked again."""
    ensemble: float | None = None
    """Coefficient of temporal ensembling, with which the policy is asked at each step; None: the newest chunk alone."""
    told: Told | None = None
    """How the policy is told the task's text; None: it is told none."""

    @classmethod
    def of(cls, algorithm: Algorithm, temperature: float | None = None) -> Execution:
        """Return how an algorithm's policies act; without a temperature, with their own."""
        config = algorithm.config
        return cls(
            noise_shape=tuple(algorithm.noise_shape()),
            temperature=float(config.acting_temperature if temperature is None else temperature),
            executed=algorithm.executed,
            ensemble=config.chunks.temporal_ensemble_coeff,
            told=Told.of(config.language),
        )


class Acting:
    """One episode of one member of a policy: what it has been shown, and what it has decided and not done yet."""

    def __init__(
        self,
        view: View,
        execution: Execution,
        observation: Any,
        goal: Any = None,
        *,
        text: str | None = None,
        member: int = 0,
        episode: int = 0,
    ) -> None:
        """Begin an episode; its first observation fills the history.

        `text` is what the environment tells of its task: UserError where a policy needs one and none is known.
        """
        self.view, self.execution = view, execution
        self.member, self.episode = member, episode
        self.decisions = 0
        self._goal = goal
        self.text = None if execution.told is None else execution.told.chosen(text)
        """The task's text that the policy is told; None where it is told none."""
        self._vector = None if execution.told is None else execution.told.vector(text)
        self._seen: deque[Any] = deque([view.choose(observation)] * view.obs_horizon, maxlen=view.obs_horizon)
        self._queue: deque[np.ndarray] = deque()
        self._ensemble = None if execution.ensemble is None else TemporalEnsemble(execution.ensemble)

    def tell(self, text: str) -> None:
        """Tell the policy another text from its next decision on, where it goes by what is told."""
        told = self.execution.told
        if told is not None and told.chosen(text) != self.text:
            self.text, self._vector = told.chosen(text), told.vector(text)

    def see(self, observation: Any) -> None:
        """Take what followed an action; the oldest observation is forgotten."""
        self._seen.append(self.view.choose(observation))

    def shown(self) -> Any:
        """Return what the policy decides on now."""
        seen = self.view.join(self._seen, self._goal)
        return seen if self._vector is None else with_text(seen, self._vector)

    @property
    def needs_decision(self) -> bool:
        """Whether everything that was decided has been executed."""
        return not self._queue

    def decided(self, chunk_HA: np.ndarray) -> None:
        """Take the policy's newest chunk; UnderstudyError if it holds NaN or infinity."""
        self.decisions += 1
        if self._ensemble is not None:
            chosen = self._ensemble.add(chunk_HA)[None]
        else:
            chosen = chunk_HA[: self.execution.executed]
        if not np.isfinite(chosen).all():
            raise UnderstudyError(f"the policy of member {self.member} returned NaN or infinite actions")
        self._queue.extend(chosen)

    def next_action(self) -> np.ndarray:
        """Return the next action [A] that was decided, which is then done."""
        return self._queue.popleft()

    def next_actions(self) -> np.ndarray:
        """Return all actions that were decided [H, A], which are then done."""
        actions = np.stack(self._queue)
        self._queue.clear()
        return actions


def decide(act: Act, episodes: Sequence[Acting], seed: int) -> None:
    """Ask the policy for every episode that needs a decision, block by block."""
    blocks: dict[int, list[Acting]] = {}
    for acting in episodes:
        if acting.needs_decision:
            blocks.setdefault(acting.episode // ROWS, []).append(acting)
    for block in blocks.values():
        _decide_block(act, block, seed)


def _decide_block(act: Act, block: Sequence[Acting], seed: int) -> None:
    members = sorted({acting.member for acting in block})
    places = [(members.index(acting.member), acting.episode % ROWS) for acting in block]
    actions = ask(act, block, places, members, ROWS, seed)
    for place, acting in zip(places, block, strict=True):
        acting.decided(actions[place])


def ask(
    act: Act,
    episodes: Sequence[Acting],
    places: Sequence[tuple[int, int]],
    members: Sequence[int],
    rows: int,
    seed: int,
) -> np.ndarray:
    """Return the policy's chunks [K, rows, H, A] of what each episode is shown, each at its place (member, row)."""
    execution = episodes[0].execution
    leading = (len(members), rows)
    shown = [acting.shown() for acting in episodes]
    observations = each(lambda part: np.zeros((*leading, *part.shape), part.dtype), shown[0])
    noise = np.zeros((*leading, *execution.noise_shape), np.float32)
    for place, acting, observation in zip(places, episodes, shown, strict=True):
        _put(observation, observations, place)
        if execution.temperature:
            stream = numpy_generator(seed, "act", acting.episode, acting.decisions)
            drawn = stream.standard_normal(execution.noise_shape, np.float32)
            noise[place] = drawn * np.float32(execution.temperature)
    actions = np.asarray(act(observations, noise, members))
    if actions.shape[:2] != leading or actions.ndim != 4 or actions.shape[2] < execution.executed:
        expected = f"{leading} + (at least {execution.executed}, A)"
        raise UnderstudyError(f"the policy returned actions {actions.shape}, expected {expected}")
    return actions


def _put(observation: Arrays, into: Arrays, place: tuple[int, int]) -> None:
    """Copy one observation to its place in a block."""
    if isinstance(observation, dict) and isinstance(into, dict):
        for name, part in observation.items():
            into[name][place] = part
    elif not isinstance(into, dict):
        into[place] = observation


def join_history(seen: Sequence[np.ndarray]) -> np.ndarray:
    """Return observations, oldest first, as one: pictures as a sequence [n, H, W, C], states along the last axis."""
    if seen[0].ndim >= 3 and len(seen) > 1:
        return np.stack(seen)
    return np.concatenate(seen, axis=-1)


def join_goal(observation: Any, goal: Any) -> Any:
    """Return an observation with its goal: joined to a state, as parts `goal/<camera>` beside pictures."""
    parts, goals = _parts(observation), {} if goal is None else _parts(goal)
    pictures = [name for name in parts if is_picture(name)]
    missing = [name for name in pictures or [STATE] if name not in goals]
    if missing:
        raise DatasetError(f"the environment tells no goal of {missing[0]!r}; use goal_relabelling=none")
    if not pictures:
        state = np.asarray(observation)
        return np.concatenate([state, np.asarray(goals[STATE]).astype(state.dtype)], axis=-1)
    return parts | {GOAL + name: goals[name] for name in pictures}


def _parts(observation: Any) -> dict[str, Any]:
    """Return the named parts of an observation or a goal."""
    if isinstance(observation, Mapping):
        return dict(observation)
    return {PIXELS if observation.ndim >= 3 else STATE: observation}
