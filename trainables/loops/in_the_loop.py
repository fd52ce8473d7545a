"""Training with somebody in the loop (HIL-SERL): half of each batch are demonstrations and corrections.

Without actors one process acts, learns and is corrected, exactly as `online.py` does, and resumes bit for bit. With
actors this process learns from what they send: see `learner.py`.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from understudy import checkpoints
from understudy.algorithm import Batch
from understudy.envs.recording.overseer import SCRIPTED
from understudy.envs.replay.pool import Pool
from understudy.errors import CheckpointError, SpecError
from understudy.observations import together
from understudy.registry import loops
from understudy.runs.directory import RunDir
from understudy.spec.in_the_loop import InTheLoop
from understudy.spec.run import RunSpec
from understudy.trainables.loops.acting_for_learner import act_for_learner
from understudy.trainables.loops.actors_on_ray import RayActors
from understudy.trainables.loops.actors_remote import RemoteActors
from understudy.trainables.loops.correcting import MARKS, CorrectedPlayer, corrected, corrected_batch, judge_of
from understudy.trainables.loops.data import Data, describe_environment
from understudy.trainables.loops.inbox import Sees
from understudy.trainables.loops.interaction import REPLAY, Surroundings
from understudy.trainables.loops.learner import Actors, FromActors
from understudy.trainables.loops.ledger import ledger_kept, replay_ledger
from understudy.trainables.loops.online import FromEnvironments, OnlineLoop
from understudy.trainables.loops.session import Feed
from understudy.trainables.loops.steps import Training


@loops.register("in_the_loop")
class InTheLoopLoop(OnlineLoop):
    """Train every seed in an environment of its own, where it is corrected."""

    def __init__(self, spec: RunSpec) -> None:
        super().__init__(spec)
        assert isinstance(spec.config, InTheLoop)
        factory = self.surroundings.factory
        if spec.config.takeover == SCRIPTED and factory.task.expert() is None:
            raise SpecError(
                f"takeover=scripted: {factory.env_name} has no scripted expert; takeover=keyboard drives it"
            )
        self.judge = judge_of(spec)

    def _feed(self, training: Training) -> Feed:
        """Return where updates come from."""
        config = self.spec.config
        assert isinstance(config, InTheLoop)
        if config.has_actors:
            sees = Sees(self.surroundings.shape, self.surroundings.action_dim)
            return FromActors(training, sees, self.experience.data, self._actors(training, config))
        return CorrectedFeed(training, self.surroundings, self.experience.data, config, self)

    @staticmethod
    def act(spec: RunSpec, *, patience: float, say: Callable[[str], None], poll: Callable[[], None]) -> int:
        """Act for the learner of this run until it has finished; return the steps that were taken."""
        config = spec.config
        assert isinstance(config, InTheLoop)
        return act_for_learner(spec, config.actor_address, patience=patience, say=say, poll=poll)

    @classmethod
    def replay(cls, spec: RunSpec, path: Path) -> tuple[int, float]:
        """Do the updates of a run again that kept a ledger; return their number, and how far off the weights are."""
        if not ledger_kept(spec):
            raise SpecError(f"{path}: kept no ledger; replay=ledger does, for a run with actors")
        run, loop = RunDir(path), cls(spec)
        saved = checkpoints.load_newest(run.resume)
        if saved is None:
            raise CheckpointError(f"{path}: has no checkpoint and no buffers any more; keep_buffer=true keeps them")
        with tempfile.TemporaryDirectory() as folder:
            training = Training(spec, RunDir(folder), loop.experience, loop.algorithm, loop.device)
            sees = Sees(loop.surroundings.shape, loop.surroundings.action_dim)
            count = replay_ledger(training, run.resume / REPLAY, saved, sees, loop.experience.data)
        off = 0.0
        for member, state in enumerate(saved["members"]):
            mine, theirs = training.pack.member_state(member)["weights"], state["weights"]
            off = max(off, *(float((mine[name] - theirs[name]).abs().max()) for name in theirs))
        return count, off

    def _actors(self, training: Training, config: InTheLoop) -> Actors:
        """Return those who act for this learner."""
        environment = describe_environment(self.surroundings.factory)
        facts = {"normaliser": training.pack.normaliser.to_dict(), "environment": environment}
        kind = RemoteActors if config.actor_address else RayActors
        return kind(self.spec, facts, training.run.path)


class CorrectedFeed(FromEnvironments):
    """Updates on what the members have done so far, were shown and were corrected to."""

    def __init__(
        self,
        training: Training,
        surroundings: Surroundings,
        data: Data | None,
        config: InTheLoop,
        loop: InTheLoopLoop,
    ) -> None:
        super().__init__(training, surroundings, data, player=corrected(config, loop.judge), marks=MARKS)
        discount = training.spec.data.discount
        self._pools = [Pool([player.buffer], discount) for player in self._players.players]
        for player in self._players.players:
            if isinstance(player, CorrectedPlayer) and player.overseer is not None:
                player.overseer.control.__enter__()

    def _act(self, step: int, exploring: bool) -> Sequence[Mapping[str, Any] | None]:
        """Take a step with every member's policy, untrained at first: somebody corrects it, and noise explores."""
        return self._players.act(self._training.pack, step)

    def _batch(self, update: int) -> Batch:
        """Return the batch of an update: a share of demonstrations and corrections, then of all that was done."""
        size = self._training.spec.config.batch_size
        drawn: list[Batch] = []
        for pool, seed in zip(self._pools, self._training.seeds, strict=True):
            drawn.append(corrected_batch(pool, self._data, seed, update, size, self._offline))
        return {name: together(torch.stack, [one[name] for one in drawn]) for name in drawn[0]}

    def close(self) -> None:
        """Close the environments, and the devices of those who correct."""
        for player in self._players.players:
            if isinstance(player, CorrectedPlayer) and player.overseer is not None:
                player.overseer.control.__exit__()
        super().close()
