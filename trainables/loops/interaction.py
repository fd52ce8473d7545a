"""The members of a pack in their environments: one step each at a time, every step a row of the member's own buffer.

What a step does is a pure function of (seed, step, weights): its noise and the seed of its episode come from named
streams, and no member knows of another. An episode that was open at a checkpoint is played again from its first step
with the actions of its rows, and compared with them.
Shape suffixes: K members, O observation dims, A action dims.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch

from understudy.algorithm import Batch
from understudy.envs.replay.replay import Counters, Replay
from understudy.envs.rollouts.acting import Acting, Execution
from understudy.envs.rollouts.factory import EnvFactory
from understudy.envs.rollouts.limits import check_limit
from understudy.envs.rollouts.slots import Command, Slot
from understudy.errors import DatasetError, UnderstudyError
from understudy.normaliser import Normaliser
from understudy.observations import Arrays, ObservationShape, each, shape_of, together
from understudy.randomness import numpy_generator, stream_key
from understudy.trainables.packs.pack import Pack

REPLAY = "replay"
"""Folder of the buffers beside a run's rolling checkpoints: both stay when it has finished, if `keep_buffer`."""


class Surroundings:
    """What a policy sees and does in an environment, found by trying it."""

    def __init__(self, factory: EnvFactory, seed: int, *, as_stored: bool = False, sparse: bool = False) -> None:
        self.factory, self._as_stored, self._sparse = factory, as_stored, sparse
        slot = Slot(factory(), factory.env_name)
        first = slot.run(Command(0, seed=seed, check=True))
        check_limit(factory.env_name, first.limit)
        self.shape: ObservationShape = shape_of(
            Acting(factory.view, Execution(), first.observation, first.goal).shown()
        )
        self.action_dim = first.action_dim
        space = slot.env.action_space
        self.low, self.high = (np.asarray(bound, np.float32).ravel() for bound in (space.low, space.high))
        slot.env.close()
        if not np.isfinite([self.low, self.high]).all():
            raise DatasetError(f"{factory.env_name}: a method that explores needs actions with bounds, not {space}")

    def reward(self, reward: float) -> float:
        """Return an environment's reward as the run's data have it, where it learns from both."""
        stored = self.factory.stored_reward(reward) if self._as_stored else reward
        return -1.0 if self._sparse and stored != 0.0 else stored

    def normaliser(self, observations: Normaliser | None = None) -> Normaliser:
        """Return the normaliser that maps the action space to [-1, 1], observations as they are or as given."""
        middle, half = (self.low + self.high) / 2, (self.high - self.low) / 2
        actions = Normaliser("bounds", middle, 1 / half)
        return (observations or Normaliser.identity(self.shape)).with_actions(actions)


class Player:
    """One member in its environment."""

    def __init__(self, surroundings: Surroundings, seed: int, buffer: Replay) -> None:
        self._surroundings, self.seed, self.buffer = surroundings, seed, buffer
        factory = surroundings.factory
        self._slot = Slot(factory(), factory.env_name)
        self._acting: Acting | None = None
        self.decided: deque[np.ndarray] = deque()
        """Actions [A] that were decided and not done yet."""
        self.totals: dict[str, float] = {}
        """Return and length of the episode so far, and success where the task tells it."""
        self._told: dict[str, Any] = {}
        """What the environment told with its newest observation."""
        self._raw: Any = None
        """That observation, before anything of it was chosen for the policy."""

    def shown(self) -> Arrays:
        """Return what the policy decides on now; where no episode is open, one begins."""
        if self._acting is None:
            self._reset()
            self.buffer.begin(self._now())
        return self._now()

    def step(self, action: np.ndarray) -> dict[str, float] | None:
        """Take one step with an action in the environment's units; return the episode's totals where it ends."""
        outcome = self._step(action)
        recorded = outcome.recorded[0]
        reward = self._surroundings.reward(recorded.reward)
        self.buffer.add(action, reward, self._now(), terminated=recorded.terminated, ended=recorded.ends)
        if not recorded.ends:
            return None
        self._acting = None
        self.decided.clear()
        return self.totals

    def replay(self) -> None:
        """Play the buffer's open episode again, up to its newest row; UnderstudyError where it comes out otherwise."""
        if not self.buffer.counters.open_rows:
            return
        observations, actions = self.buffer.episode()
        self._reset()
        for index, action in enumerate(actions):
            recorded = each(lambda part, index=index: part[index], observations)
            if not _same(recorded, self._now()):
                raise UnderstudyError(
                    f"environment {self._surroundings.factory.env_name} does not play the same actions the same way"
                    f" twice (step {index} of its episode): the run cannot go on from its checkpoint exactly"
                )
            self._replayed(action)
        self.buffer.reopen(self._now())

    def _replayed(self, action: np.ndarray) -> None:
        """Take a step of the open episode again."""
        self._step(action)

    def close(self) -> None:
        """Close the environment."""
        self._slot.env.close()

    def _reset(self) -> None:
        """Begin the episode that the buffer's counters say."""
        view = self._surroundings.factory.view
        seed = stream_key(self.seed, "training episode", self.buffer.counters.episodes) % 2**31
        first = self._slot.run(Command(0, seed=seed, record=True))
        self._told, self._raw = first.info, first.observation
        self._acting = Acting(view, Execution(), first.observation, first.goal)
        self.totals = {"return": 0.0, "length": 0.0}

    def _step(self, action: np.ndarray) -> Any:
        assert self._acting is not None
        space = self._slot.env.action_space
        outcome = self._slot.run(Command(0, actions=action.astype(space.dtype).reshape(1, *space.shape), record=True))
        self._acting.see(outcome.observation)
        self._told, self._raw = outcome.info, outcome.observation
        self.totals["return"] += outcome.reward
        self.totals["length"] += 1
        if outcome.success is not None:
            self.totals["success"] = max(outcome.success, self.totals.get("success", 0.0))
        return outcome

    def _now(self) -> Arrays:
        assert self._acting is not None
        return self._acting.shown()


MakesPlayer = Callable[[Surroundings, int, Replay], Player]
"""Returns the player of a member, given its seed and its buffer."""


class Players:
    """All members of a pack in their environments, and the batches that their buffers give."""

    def __init__(
        self,
        surroundings: Surroundings,
        seeds: Sequence[int],
        folder: Path,
        capacity: int,
        *,
        discount: float,
        player: MakesPlayer = Player,
        marks: Sequence[str] = (),
    ) -> None:
        self._surroundings, self.seeds, self._discount = surroundings, list(seeds), discount
        shape, actions = surroundings.shape, surroundings.action_dim
        self.players = [
            player(surroundings, seed, Replay(folder / f"sd{seed:03d}", shape, actions, capacity, marks=marks))
            for seed in self.seeds
        ]
        self._kept: list[list[Counters]] = []
        """Counters of the newest checkpoints, oldest first."""
        self._unneeded = False
        """Whether a checkpoint has been written since segments were last deleted."""

    def explore(self, step: int) -> list[dict[str, float] | None]:
        """Take a uniformly random step with every member; return the totals of the episodes that end."""
        self._delete_unneeded()
        low, high = self._surroundings.low, self._surroundings.high
        ended: list[dict[str, float] | None] = []
        for player in self.players:
            player.shown()
            action = numpy_generator(player.seed, "random action", step).uniform(low, high).astype(np.float32)
            ended.append(player.step(action))
        return ended

    def act(self, pack: Pack, step: int) -> list[dict[str, float] | None]:
        """Take a step with every member's policy, noise included; return the totals of the episodes that end.

        A member is asked where all that it decided is done; a chunk is left where its episode ends.
        """
        self._delete_unneeded()
        shown = [player.shown() for player in self.players]
        asked = [index for index, player in enumerate(self.players) if not player.decided]
        if asked:
            observations = _stacked([each(np.asarray, shown[index]) for index in asked])
            shape, streams = pack.algorithm.noise_shape(), [numpy_generator(self.seeds[k], "act", step) for k in asked]
            noise = np.stack([stream.standard_normal(shape, np.float32) for stream in streams])[:, None]
            chunks = pack.act(observations, noise, asked)[:, 0, : pack.algorithm.executed]
            for index, chunk in zip(asked, chunks, strict=True):
                self.players[index].decided.extend(chunk)
        low, high = self._surroundings.low, self._surroundings.high
        return [player.step(np.clip(player.decided.popleft(), low, high)) for player in self.players]

    def sample(self, update: int, batch_size: int, horizon: int = 1) -> Batch:
        """Return a batch of update number `update`, each member's from its own buffer: arrays [K, b, ...]."""
        drawn: list[dict[str, Any]] = []
        for player in self.players:
            buffer = player.buffer
            rows = numpy_generator(player.seed, "replay", update).integers(
                buffer.first, buffer.counters.rows, batch_size
            )
            drawn.append(buffer.gather(rows, horizon, self._discount))
        return {name: together(_tensor, [one[name] for one in drawn]) for name in drawn[0]}

    # ---- checkpoints ----

    def state(self) -> list[dict[str, int]]:
        """Return where every buffer stands, as JSON."""
        return [asdict(player.buffer.counters) for player in self.players]

    def restore(self, state: Sequence[dict[str, int]]) -> None:
        """Take buffers and environments back to what `state` returned."""
        for player, counters in zip(self.players, state, strict=True):
            player.buffer.restore(Counters(**counters))
            player.replay()
        self.keep(state)

    def decided(self) -> list[list[list[float]]]:
        """Return the actions that each member has decided and not done yet, which `decide_again` takes."""
        return [[action.tolist() for action in player.decided] for player in self.players]

    def decide_again(self, decided: Sequence[Sequence[Sequence[float]]]) -> None:
        """Go on with the actions that `decided` returned."""
        for player, actions in zip(self.players, decided, strict=True):
            player.decided = deque(np.asarray(action, np.float32) for action in actions)

    def sync(self) -> None:
        """Make all rows durable."""
        for player in self.players:
            player.buffer.sync()

    def keep(self, state: Sequence[dict[str, int]]) -> None:
        """Note a checkpoint that was written: what neither it nor the one before needs is deleted at the next step.

        May be called by the thread that writes checkpoints, while this one reads the buffers.
        """
        self._kept = [*self._kept[-1:], [Counters(**counters) for counters in state]]
        self._unneeded = True

    def _delete_unneeded(self) -> None:
        if self._unneeded:
            self._unneeded = False
            for player, counters in zip(self.players, self._kept[0], strict=True):
                player.buffer.drop(counters)

    def close(self) -> None:
        """Close all environments."""
        for player in self.players:
            player.close()


def _same(one: Arrays, other: Arrays) -> bool:
    if isinstance(one, dict) and isinstance(other, dict):
        return all(np.array_equal(part, other[name]) for name, part in one.items())
    return np.array_equal(np.asarray(one), np.asarray(other))


def _stacked(shown: Sequence[Arrays]) -> Arrays:
    """Return what K members see as [K, 1, *O]."""
    return together(lambda parts: np.stack([np.asarray(part) for part in parts])[:, None], shown)


def _tensor(arrays: Sequence[np.ndarray]) -> torch.Tensor:
    """Return K members' arrays as one tensor; that of a single member is not copied."""
    return torch.as_tensor(np.stack(arrays) if len(arrays) > 1 else arrays[0][None])
