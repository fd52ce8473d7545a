"""A learner and its actors, all in this process: whose steps each seed learns from, and how far actors may be ahead."""

from __future__ import annotations

import itertools
from collections.abc import Collection, Sequence
from pathlib import Path

import numpy as np
import pytest

from understudy.errors import Preempted
from understudy.runs.directory import RunDir, read_csv
from understudy.runs.stop import STOP, on_signals
from understudy.spec.in_the_loop import InTheLoop
from understudy.spec.keys import build_run
from understudy.spec.run import RunSpec
from understudy.trainables.loops.actor import Actor
from understudy.trainables.loops.data import describe_environment
from understudy.trainables.loops.fragments import Fragment
from understudy.trainables.loops.in_the_loop import InTheLoopLoop
from understudy.trainables.loops.interaction import REPLAY
from understudy.trainables.loops.learner import Actors, Published
from understudy.trainables.loops.ledger import Ledger
from understudy.trainables.loops.steps import Training

FRAGMENT = 5
LIVES = itertools.count()


class InThisProcess:
    """Actors that are always ready: whoever is asked acts at once."""

    def __init__(self, spec: RunSpec, facts: dict) -> None:
        assert isinstance(spec.config, InTheLoop)
        count = spec.config.actors * len(spec.all_seeds)
        self.actors = [Actor(spec, number, f"life {next(LIVES)}", facts) for number in range(count)]
        self.lives = dict.fromkeys(range(count), 1)
        self.polls = 0

    def start(self, weights: Sequence[Published]) -> None:
        self.publish(weights)

    def publish(self, weights: Sequence[Published]) -> None:
        for number, actor in enumerate(self.actors):
            mine = weights[number % len(weights)]
            actor.load(mine.version, mine.flat, mine.buffers, mine.steps)

    def poll(self, numbers: Collection[int], seconds: float) -> list[Fragment]:
        self.polls += 1
        return [self.actors[number].collect() for number in sorted(numbers)]

    def close(self) -> None:
        for actor in self.actors:
            actor.close()


class Loop(InTheLoopLoop):
    """The loop of hilserl, with such actors."""

    def _actors(self, training: Training, config: InTheLoop) -> Actors:
        environment = describe_environment(self.surroundings.factory)
        return InThisProcess(self.spec, {"normaliser": training.pack.normaliser.to_dict(), "environment": environment})


def _spec(tmp_path: Path, **words: object) -> RunSpec:
    return build_run(
        {
            **{"algo": "hilserl", "env_name": "Pendulum-v1", "offline_ratio": 0.0, "hidden_dims": [8], "batch_size": 8},
            **{"training_steps": 60, "start_training": 20, "utd_ratio": 2, "eval_episodes": 0, "eval_max_steps": 12},
            **{"publish_interval": 4, "fragment_steps": FRAGMENT, "replay": "ledger", "log_interval": 10},
            **{"seeds": [4, 9], "num_actors": 2, "save_dir": str(tmp_path), "tracking_uri": "", **words},
        }
    )


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> RunDir:
    spec = _spec(tmp_path_factory.mktemp("trained"))
    run = RunDir.create(spec)
    Loop(spec).run(run.path)
    return run


def test_each_seed_learns_from_actors_of_its_own(trained: RunDir) -> None:
    for seed, numbers in ((4, {0, 2}), (9, {1, 3})):
        folder = trained.path / f"sd{seed:03d}"
        episodes = read_csv(folder / "env.csv")
        assert {row["actor"] for row in episodes} == numbers
        assert max(row["parameter_age"] for row in episodes) <= 1
        updates = read_csv(folder / "online_agent.csv")
        assert [row["step"] for row in updates] == [30, 40, 50, 60]
        assert updates[-1]["actor_lives"] == 2
    first, second = (read_csv(trained.path / name / "online_agent.csv")[-1] for name in ("sd004", "sd009"))
    assert first["critic_loss"] != second["critic_loss"]


def test_actors_that_are_always_ready_are_never_further_ahead_than_a_fragment_each(trained: RunDir) -> None:
    noted = Ledger.read(trained.path / "resume" / REPLAY, 4)
    assert noted[:, 0].tolist() == list(range(1, 81))
    steps = 20 + (noted[:, 0] + 1) // 2
    for member in range(2):
        ahead = noted[:, 1 + member :: 2].sum(1) - steps
        assert ahead.min() >= 0
        assert ahead.max() <= 2 * FRAGMENT


def test_the_updates_of_every_seed_can_be_done_again(trained: RunDir) -> None:
    assert Loop.replay(trained.spec(), trained.path) == (80, 0.0)


def test_one_seed_with_actors_has_its_files_in_the_runs_own_folder(tmp_path: Path) -> None:
    spec = _spec(tmp_path, seeds=[9])
    run = RunDir.create(spec)
    Loop(spec).run(run.path)
    assert {row["actor"] for row in read_csv(run.path / "env.csv")} == {0, 1}
    assert np.isfinite(read_csv(run.path / "online_agent.csv")[-1]["critic_loss"])


def test_a_learner_that_is_told_to_stop_while_it_waits_writes_its_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = _spec(tmp_path, seeds=[9], num_actors=1, checkpoint_seconds=1000)
    run = RunDir.create(spec)

    def nobody_comes(self: InThisProcess, numbers: Collection[int], seconds: float) -> list[Fragment]:
        self.polls += 1
        if self.polls > 8:
            (run.path / STOP).write_text("SIGTERM")
            return []
        return [self.actors[number].collect() for number in numbers]

    monkeypatch.setattr(InThisProcess, "poll", nobody_comes)
    with on_signals(run.path), pytest.raises(Preempted, match=r"stopped by SIGTERM at step 34; `understudy resume"):
        Loop(spec).run(run.path)
    assert [path.name for path in (run.path / "resume").glob("step_*.pt")] == ["step_34.pt"]
    monkeypatch.undo()
    assert Loop(spec).run(run.path).step == 60
    assert Loop.replay(spec, run.path) == (80, 0.0)


def test_a_learner_goes_on_without_an_actor_that_is_slow_and_leaves_out_what_is_of_another_shape(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    spec = _spec(tmp_path, seeds=[9])
    run = RunDir.create(spec)
    whole = InThisProcess.poll

    def one_is_slow_and_one_odd_at_first(
        self: InThisProcess, numbers: Collection[int], seconds: float
    ) -> list[Fragment]:
        found = [fragment for fragment in whole(self, numbers, seconds) if fragment.header.actor != 1]
        if self.polls <= 2:
            for fragment in found:
                fragment.arrays["seen/state"] = fragment.arrays["seen/state"][:, :2]
        return found

    monkeypatch.setattr(InThisProcess, "poll", one_is_slow_and_one_odd_at_first)
    with caplog.at_level("WARNING", "understudy"):
        assert Loop(spec).run(run.path).step == 60
    assert [record.getMessage() for record in caplog.records] == [
        "actor 0 sees (2,), the policy (3,): its steps are left out"
    ]
    assert {row["actor"] for row in read_csv(run.path / "env.csv")} == {0}
    assert read_csv(run.path / "online_agent.csv")[-1]["lost_fragments"] == 3
